"""The nearest real volumes of each volume, by Euclidean distance of features or by correlation of voxels.

A reference set is counted in subjects, not in volumes: a second scan of the copied subject would pass as the crowd
around the copy, and no real volume may meet its own subject.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.subjects import numbered
from meddiff_core.types import FloatArray

NEIGHBOURHOOD = 10
"""Further neighbours whose mean distance says how crowded the place is."""
KEPT = 64
"""Nearest real volumes that are ranked for each query: beyond them hardly ever lies the first of the holdout."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """The nearest reference row of each query row."""

    distance: Matrix
    """(n,)."""
    index: NDArray[np.int64]
    """(n,) row of the reference."""
    local: Matrix
    """(n,) mean distance of the next `NEIGHBOURHOOD` nearest subjects."""

    @property
    def score(self) -> Matrix:
        """Distance over that of the next neighbours: near 0 for a copy, below 1 for anything else.

        A smooth or average volume is near to many training volumes without copying any; its distance would flag
        it, its score does not (the ratio of Carlini et al. 2023).
        """
        return self.distance / np.maximum(self.local, 1e-12)


@dataclass(frozen=True)
class Ranking:
    """The nearest real volumes of each query, nearest first; train rows come before holdout rows."""

    distance: Matrix
    """(n, k)."""
    index: Rows
    """(n, k)."""


Found = TypeVar("Found", Neighbours, Ranking)


def join(parts: Sequence[Found]) -> Found:
    """What was found for blocks of queries, one after the other."""
    columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(parts[0])}
    return type(parts[0])(**columns)


def nearest(
    query: Matrix,
    reference: Matrix,
    exclude_self: bool = False,
    block: int = 1024,
    subjects: Sequence[str] | None = None,
) -> Neighbours:
    """Nearest rows by Euclidean distance.

    `subjects` names the subject of each reference row where some have several: the crowd around a row is then
    counted in subjects, or else a second scan of the copied subject would hide the copy. `exclude_self` when query
    and reference are the same rows in the same order: no row is compared with its own subject.
    """
    owners = numbered(subjects, len(reference))
    blocks = _distances(query, reference, owners if exclude_self else None, block)
    return join([closest(distances, owners, own) for distances, own in blocks])


def rank_rows(query: Matrix, pool: Matrix, owners: Rows, own: Rows | None = None, block: int = 1024) -> Ranking:
    """The nearest rows of the pool (m, d) to each query (n, d), by Euclidean distance; `own` as in `rank`."""
    return join([rank(distances, owners, mine) for distances, mine in _distances(query, pool, own, block)])


def _distances(query: Matrix, reference: Matrix, own: Rows | None, block: int) -> Iterator[tuple[Matrix, Rows | None]]:
    """Euclidean distances of `block` queries at a time, and whom these must not meet."""
    from sklearn.metrics.pairwise import euclidean_distances  # slow to import, as all of scikit-learn

    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        yield euclidean_distances(query[rows], reference), None if own is None else own[rows]


def closest(distances: Matrix, owners: Rows, own: Rows | None = None) -> Neighbours:
    """Of distances (n, m): `owners` (m,) numbers the subject of each column, `own` (n,) whom each row must not meet."""
    distances = _without_own(distances, owners, own)
    by_subject = _nearest_of_each(distances, owners)
    available = by_subject.shape[1] - (own is not None)
    if available < 2:
        raise ValueError(f"neighbours need volumes of at least 2 reference subjects, got {available}")
    kept = min(NEIGHBOURHOOD + 1, available)
    ranked = np.sort(np.partition(by_subject, kept - 1, axis=1)[:, :kept], axis=1)
    return Neighbours(ranked[:, 0], distances.argmin(1), ranked[:, 1:].mean(1))


def _without_own(distances: Matrix, owners: Rows, own: Rows | None) -> Matrix:
    return distances if own is None else np.where(own[:, None] == owners, np.inf, distances)


def _nearest_of_each(distances: Matrix, owners: Rows) -> Matrix:
    """(n, subjects) the smallest distance to any volume of each subject."""
    order = np.argsort(owners, kind="stable")
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    if len(starts) == len(owners):
        return distances
    return np.asarray(np.minimum.reduceat(distances[:, order], starts, axis=1))


def rank(distances: Matrix, owners: Rows, own: Rows | None = None) -> Ranking:
    """The `KEPT` nearest of distances (n, m), in order; `own` (n,) is whom each query must not meet."""
    distances = _without_own(distances, owners, own)
    kept = min(KEPT, distances.shape[1])
    index = np.argpartition(distances, kept - 1, axis=1)[:, :kept]
    order = np.take_along_axis(distances, index, 1).argsort(1, kind="stable")
    index = np.take_along_axis(index, order, 1).astype(np.int64)
    return Ranking(np.take_along_axis(distances, index, 1).astype(np.float64), index)


def nearest_voxels(
    query: FloatArray,
    reference: FloatArray,
    centre: FloatArray,
    exclude_self: bool = False,
    block: int = 16,
    subjects: Sequence[str] | None = None,
) -> Neighbours:
    """Nearest reference keys (m, p) of query keys (n, variants, p), by 1 - the best correlation of any variant.

    Keys are compared as differences from `centre` (p,), the mean training key: whole heads all correlate by 0.99,
    what sets one apart from the mean does not. `subjects` and `exclude_self` are those of `nearest`.
    """
    anchors, owners = to_length_one(reference - centre).T, numbered(subjects, len(reference))
    parts = []
    for start in range(0, len(query), block):
        views = to_length_one(query[start : start + block] - centre)
        own = owners[start : start + block] if exclude_self else None
        parts.append(closest(1 - best_correlation(views, anchors), owners, own))
    return join(parts)


def best_correlation(views: FloatArray, anchors: FloatArray) -> Matrix:
    """(n, m) the highest correlation, at most 1, of any variant of (n, variants, p) with each of (p, m)."""
    found = (views.reshape(-1, views.shape[-1]) @ anchors).reshape(*views.shape[:2], -1).max(1)
    return np.asarray(np.minimum(found.astype(np.float64), 1.0))


def to_length_one(rows: FloatArray) -> FloatArray:
    """Each row (..., p) divided by its length; one of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), dtype=np.float32)
