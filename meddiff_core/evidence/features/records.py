"""Volumes to feature vectors, with the digest of whatever computed them.

Distances between feature sets mean nothing unless one extractor made both, so features carry its digest
and a comparison across digests is refused. No extractor needs a download: one has fixed random weights
(Naeem et al. 2020 find such features usable away from photographs), the other is the study's autoencoder.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from meddiff_core.types import FloatArray, Progress, Volumes


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
