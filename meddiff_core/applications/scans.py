"""One scan as a task sees it, on the grid of the model, with what a task may be told besides."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import Condition
from meddiff_core.types import FloatArray, LabelArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CoarseScan:
    """A scan of thick voxels, as it was measured: axes are those of the grid."""

    image: FloatArray
    """(i', j', k'), 0 to 1."""
    factors: tuple[float, float, float]
    """Grid voxels that one of its voxels spans along each axis, at least 1."""
    offsets: tuple[float, float, float]
    """Place of its first voxel's centre, in voxels of the grid."""


@dataclass(frozen=True)
class GridScan:
    """A scan on the grid of the contract."""

    image: FloatArray
    """(i, j, k), 0 to 1 as the contract maps intensities."""
    inside: Mask
    """(i, j, k): voxels that the scan has seen. Outside the grid reaches past the field of view."""
    digest: str
    """Of the voxels: seeds come of it, so that a scan has the same result in any folder."""
    labels: LabelArray | None = None
    """(i, j, k) stored label values, where they are known; no task needs them."""
    condition: Condition | None = None
    """What is known of the subject; names that are left out are not known."""
    mask: Mask | None = None
    """(i, j, k): voxels that are to be filled, where a task asks for them."""
    coarse: CoarseScan | None = None
    """The scan before it was interpolated, where its voxels are larger than the grid's."""
    kspace: NDArray[Any] | None = None
    """(i, j, k) complex samples with zeros where nothing was measured, where that is what was given.

    Of the image in its units, by `numpy.fft.fftn` with `norm="ortho"`: the zero frequency lies at (0, 0, 0).
    """
