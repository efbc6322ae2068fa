"""Volumes at very low resolution, as keys by which copies and repetitions are found.

Copies are as plain on a coarse grid as on the full one. A key has mean 0 and length 1, so that the gain and offset of
a volume do not matter, and comes in all the shifts and flips through which a copy is looked for.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.evidence.features.pooling import cell_sides
from meddiff_core.evidence.neighbours import to_length_one
from meddiff_core.types import FloatArray, StoredArray, Volumes

FINE_SIDE = 48
"""Longest side in voxels of the grid on which shifts are tried."""
KEY_SIDE = 12
"""Longest side of the still coarser grid whose cells are the numbers of a key."""
Sides = tuple[int, int, int]
STEPS = (0, -1, 1)
"""Shifts that are tried along each axis, in voxels of that grid."""
LIFT = 0.5
"""Of the range of intensities, by which a foreground is raised to show what that does to a key."""
SMOOTHING = 1.0
"""Standard deviation in voxels of that grid of the Gaussian that shows what smoothing does to a key."""


def voxel_key(image: StoredArray, contract: Contract) -> FloatArray:
    """(p,) the volume at very low resolution, with mean 0 and length 1, so that gain and offset do not matter."""
    return np.asarray(_keys_at(image, contract, STEPS[:1])[0])


def voxel_keys(image: StoredArray, contract: Contract, smoothing: float = 0.0) -> FloatArray:
    """(54, p) keys of a volume under all transformations that are looked through: left-right flip and small shifts.

    Row 0 is `voxel_key`. Shifts are of one voxel of a grid with sides of at most 48, and pooling comes after: one
    voxel already hides a brain whose neighbours are aligned to it.
    """
    return np.concatenate([_keys_at(view, contract, STEPS, smoothing) for view in (image, image[::-1])])


def keys_of(volumes: Volumes, contract: Contract) -> FloatArray:
    """(n, p) `voxel_key` of every volume."""
    return np.stack([voxel_key(volumes.image(index), contract) for index in range(len(volumes))])


def smoothed_keys_of(volumes: Volumes, contract: Contract, smoothing: float = SMOOTHING) -> FloatArray:
    """(n, p) `voxel_key` of every volume after smoothing by a Gaussian, in voxels of the grid of shifts."""
    keys = [_keys_at(volumes.image(index), contract, STEPS[:1], smoothing) for index in range(len(volumes))]
    return np.concatenate(keys)


def lifted_keys_of(volumes: Volumes, contract: Contract, smoothing: float = 0.0) -> FloatArray:
    """(n, p) `voxel_key` of every volume whose foreground was raised, as percentiles do that include a soft edge."""
    lift, images = LIFT * contract.intensity.levels, (volumes.image(index) for index in range(len(volumes)))
    return np.concatenate([_keys_at(image, contract, STEPS[:1], smoothing, lift) for image in images])


def all_keys_of(volumes: Volumes, contract: Contract) -> FloatArray:
    """(n, variants, p) `voxel_keys` of every volume."""
    return np.stack([voxel_keys(volumes.image(index), contract) for index in range(len(volumes))])


def key_grid(contract: Contract) -> tuple[int, int, int]:
    """Cells of a key along i, j, k; a key holds them in C order."""
    to_fine, to_key = _factors(contract)
    i, j, k = _sides_of(_sides_of(contract.size, to_fine), to_key)
    return i, j, k


def _factors(contract: Contract) -> tuple[Sides, Sides]:
    """Voxels per fine voxel, and fine voxels per cell of a key, along each axis."""
    to_fine = cell_sides(contract.size, contract.spacing_mm, FINE_SIDE)
    spacing = [length * factor for length, factor in zip(contract.spacing_mm, to_fine, strict=True)]
    return to_fine, cell_sides(_sides_of(contract.size, to_fine), spacing, KEY_SIDE)


def _sides_of(sides: Sequence[int], factors: Sides) -> list[int]:
    """In cells, the last of which may be in part beyond the volume."""
    return [-(-side // factor) for side, factor in zip(sides, factors, strict=True)]


def _keys_at(
    image: StoredArray, contract: Contract, steps: Sequence[int], smoothing: float = 0.0, lift: float = 0.0
) -> FloatArray:
    """(len(steps)^3, p) keys at all shifts; pooling axis by axis shares the work between them."""
    to_fine, to_key = _factors(contract)
    views = _pad_to(image.astype(np.float32), to_fine)
    if lift:
        views = np.where(views > 0, views + np.float32(lift), views)
    for axis, factor in enumerate(to_fine):
        views = _average(views, axis, factor)
    if smoothing:
        views = ndimage.gaussian_filter(views, smoothing, mode="nearest")
    views = np.pad(_pad_to(views, to_key), 1)[None]
    for axis, factor in enumerate(to_key, start=1):
        inner = views.shape[axis] - 2
        shifted = [np.take(views, range(1 + step, 1 + step + inner), axis) for step in steps]
        views = _average(np.concatenate(shifted), axis, factor)
    keys = views.reshape(len(views), -1)
    return to_length_one(keys - keys.mean(1, keepdims=True))


def _pad_to(volume: FloatArray, multiples: Sides) -> FloatArray:
    """Zeros on both sides, as evenly as can be, up to a multiple along each axis."""
    missing = [-side % multiple for side, multiple in zip(volume.shape, multiples, strict=True)]
    return np.asarray(np.pad(volume, [(gap // 2, gap - gap // 2) for gap in missing]))


def _average(volume: FloatArray, axis: int, factor: int) -> FloatArray:
    shape = (*volume.shape[:axis], volume.shape[axis] // factor, factor, *volume.shape[axis + 1 :])
    return np.asarray(volume.reshape(shape).mean(axis + 1), dtype=np.float32)
