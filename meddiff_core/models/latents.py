"""Latents as distributions: mean and log-variance of every training and validation volume.

A stored single draw would freeze the posterior's noise into the training set; these are drawn anew each
time a volume is seen. The scale of the latents is measured over the whole training set, never one batch.
Moved volumes are encoded as volumes: a mirrored latent is not the latent of a mirrored volume.
"""

from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.artefacts import digest_of, writing_folder
from meddiff_core.contract import Contract, Spacing
from meddiff_core.data.store import create_store, create_volumes, digest_volume, open_array, read_volume, read_volumes
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.conditions import MOVES
from meddiff_core.models.denoiser import LatentScale
from meddiff_core.models.images import load_images
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import FloatArray, Images, Latents, Progress, Volumes

ARRAYS = ("mean", "log_variance")
MOVED = "train_moved"
"""Where the moved volumes of the train side lie."""
VARIANTS = 4
"""Moved volumes per volume."""
FURTHEST = 2
"""Voxels of the largest shift, of the length that they have along the finest axis."""
WIDEST, FARTHEST = 1.5, 0.5
"""How far latents may be from the scale of a denoiser: factor of the deviation, and means in units of it."""
Moves = Float[Tensor, "rows 4"]
"""Whether each volume is mirrored left to right (0 or 1), and its shift along i, j, k as a share of the furthest."""
AXES = ("sample", "channel", "i", "j", "k")


def encode_latents(
    path: Path,
    network: Autoencoder,
    sides: Mapping[str, Volumes],
    contract: Contract,
    device: str = "cpu",
    moves: Moves | None = None,
) -> Generator[Progress, None, str]:
    """Write `SIDE/mean` and `SIDE/log_variance` of every side, and return the digest of them all.

    With `moves`, (variants * n, 4) for the n volumes of the train side, also those of the moved volumes.
    """
    plans = [(side, volumes, torch.zeros(len(volumes), MOVES)) for side, volumes in sides.items()]
    if moves is not None:
        plans.append((MOVED, sides["train"], moves))
    total, digests = sum(len(rows) for _, _, rows in plans), list[str]()
    shape = (network.shape.latent_channels, *network.shape.latent_size(contract.size))
    with writing_folder(path) as partial:
        root = create_store(partial)
        for side, volumes, rows in plans:
            group = root.create_group(side)
            arrays = [create_volumes(group, name, len(rows), shape, "float32", AXES) for name in ARRAYS]
            for row, move in enumerate(rows):
                images = moved(load_images(volumes, [row % len(volumes)], contract), move, contract.spacing_mm)
                for array, values in zip(arrays, _posterior(network, images.to(device)), strict=True):
                    array[row] = values
                    digests.append(digest_volume(values))
                yield Progress("encode latents", len(digests) // len(ARRAYS), total)
            if side == MOVED:
                create_volumes(group, "moves", 1, tuple(rows.shape), "float32", ("all", "row", "move"))[0] = (
                    rows.numpy()
                )
    return digest_of(digests)


@torch.inference_mode()
def _posterior(network: Autoencoder, images: Images) -> list[FloatArray]:
    """Mean and log-variance (z, u, v, w) of one volume."""
    return [part[0].float().cpu().numpy() for part in network.encode(images)]


@dataclass(frozen=True)
class LatentSet:
    """The latents of one side, in memory: they are a small fraction of the volumes."""

    mean: Latents
    std: Latents

    @classmethod
    def open(cls, path: Path, side: str) -> "LatentSet":
        """Read what `encode_latents` wrote."""
        mean, log_variance = (torch.from_numpy(read_volumes(open_array(path, f"{side}/{name}"))) for name in ARRAYS)
        return cls(mean, (0.5 * log_variance).exp())

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, indices: Tensor, generator: torch.Generator) -> Latents:
        """A draw from the posterior of each volume."""
        mean, std = self.mean[indices], self.std[indices]
        return mean + std * torch.randn(mean.shape, generator=generator)

    def scale(self) -> LatentScale:
        """Mean and deviation per channel of what `draw` gives: spread of the means plus posterior variance."""
        means = self.mean.double().movedim(1, 0).flatten(1)
        variance = means.var(dim=1, correction=0) + self.std.double().square().movedim(1, 0).flatten(1).mean(dim=1)
        return LatentScale(mean=tuple(means.mean(dim=1).tolist()), std=tuple(np.sqrt(variance.numpy()).tolist()))


def require_scale(scale: LatentScale, latents: LatentSet) -> None:
    """Refuse latents that a scale would not bring near to mean 0 and deviation 1, channel by channel.

    A denoiser is made for data of unit deviation; on others it learns the wrong noise levels and says nothing of it.

    Raises:
        ConfigurationError: names the channel, the mean and deviation that the scale is for, and those found.
    """
    found = latents.scale()
    for channel, (mean, std) in enumerate(zip(scale.mean, scale.std, strict=True)):
        other_mean, other_std = found.mean[channel], found.std[channel]
        alike = 0 < std < float("inf") and std / WIDEST < other_std < std * WIDEST
        if not alike or abs(other_mean - mean) > FARTHEST * std:
            what = f"latent channel {channel} must have about mean {mean:.3g} and deviation {std:.3g}"
            raise ConfigurationError(f"{what}, has {other_mean:.3g} and {other_std:.3g}")


@dataclass(frozen=True)
class MovedLatents:
    """Latents of moved volumes of the train side, `variants` times all of them, and how each was moved."""

    latents: LatentSet
    moves: Moves
    count: int
    """Volumes of the train side."""

    @classmethod
    def open(cls, path: Path) -> "MovedLatents | None":
        """Read what `encode_latents` wrote of moved volumes; None if the study declares none."""
        if not (path / MOVED).exists():
            return None
        moves = torch.from_numpy(read_volume(open_array(path, f"{MOVED}/moves"), 0))
        return cls(LatentSet.open(path, MOVED), moves, int(open_array(path, "train/mean").shape[0]))

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Latents, Moves]:
        """A draw from the posterior of one variant of each volume, with its move."""
        variants = torch.randint(len(self.latents) // self.count, indices.shape, generator=generator)
        rows = variants * self.count + indices
        return self.latents.draw(rows, generator), self.moves[rows]


def draw_moves(count: int, augmentations: Collection[str], seed: int) -> Moves | None:
    """Moves of `VARIANTS` variants of `count` volumes, from the kinds that the study declares."""
    if not augmentations:
        return None
    generator = generator_for(seed, "moves")
    mirrored = torch.randint(2, (VARIANTS * count, 1), generator=generator)
    shifts = torch.randint(-FURTHEST, FURTHEST + 1, (VARIANTS * count, 3), generator=generator) / FURTHEST
    return torch.cat([mirrored * ("mirror" in augmentations), shifts * ("shift" in augmentations)], dim=1)


def moved(images: Images, move: Float[Tensor, "4"], spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> Images:
    """Images mirrored and shifted; what a shift uncovers repeats the border."""
    if move[0]:
        images = images.flip(2)
    finest = min(spacing_mm)
    for axis, (share, spacing) in enumerate(zip(move[1:].tolist(), spacing_mm, strict=True), start=2):
        places = torch.arange(images.shape[axis]) - round(share * FURTHEST * finest / spacing)
        images = images.index_select(axis, places.clamp(0, images.shape[axis] - 1))
    return images
