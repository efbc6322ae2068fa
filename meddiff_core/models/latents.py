"""Latents as distributions: mean and log-variance of every training and validation volume.

A single stored sample would freeze the posterior's noise into the training set; the posterior is sampled anew each
time a volume is seen. The scale of the latents is measured over the whole training set, never one batch.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from meddiff_core.artefacts import digest_of, writing_folder
from meddiff_core.contract import Contract
from meddiff_core.data.store import create_store, create_volumes, digest_volume, open_array, read_volume, read_volumes
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.augmentation import AugmentVectors, augment
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.conditions import AUGMENT_DIM
from meddiff_core.models.denoiser import LatentScale
from meddiff_core.models.images import load_images
from meddiff_core.types import FloatArray, Images, Latents, Progress, Volumes

ARRAYS = ("mean", "log_variance")
AUGMENTED = "train_moved"
"""Group of the augmented volumes of the train side, by the name that it has always had on disk."""
WIDEST, FARTHEST = 1.5, 0.5
"""How far latents may be from the scale of a denoiser: factor of the standard deviation, and means in units of it."""
AXES = ("sample", "channel", "i", "j", "k")


def encode_latents(
    path: Path,
    network: Autoencoder,
    sides: Mapping[str, Volumes],
    contract: Contract,
    device: str = "cpu",
    augmentations: AugmentVectors | None = None,
) -> Generator[Progress, None, str]:
    """Write `SIDE/mean` and `SIDE/log_variance` of every side, and return the digest of them all.

    With `augmentations`, (variants * n, 10) for the n volumes of the train side, also those of augmented volumes.
    """
    plans = [(side, volumes, torch.zeros(len(volumes), AUGMENT_DIM)) for side, volumes in sides.items()]
    if augmentations is not None:
        plans.append((AUGMENTED, sides["train"], augmentations))
    total, digests = sum(len(rows) for _, _, rows in plans), list[str]()
    shape = (network.shape.latent_channels, *network.shape.latent_size(contract.size))
    with writing_folder(path) as partial:
        root = create_store(partial)
        for side, volumes, rows in plans:
            group = root.create_group(side)
            arrays = [create_volumes(group, name, len(rows), shape, "float32", AXES) for name in ARRAYS]
            for row, vector in enumerate(rows):
                images = augment(load_images(volumes, [row % len(volumes)], contract), vector, contract.spacing_mm)
                for array, values in zip(arrays, _posterior(network, images.to(device)), strict=True):
                    array[row] = values
                    digests.append(digest_volume(values))
                yield Progress("encode latents", len(digests) // len(ARRAYS), total)
            if side == AUGMENTED:
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

    def sample(self, indices: Tensor, generator: torch.Generator) -> Latents:
        """A sample from the posterior of each volume."""
        mean, std = self.mean[indices], self.std[indices]
        return mean + std * torch.randn(mean.shape, generator=generator)

    def scale(self) -> LatentScale:
        """Mean and standard deviation per channel of samples: spread of the means plus posterior variance."""
        means = self.mean.double().movedim(1, 0).flatten(1)
        variance = means.var(dim=1, correction=0) + self.std.double().square().movedim(1, 0).flatten(1).mean(dim=1)
        return LatentScale(mean=tuple(means.mean(dim=1).tolist()), std=tuple(np.sqrt(variance.numpy()).tolist()))


def require_scale(scale: LatentScale, latents: LatentSet) -> None:
    """Refuse latents that a scale would not bring near to mean 0 and standard deviation 1, channel by channel.

    A denoiser is made for data of unit variance; on others it learns the wrong noise levels without any error.

    Raises:
        ConfigurationError: names the channel, the mean and standard deviation that the scale is for, and those found.
    """
    found = latents.scale()
    for channel, (mean, std) in enumerate(zip(scale.mean, scale.std, strict=True)):
        other_mean, other_std = found.mean[channel], found.std[channel]
        alike = 0 < std < float("inf") and std / WIDEST < other_std < std * WIDEST
        if not alike or abs(other_mean - mean) > FARTHEST * std:
            what = f"latent channel {channel} must have about mean {mean:.3g} and standard deviation {std:.3g}"
            raise ConfigurationError(f"{what}, has {other_mean:.3g} and {other_std:.3g}")


def stored_augmentations(path: Path) -> AugmentVectors | None:
    """The augmentations that `encode_latents` was given; None if it was given none."""
    if not (path / AUGMENTED).exists():
        return None
    stored = torch.from_numpy(read_volume(open_array(path, f"{AUGMENTED}/moves"), 0))
    return functional.pad(stored, (0, AUGMENT_DIM - stored.shape[1]))  # older ones know fewer kinds


@dataclass(frozen=True)
class AugmentedLatents:
    """Latents of augmented volumes of the train side, several variants of each, and the augmentation of each."""

    latents: LatentSet
    augmentations: AugmentVectors
    count: int
    """Volumes of the train side."""

    @classmethod
    def open(cls, path: Path) -> "AugmentedLatents | None":
        """Read what `encode_latents` wrote of augmented volumes; None without augmentations."""
        if (augmentations := stored_augmentations(path)) is None:
            return None
        return cls(LatentSet.open(path, AUGMENTED), augmentations, int(open_array(path, "train/mean").shape[0]))

    def sample(self, indices: Tensor, generator: torch.Generator) -> tuple[Latents, AugmentVectors]:
        """A sample from the posterior of a random variant of each volume, with its augmentation."""
        variants = torch.randint(len(self.latents) // self.count, indices.shape, generator=generator)
        rows = variants * self.count + indices
        return self.latents.sample(rows, generator), self.augmentations[rows]
