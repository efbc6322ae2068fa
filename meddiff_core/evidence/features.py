"""Volumes to feature vectors, with the digest of whatever computed them.

Distances between feature sets mean nothing unless one extractor made both, so features carry its digest
and a comparison across digests is refused. No extractor needs a download: one has fixed random weights
(Naeem et al. 2020 find such features usable away from photographs), the other is the study's autoencoder.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.models.images import load_images
from meddiff_core.types import FloatArray, Images, Latents, Progress, Volumes


@runtime_checkable
class Extractor(Protocol):
    """A fixed map from volumes to vectors."""

    @property
    def name(self) -> str:
        """Short; becomes part of metric names."""

    @property
    def digest(self) -> str:
        """Changes whenever the vectors would."""

    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, d), one row per index."""


@dataclass(frozen=True)
class Features:
    """Feature vectors of a set of volumes."""

    values: FloatArray
    """(n, d)."""
    extractor: str
    digest: str
    """Of the extractor."""

    def __len__(self) -> int:
        return len(self.values)


def require_same_extractor(*sets: Features) -> None:
    """Refuse to compare what different extractors made.

    Raises:
        ValueError: the digests differ.
    """
    if len({features.digest for features in sets}) > 1:
        made_by = ", ".join(f"{features.extractor} ({features.digest[:12]})" for features in sets)
        raise ValueError(f"features to compare must come from one extractor, came from {made_by}")


def extract(extractor: Extractor, volumes: Volumes, batch: int = 16) -> Generator[Progress, None, Features]:
    """Features of all volumes, in their order."""
    rows = []
    for start in range(0, len(volumes), batch):
        stop = min(start + batch, len(volumes))
        rows.append(extractor(volumes, range(start, stop)))
        yield Progress(f"features {extractor.name}", stop, len(volumes))
    if not rows:
        raise ValueError(f"features {extractor.name} need at least one volume, got none")
    return Features(np.concatenate(rows).astype(np.float32), extractor.name, extractor.digest)


class RandomConvFeatures:
    """Mean and deviation over space of every layer of a fixed, random, strided 3D CNN.

    There is no normalisation per volume: it would hide a shift of intensity.
    """

    name = "random-conv"

    def __init__(self, contract: Contract, seed: int = 0, width: int = 16, device: str = "cpu") -> None:
        self.contract = contract
        self.weights = [weight.to(device) for weight in _random_weights(contract.channels, width, seed)]
        self.digest = _digest_of_weights(self.weights)

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 30 width): mean and deviation per channel, layer after layer."""
        hidden = load_images(volumes, indices, self.contract).to(self.weights[0].device)
        pooled = []
        for weight in self.weights:
            hidden = functional.leaky_relu(functional.conv3d(hidden, weight, stride=2, padding=1), 0.2)
            space = hidden.flatten(2)
            pooled += [space.mean(2), space.std(2, correction=0)]
        return torch.cat(pooled, 1).float().cpu().numpy()


def _random_weights(channels: int, width: int, seed: int) -> list[Tensor]:
    """He-initialised kernels (out, in, 3, 3, 3) of four layers, each twice as wide as the one before."""
    generator = torch.Generator().manual_seed(seed)
    widths = [channels, width, 2 * width, 4 * width, 8 * width]
    shapes = [(wide, narrow, 3, 3, 3) for narrow, wide in pairwise(widths)]
    return [torch.randn(shape, generator=generator) * (2 / (27 * shape[1])) ** 0.5 for shape in shapes]


def _digest_of_weights(weights: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(b"random-conv 1")
    for weight in weights:
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


class LatentFeatures:
    """Posterior means of the study's autoencoder, averaged onto a coarse grid."""

    name = "latents"

    def __init__(self, encode: Callable[[Images], Latents], digest: str, contract: Contract, grid: int = 4) -> None:
        self.encode = encode
        self.contract = contract
        self.grid = grid
        self.digest = digest_of({"latents": digest, "grid": grid})

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, z * cells), with at most `grid` cells along each axis."""
        latents = self.encode(load_images(volumes, indices, self.contract)).float()
        i, j, k = (min(self.grid, side) for side in latents.shape[2:])
        return functional.adaptive_avg_pool3d(latents, (i, j, k)).flatten(1).cpu().numpy()
