"""Results from the grid of the models back onto the grid of their scan, in its orientation and its intensities.

A result that lies half a voxel aside, or is as coarse as the models where nothing was changed, is of no use beside the
scan. So shape and forms of the file are taken over as they stand, and what a task leaves alone keeps its own voxels,
bit by bit.
"""

from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.kinds import Replaces, TaskKind
from meddiff_core.applications.outcome import GridMap
from meddiff_core.applications.scans import CoarseScan, Mask
from meddiff_core.data.conform import Matrix, nearest, resample
from meddiff_core.data.scan import Scan
from meddiff_core.types import CaseRef, FloatArray, Volume

FORMS = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
         "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip
"""Fields of a NIfTI header that place its voxels; no other is taken over, for those hold texts."""
LEAST_CHANGE = 0.5 / 255
"""Share of the range: half a step of 8 bits, to which volumes are stored."""
Header = Any


@dataclass(frozen=True)
class OwnGrid:
    """A scan on its own grid, and where the grid of the models lies in it."""

    volume: Volume
    """RAS+, in its own intensities."""
    low: float
    """Intensity that 0 stands for."""
    high: float
    grid_affine: Matrix
    """(4, 4), voxel of the models' grid to mm."""
    orientation: str
    """Axis codes of the file."""
    shape: tuple[int, ...]
    """Of the file."""
    header: Header
    """NIfTI header of the file, or one made for a series."""
    foreground: Mask | None = None
    """What the models see of it, RAS+; None for all."""
    hole: Mask | None = None
    """What is to be filled, RAS+."""


def own_grid(
    case: CaseRef,
    scan: Scan,
    ends: tuple[float, float],
    grid_affine: Matrix,
    foreground: Mask | None,
    hole: Mask | None,
) -> OwnGrid:
    """The grid of a scan that was read."""
    low, high = ends
    orientation, ras = scan.source.orientation, scan.volume.array.shape
    header = _made_header(scan.volume, orientation) if case.slices else _file_header(case)
    shape = tuple(header.get_data_shape()) if not case.slices else turned_shape(ras, orientation)
    shape = shape[:3] if case.channel is not None else shape
    return OwnGrid(scan.volume, low, high, grid_affine, orientation, shape, header, foreground, hole)


def _file_header(case: CaseRef) -> Header:
    image: Any = nib.load(case.image)
    if isinstance(image, nib.MGHImage):
        image = nib.Nifti1Image.from_image(image)
    header = type(image.header)()
    for name in FORMS:
        header[name] = image.header[name]
    header.set_data_shape(image.shape)
    return header


def _made_header(volume: Volume, orientation: str) -> Header:
    turn = _turn(orientation)
    affine = volume.affine @ inv_ornt_aff(turn, volume.array.shape)
    header = nib.Nifti1Image(np.zeros(turned_shape(volume.array.shape, orientation), np.uint8), affine).header
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    return header


def turned_shape(shape: tuple[int, ...], orientation: str) -> tuple[int, ...]:
    """The shape of a RAS+ array in another orientation."""
    return tuple(apply_orientation(np.broadcast_to(np.uint8(0), shape), _turn(orientation)).shape)


def _turn(orientation: str) -> NDArray[Any]:
    return np.asarray(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(orientation))))


def refined(own: OwnGrid, coarse: CoarseScan) -> OwnGrid:
    """The scan interpolated on its own field of view, with coarse axes divided by a whole number."""
    parts = [max(1, round(factor)) for factor in coarse.factors]
    foreground = own.foreground
    for axis, count in enumerate(parts):
        foreground = None if foreground is None else np.repeat(foreground, count, axis)
    step = np.diag([*(1 / count for count in parts), 1.0])
    step[:3, 3] = [(1 / count - 1) / 2 for count in parts]
    size = tuple(length * count for length, count in zip(own.volume.array.shape, parts, strict=True))
    array = ndimage.affine_transform(own.volume.array, step[:3, :3], step[:3, 3], size, order=1, mode="nearest")
    volume = Volume(array, own.volume.affine @ step)
    header = _made_header(volume, own.orientation)
    shape = turned_shape(size, own.orientation)
    return replace(own, volume=volume, foreground=foreground, header=header, shape=shape)


def place(found: GridMap, own: OwnGrid, before: FloatArray, kind: TaskKind) -> NDArray[Any]:
    """A map on the scan's grid, RAS+; `before` is the scan on the grid of the models."""
    size = (own.volume.array.shape[0], own.volume.array.shape[1], own.volume.array.shape[2])
    step = np.asarray(np.linalg.solve(own.grid_affine, own.volume.affine), np.float64)
    if found.kind == "labels":
        return _within(nearest(found.array.astype(np.uint8), step, size), own)
    if found.kind == "intensity":
        return _intensity(found.array, own, before, kind.replaces, step, size)
    if found.kind == "difference" and kind.replaces == "change":
        return _change(found.array, own, step, size)
    scaled = found.kind != "score" and not kind.needs_labels
    scale = own.high - own.low if scaled else 1.0
    return _within(resample(found.array.astype(np.float32), step, size) * np.float32(scale), own)


def _intensity(
    after: FloatArray, own: OwnGrid, before: FloatArray, replaces: Replaces, step: Matrix, size: tuple[int, int, int]
) -> FloatArray:
    scan, span = own.volume.array, np.float32(own.high - own.low)
    if replaces == "change":
        return np.asarray(scan + _change(after - before, own, step, size))
    new = resample(after.astype(np.float32), step, size) * span + np.float32(own.low)
    if replaces == "hole" and own.hole is not None:
        return np.where(own.hole, new, scan)
    known = nearest(np.ones(before.shape, np.bool_), step, size)
    known = known if own.foreground is None else known & own.foreground
    return np.where(known, new, scan.min())


def _change(change: FloatArray, own: OwnGrid, step: Matrix, size: tuple[int, int, int]) -> FloatArray:
    """A change in the scan's intensities. One that is less than rounding on the grid is none."""
    seen = np.where(np.abs(change) < LEAST_CHANGE, 0, change).astype(np.float32)
    return np.asarray(_within(resample(seen, step, size) * np.float32(own.high - own.low), own))


def _within(array: NDArray[Any], own: OwnGrid) -> NDArray[Any]:
    """0 outside of what the models see."""
    return array if own.foreground is None else np.where(own.foreground, array, np.zeros((), array.dtype))


def as_nifti(array: NDArray[Any], own: OwnGrid) -> nib.Nifti1Image:
    """A RAS+ array as a file beside the scan's: the same shape, orientation and forms."""
    turned = np.ascontiguousarray(apply_orientation(array, _turn(own.orientation))).reshape(own.shape)
    header = own.header.copy()
    header.set_data_dtype(turned.dtype)
    header.set_slope_inter(1, 0)
    kind: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image: nib.Nifti1Image = kind(turned, None, header)
    image.header.set_data_shape(turned.shape)
    return image
