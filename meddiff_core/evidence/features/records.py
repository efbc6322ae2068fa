"""Volumes to feature vectors, with a record of whatever computed them.

Distances between feature sets mean nothing unless one extractor made both, from volumes brought to one grid and
one intensity scale. So features carry what they were made with, and a comparison across records is refused with
what differs. No extractor needs a download.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.types import FloatArray, Progress, Volumes

PREPROCESSING = ("spacing_mm", "size", "intensity", "mask", "labels")
"""Fields of the contract that decide the voxels an extractor sees."""


def preprocessing_digest(contract: Contract) -> str:
    """Of the grid, the intensity mapping, the mask and the label groups that volumes are brought to."""
    return digest_of(contract.model_dump(mode="json", include=set(PREPROCESSING)))


@runtime_checkable
class Extractor(Protocol):
    """A fixed map from volumes to vectors."""

    @property
    def name(self) -> str:
        """Short; becomes part of metric names."""

    @property
    def digest(self) -> str:
        """Of its weights and settings: changes whenever the vectors would."""

    @property
    def contract(self) -> Contract:
        """What the volumes must have been brought to."""

    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, d), one row per index."""


@runtime_checkable
class SetExtractor(Protocol):
    """An extractor that knows better than batch by batch how to take a whole set: from a cache, or on a pool."""

    def extract(self, volumes: Volumes) -> Generator[Progress, None, "Features"]:
        """Features of all volumes, in their order."""


class Origin(NamedTuple):
    """What feature vectors were made with."""

    extractor: str
    weights: str
    """Digest of the extractor's weights and settings."""
    preprocessing: str
    """`preprocessing_digest` of the volumes."""


@dataclass(frozen=True)
class Features:
    """Feature vectors of a set of volumes."""

    values: FloatArray
    """(n, d)."""
    extractor: str
    digest: str
    """Of the extractor."""
    preprocessing: str
    """`preprocessing_digest` of the volumes."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def origin(self) -> Origin:
        """What they were made with."""
        return Origin(self.extractor, self.digest, self.preprocessing)

    def take(self, rows: Any) -> "Features":
        """Some of the rows, by whatever numpy takes as an index."""
        return replace(self, values=self.values[rows])


def features_by(extractor: Extractor, values: FloatArray) -> Features:
    """Vectors (n, d) that an extractor made, with its record."""
    made = values.astype(np.float32, copy=False)
    return Features(made, extractor.name, extractor.digest, preprocessing_digest(extractor.contract))


def require_same_origin(*origins: Origin) -> None:
    """Refuse to compare features that were made in different ways.

    Raises:
        ValueError: extractor, weights or preprocessing differ; the message says which, and how.
    """
    differing = [
        f"{name} is {', '.join(dict.fromkeys(value[:12] for value in values))}"
        for name, values in zip(Origin._fields, zip(*origins, strict=True), strict=True)
        if len(set(values)) > 1
    ]
    if differing:
        raise ValueError(f"features to compare must come from one extractor and preprocessing: {'; '.join(differing)}")


def extract(extractor: Extractor, volumes: Volumes, batch: int = 16) -> Generator[Progress, None, Features]:
    """Features of all volumes, in their order."""
    if not len(volumes):
        raise ValueError(f"features {extractor.name} need at least one volume, got none")
    if isinstance(extractor, SetExtractor):
        return (yield from extractor.extract(volumes))
    rows = []
    for start in range(0, len(volumes), batch):
        stop = min(start + batch, len(volumes))
        rows.append(extractor(volumes, range(start, stop)))
        yield Progress(f"features {extractor.name}", stop, len(volumes))
    return features_by(extractor, np.concatenate(rows))
