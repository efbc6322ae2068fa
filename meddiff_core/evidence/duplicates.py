"""Volumes of a cohort that repeat an earlier one, found exactly among 100,000 in flat memory.

Every new volume is compared with those that are kept, in blocks. Distances in a few principal directions, and what
is left of each volume outside of them, bound the whole distance from below: only pairs within the bound are looked
at in full. An approximate index would be no faster at this size, and could let a repetition through.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meddiff_core.evidence.neighbours import nearest_voxels, to_length_one
from meddiff_core.types import FloatArray

DIRECTIONS = 48
"""Principal directions of the quick look."""
SAMPLE = 2000
"""Volumes that the directions are fitted on."""
BLOCK = 1024
CHUNK = 8192
"""New and kept volumes that are compared at a time."""
SLACK = 1e-5
"""Rounding error of squared distances between vectors of length 1 in single precision."""


def smallest_distance(keys: FloatArray, centre: FloatArray, subjects: Sequence[str] | None = None) -> float:
    """Between keys (m, p) of different subjects; each key is its own subject if none are named."""
    if len(keys if subjects is None else set(subjects)) < 3:
        return 0.0
    found = nearest_voxels(keys[:, None], keys, centre, exclude_self=True, block=256, subjects=subjects)
    return float(found.distance.min())


def near_duplicates(keys: FloatArray, key_centre: FloatArray, threshold: float, block: int = BLOCK) -> set[int]:
    """Rows to drop so that no two of the rest are nearer than `threshold`: the first of each pair stays.

    `keys` is (n, p), from `voxel_key`, in the order that decides; `threshold` the smallest distance between two
    training subjects, as 1 - correlation of differences from `key_centre`.
    """
    quick = _quick_look(keys, key_centre, block)
    kept = np.zeros(0, np.int64)
    for start in range(0, len(keys), block):
        rows = np.arange(start, min(start + block, len(keys)))
        units = to_length_one(keys[rows] - key_centre)
        fresh = rows[~_near_kept(units, quick[rows], kept, keys, key_centre, quick, threshold)]
        kept = np.concatenate([kept, fresh[_first_of_each(units[fresh - start], threshold)]])
    return set(range(len(keys))) - set(kept.tolist())


def _quick_look(keys: FloatArray, centre: FloatArray, block: int) -> FloatArray:
    """(n, d + 1) coordinates whose distances never exceed those of the unit vectors they stand for."""
    sample = to_length_one(keys[:: max(1, len(keys) // SAMPLE)] - centre)
    _, directions = np.linalg.eigh(sample.T @ sample)
    axes = directions[:, -DIRECTIONS:].astype(np.float32)
    found = np.empty((len(keys), axes.shape[1] + 1), np.float32)
    for start in range(0, len(keys), block):
        inside = to_length_one(keys[start : start + block] - centre) @ axes
        found[start : start + block, :-1] = inside
        found[start : start + block, -1] = np.sqrt(np.clip(1 - (inside**2).sum(1), 0, None))
    return found


def _near_kept(
    units: FloatArray,
    quick: FloatArray,
    kept: NDArray[np.int64],
    keys: FloatArray,
    centre: FloatArray,
    all_quick: FloatArray,
    threshold: float,
) -> NDArray[np.bool_]:
    """(b,) whether each of a block is nearer than the threshold to any kept row."""
    near = np.zeros(len(units), bool)
    for start in range(0, len(kept), CHUNK):
        others = kept[start : start + CHUNK]
        # unit vectors: 1 - correlation is half of the squared distance, and so is that of the quick look, at most
        possible = quick @ all_quick[others].T > 1 - threshold - SLACK
        possible[near] = False
        rows, columns = np.flatnonzero(possible.any(1)), np.flatnonzero(possible.any(0))
        if len(rows):
            exact = units[rows] @ to_length_one(keys[others[columns]] - centre).T
            near[rows[(1 - exact < threshold).any(1)]] = True
    return near


def _first_of_each(units: FloatArray, threshold: float) -> NDArray[np.int64]:
    """Rows of one block that stay."""
    alike = 1 - units @ units.T < threshold
    kept: list[int] = []
    for row in range(len(units)):
        if not alike[row, kept].any():
            kept.append(row)
    return np.array(kept, np.int64)
