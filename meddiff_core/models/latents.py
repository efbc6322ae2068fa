"""Latents as distributions: mean and log-variance of every training and validation volume.

A stored single draw would freeze the posterior's noise into the training set; these are drawn anew each
time a volume is seen. The scale of the latents is measured over the whole training set, never one batch.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meddiff_core.artefacts import digest_of, writing_folder
from meddiff_core.contract import Contract
from meddiff_core.data.store import create_store, create_volumes, digest_volume, open_array, read_volumes
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.denoiser import LatentScale
from meddiff_core.models.images import load_images
from meddiff_core.types import FloatArray, Images, Latents, Progress, Volumes

ARRAYS = ("mean", "log_variance")
AXES = ("sample", "channel", "i", "j", "k")


def encode_latents(
    path: Path, network: Autoencoder, sides: Mapping[str, Volumes], contract: Contract, device: str = "cpu"
) -> Generator[Progress, None, str]:
    """Write `SIDE/mean` and `SIDE/log_variance` of every side, and return the digest of them all."""
    total, digests = sum(len(volumes) for volumes in sides.values()), list[str]()
    shape = (network.shape.latent_channels, *network.shape.latent_size(contract.size))
    with writing_folder(path) as partial:
        root = create_store(partial)
        for side, volumes in sides.items():
            group = root.create_group(side)
            arrays = [create_volumes(group, name, len(volumes), shape, "float32", AXES) for name in ARRAYS]
            for index in range(len(volumes)):
                posterior = _posterior(network, load_images(volumes, [index], contract).to(device))
                for array, values in zip(arrays, posterior, strict=True):
                    array[index] = values
                    digests.append(digest_volume(values))
                yield Progress("encode latents", len(digests) // len(ARRAYS), total)
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
