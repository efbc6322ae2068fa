"""Where a volume lies for DICOM: LPS instead of RAS, rows towards posterior, columns towards left.

Images are written as every viewer expects axial slices, with the patient's left at the right of the picture. Whoever
negates the affine and forgets the array, or the other way round, exchanges left and right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.errors import IntegrityError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STRAIGHT = 1e-4
"""Largest cosine between two axes."""


@dataclass(frozen=True)
class Geometry:
    """The slices of a volume (i, j, k), one for each k."""

    affine: NDArray[np.float64]
    """(column, row, slice) to LPS mm."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of columns, rows and slices."""
        column, row, plane = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(column), float(row), float(plane)

    @property
    def orientation(self) -> list[float]:
        """ImageOrientationPatient: where columns count to, and where rows do."""
        columns, rows = (self.affine[:3, axis] / self.spacing_mm[axis] for axis in (0, 1))
        return [float(part) + 0.0 for part in (*columns, *rows)]  # no -0

    def position(self, number: int) -> list[float]:
        """ImagePositionPatient: the middle of the first voxel of a slice."""
        return [float(part) + 0.0 for part in (self.affine @ (0, 0, number, 1))[:3]]


def geometry_of(affine: NDArray[np.float64], size: tuple[int, int, int]) -> Geometry:
    """Where `slices_of` lie, for a volume of this RAS affine and size.

    Raises:
        IntegrityError: the axes are not at right angles, which DICOM cannot say.
    """
    turned = np.eye(4)
    turned[0, 0] = turned[1, 1] = -1
    turned[:2, 3] = size[0] - 1, size[1] - 1
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > STRAIGHT:
        raise IntegrityError("the axes of the volumes must be at right angles for DICOM")
    return Geometry(RAS_TO_LPS @ affine @ turned)


def slices_of(volume: NDArray[np.generic]) -> NDArray[np.generic]:
    """(i, j, k) as (slice, row, column), contiguous."""
    return np.ascontiguousarray(volume[::-1, ::-1].T)
