"""Whether slices make one even, straight volume, and where its voxels lie.

Measured by displacement: a slice that lies a small part of a voxel from its place in an even stack was rounded when
its position was written, one that lies farther off is missing, uneven or tilted, and stacking it as if it were
regular would make a head of the wrong shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.data.dicom.header import Header

MOST_TILT_DEGREES = 0.5
ROUNDED_VOXELS = 0.1
"""A displacement below this part of a voxel, and below ROUNDED_MM, is rounding."""
ROUNDED_MM = 0.5
EXACT_MM = 1e-3
"""A displacement below this is not worth a note."""
SAME_PLACE = 0.01
"""Two slices nearer than this part of the usual distance lie at one place."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Slices in order along their normal, and the even grid nearest to them."""

    affine: NDArray[np.float64]
    """Voxel (column, row, slice) to mm, RAS (PS3.3 C.7.6.2.1.1), with the measured step between slices."""
    faults: tuple[str, ...]
    """Why they are not one even volume, each with its figures."""
    displacement_mm: float
    """Largest distance of a slice from its place on the grid."""

    @property
    def upright(self) -> NDArray[np.float64]:
        """The affine without the lean of the slices that a small tilt leaves."""
        upright = self.affine.copy()
        normal = np.cross(upright[:3, 0], upright[:3, 1])
        normal /= np.linalg.norm(normal)
        upright[:3, 2] = (upright[:3, 2] @ normal) * normal
        return upright


def stack_of(headers: Sequence[Header]) -> Stack:
    """The stack that alike, placed slices make; needs two or more."""
    first, positions = headers[0], positions_of(headers)
    assert first.spacing_mm is not None
    row_mm, column_mm = first.spacing_mm
    along_row, along_column = axes_of(first)
    start, step = _even_fit(positions)
    off = positions - start - np.outer(np.arange(len(positions)), step)
    affine = np.eye(4)
    affine[:3, :4] = np.stack([along_row * column_mm, along_column * row_mm, step, start], axis=1)
    displacement = float(np.linalg.norm(off, axis=1).max())
    return Stack(LPS_TO_RAS @ affine, tuple(_faults(first, positions, off)), displacement)


def positions_of(headers: Sequence[Header]) -> NDArray[np.float64]:
    """Positions of all frames (frames, 3), LPS, mm, in order along the normal."""
    return np.asarray(_positions(headers)[order_of(headers)], np.float64)


def order_of(headers: Sequence[Header]) -> NDArray[np.intp]:
    """Frames, counted through all files, in order along the normal."""
    return np.argsort(_positions(headers) @ normal_of(headers[0]), kind="stable")


def _positions(headers: Sequence[Header]) -> NDArray[np.float64]:
    return np.concatenate([header.positions for header in headers if header.positions is not None])


def axes_of(header: Header) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and along a column, LPS."""
    assert header.orientations is not None
    return header.orientations[0, :3], header.orientations[0, 3:]


def normal_of(header: Header) -> NDArray[np.float64]:
    """Unit vector across the slices, LPS."""
    normal = np.cross(*axes_of(header))
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def coincide(headers: Sequence[Header]) -> int:
    """How many slices lie where another one does."""
    return _same_places(np.diff(positions_of(headers) @ normal_of(headers[0])))


def _same_places(distances: NDArray[np.float64]) -> int:
    apart = distances[distances > EXACT_MM]
    usual = float(np.median(apart)) if len(apart) else 1.0
    return int((distances < SAME_PLACE * usual).sum())


def _even_fit(positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and step of the even line with the least squared distances."""
    index = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = index @ positions / (index @ index)
    return positions.mean(axis=0) + index[0] * step, step


def _faults(first: Header, positions: NDArray[np.float64], off: NDArray[np.float64]) -> list[str]:
    normal = normal_of(first)
    distances = np.diff(positions @ normal)
    usual = float(np.median(distances))
    if same := _same_places(distances):
        return [f"slices must lie apart, {same} of {len(positions)} lie where another one does: more than one volume"]
    faults = []
    if (tilt := _tilt_degrees(positions[-1] - positions[0], normal)) > MOST_TILT_DEGREES:
        faults.append(f"gantry tilt must be at most {MOST_TILT_DEGREES} degrees, is {tilt:.1f}")
    if not _is_rounding(off @ normal, usual):
        faults.append(_uneven(distances, usual))
    if not faults and not _is_straight(first, off):
        shift = float(np.linalg.norm(off - np.outer(off @ normal, normal), axis=1).max())
        faults.append(f"slices must lie on a straight line, are up to {shift:.2f} mm aside of it")
    return faults


def _is_straight(first: Header, off: NDArray[np.float64]) -> bool:
    assert first.spacing_mm is not None
    row_mm, column_mm = first.spacing_mm
    return all(_is_rounding(off @ axis, mm) for axis, mm in zip(axes_of(first), (column_mm, row_mm), strict=True))


def _is_rounding(off_mm: NDArray[np.float64], voxel_mm: float) -> bool:
    return float(np.abs(off_mm).max()) <= min(ROUNDED_VOXELS * voxel_mm, ROUNDED_MM)


def _tilt_degrees(path: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip(path @ normal / np.linalg.norm(path), -1, 1))))


def _uneven(distances: NDArray[np.float64], usual: float) -> str:
    steps = distances / usual
    whole = np.rint(steps)
    if np.abs(steps - whole).max() < ROUNDED_VOXELS and whole.min() >= 1 and whole.max() > 1:
        missing = int((whole - 1).sum())
        are = "slice is" if missing == 1 else "slices are"
        return f"{missing} {are} missing: distance {usual:.2f} mm, up to {distances.max():.2f} mm"
    return f"slice distance must be even, is {distances.min():.2f} to {distances.max():.2f} mm (median {usual:.2f} mm)"
