"""Whether a scan that does not say so is CT or MR, by its intensities.

CT has Hounsfield units: outer air lies at -1000, or at the end of a window that an earlier pipeline clipped to.
One voxel decides nothing: cubic resampling makes the rim of an MR undershoot far below zero, and rules that look
at the darkest voxel take it for CT.
"""

from typing import Literal

import numpy as np

from meddiff_core.types import FloatArray

Modality = Literal["MR", "CT"]
MOST_VOXELS = 1_000_000
"""That are looked at."""
LEAST_SHARE = 0.005
"""Of the voxels that make a peak."""
DARKEST_HU = -4096.0
"""Below any padding that CT scanners write."""
BRIGHTEST_HU = 4000.0
"""Above bone and what 12 bits hold; metal in few voxels."""
MUCH = 0.2
"""Share of the voxels that no undershoot has."""
CLIPPED_HU = (-1100.0, -40.0)
"""Where the lower end of a window in Hounsfield units lies."""
SOFT_TISSUE_HU = (-200.0, 300.0)
STORED_OFFSET = 1024.0
"""Between Hounsfield units and the numbers that a scanner stores."""


def modality_of(array: FloatArray) -> Modality | None:
    """CT where there is a peak of air at -1000 HU, MR where nothing is far below zero, else None: to be asked.

    Asked about is what may be a crop of CT without air: whole numbers, nearly all between fat and organs. So is what
    may be CT as a scanner stores it, 1024 above Hounsfield units.
    """
    some = _thinned(array)
    if _has_air(some) or _is_clipped(some):
        return "CT"
    return None if _may_be_soft_tissue(some) or _may_be_stored(some) else "MR"


def _thinned(array: FloatArray) -> FloatArray:
    """A million voxels or so, from all of a scan."""
    return array.ravel()[:: max(1, array.size // MOST_VOXELS) | 1]


def _share(array: FloatArray, low: float, high: float) -> float:
    return float(np.count_nonzero((array >= low) & (array < high)) / array.size)


def _has_air(array: FloatArray) -> bool:
    """A peak of air or lung, and not the tail of an undershoot, which falls off from zero."""
    air, lung = _share(array, -1100, -900), _share(array, -900, -500)
    if array.min() < DARKEST_HU:
        return False
    least = LEAST_SHARE if np.percentile(array, 99.9) <= BRIGHTEST_HU else MUCH
    is_air = air >= least and air > 2 * _share(array, -500, -300)
    return is_air or (lung >= MUCH and lung > 2 * _share(array, -300, -100))


def _is_clipped(array: FloatArray) -> bool:
    """Many voxels at exactly the darkest value, which is that of a window in Hounsfield units."""
    lowest, highest = float(array.min()), float(array.max())
    inside = CLIPPED_HU[0] <= lowest <= CLIPPED_HU[1] and highest <= -DARKEST_HU
    return inside and bool(np.count_nonzero(array == lowest) >= LEAST_SHARE * array.size) and _is_whole(array)


def _may_be_soft_tissue(array: FloatArray) -> bool:
    """A crop of CT without air: below zero is fat, above it organs, and little reaches bone's 300 HU."""
    below = _share(array, SOFT_TISSUE_HU[0], -10)
    within = _share(array, *SOFT_TISSUE_HU)
    return below >= 0.05 and within >= 0.9 and _is_whole(array) and float(np.ptp(array)) > 50


def _may_be_stored(array: FloatArray) -> bool:
    """CT 1024 above Hounsfield units: air at 0, and nearly all that is brighter than a lung between fat and organs."""
    bright = array[array >= STORED_OFFSET / 2]
    if bright.size < 0.05 * array.size or not _is_whole(array):
        return False
    soft = _share(bright, *(STORED_OFFSET + np.array(SOFT_TISSUE_HU)))
    return soft >= 0.8 and _share(array, -10, STORED_OFFSET / 10) >= 0.1


def _is_whole(array: FloatArray) -> bool:
    """Whether nearly all values are whole numbers, as Hounsfield units come."""
    return bool((array == np.rint(array)).mean() > 0.9)


def is_shifted(array: FloatArray) -> bool:
    """Whether CT was left as a scanner stores it, 1024 above Hounsfield units: its soft tissue lies near 1064."""
    some = _thinned(array)
    soft = _share(some, STORED_OFFSET - 150, STORED_OFFSET + 250)
    return soft >= 0.1 and soft > 2 * _share(some, 400, 800) and _share(some, -1100, -900) < LEAST_SHARE
