"""One scan in memory, RAS+, after the checks that every format shares.

Whatever the source's axes, the rest of the system sees right, anterior, superior; a scan that cannot be
placed, or whose voxels are not finite, is refused here with figures and not found out after training.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.data.modality import Modality, modality_of
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Volume

NARROWEST_MM, WIDEST_MM = 1.0, 3000.0
"""Of a field of view along its longest axis: less or more comes of a unit that is wrong."""
MOST_VOXELS = 2**31
"""Of one volume: 8 GB in memory, which a few compressed kilobytes may claim to hold."""
LEAST_BORDER = 0.05
"""Share of the outermost voxels that NaN must hold to be the outside of an image and no fault of it."""


@dataclass(frozen=True)
class Source:
    """What the file said of itself, before it was turned to RAS+."""

    orientation: str
    """Axis codes, such as PSR."""
    bits: int
    """Of one stored voxel."""
    integer: bool
    modality: Modality | None
    """As the file says, else as the intensities suggest; None where they leave it open."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """A volume and where it came from."""

    volume: Volume
    source: Source


def ras_scan(
    case: str,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    bits: int,
    integer: bool,
    modality: str | None = None,
    warnings: tuple[str, ...] = (),
) -> Scan:
    """Check a three-dimensional array and its affine, and turn both to RAS+."""
    check_affine(case, affine)
    check_extent(case, array.shape, affine)
    voxels, filled = _checked_voxels(case, array)
    found = modality_of(voxels) if modality is None else "CT" if modality == "CT" else "MR"
    orientation = "".join(str(code) for code in aff2axcodes(affine))
    volume = Volume(*to_ras(voxels, affine))
    return Scan(volume, Source(orientation, bits, integer, found, warnings + filled))


def to_ras(array: NDArray[Any], affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Permute and flip the axes to the nearest RAS+ order; no voxel is interpolated."""
    axes = io_orientation(affine)
    turned = np.ascontiguousarray(apply_orientation(array, axes))
    return turned, np.asarray(affine @ inv_ornt_aff(axes, array.shape), np.float64)


def check_shape(case: str, shape: tuple[int, ...]) -> None:
    """Refuse what is not one three-dimensional volume; axes of length 1 beyond the third are allowed."""
    if len(shape) > 3 and any(length != 1 for length in shape[3:]):
        raise CaseRefused(case, f"must be one 3D volume, holds {int(np.prod(shape[3:]))} in shape {shape}")
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise CaseRefused(case, f"must be a 3D volume, is 2D or less with shape {shape}")
    if (voxels := math.prod(shape)) > MOST_VOXELS:  # before anything is unpacked: a header may claim any size
        raise CaseRefused(case, f"must have at most {MOST_VOXELS} voxels, has {voxels}")


def check_affine(case: str, affine: NDArray[np.float64]) -> None:
    """Refuse a voxel-to-mm matrix that does not place voxels in space."""
    if not np.isfinite(affine).all():
        raise CaseRefused(case, "affine must be finite, has NaN or infinite values")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 0).all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise CaseRefused(case, f"affine must be invertible, is singular: {np.round(affine[:3, :3], 4).tolist()}")


def check_extent(case: str, shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    """Refuse a field of view that no patient and no organ has: its voxel sizes are in another unit."""
    longest = float((np.linalg.norm(affine[:3, :3], axis=0) * shape[:3]).max())
    if not NARROWEST_MM <= longest <= WIDEST_MM:
        expected = f"between {NARROWEST_MM:g} and {WIDEST_MM:g} mm along its longest axis"
        raise CaseRefused(
            case, f"field of view must be {expected}, is {longest:.3g} mm; correct the voxel sizes or their unit"
        )


def displacement_mm(shape: tuple[int, ...], affine: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How far two affines put the same voxel apart, at most: a corner is where a difference is largest."""
    corners = np.array(list(product(*((0, length - 1) for length in shape[:3]))))
    moved = corners @ (affine - other)[:3, :3].T + (affine - other)[:3, 3]
    return float(np.linalg.norm(moved, axis=1).max())


def _checked_voxels(case: str, array: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Finite voxels, and what was repaired in them."""
    with np.errstate(over="ignore"):
        voxels = np.asarray(array, np.float32)
    bad, warnings = ~np.isfinite(voxels), tuple[str, ...]()
    if bad.any() and _is_outside(voxels, bad):
        voxels = np.where(bad, voxels[~bad].min(), voxels)
        warnings = (f"{bad.mean():.0%} of the voxels, all around the image, are NaN; taken as its darkest value",)
    elif count := int(bad.sum()):
        raise CaseRefused(case, f"voxels must be finite, {count} of {voxels.size} are NaN or infinite")
    if voxels.min() == voxels.max():
        raise CaseRefused(case, f"voxels must differ, all are {voxels.min():g}")
    return voxels, warnings


def _is_outside(voxels: NDArray[np.float32], bad: NDArray[np.bool_]) -> bool:
    """Whether what is not finite is NaN, reaches a good part of the border, and lies nowhere else: SPM and
    registration write what is outside of the image so.
    """
    faces = np.ones(bad.shape, np.bool_)
    faces[1:-1, 1:-1, 1:-1] = False
    if bad.all() or np.isinf(voxels).any() or bad[faces].mean() < LEAST_BORDER:
        return False
    pieces, count = ndimage.label(bad)
    return np.setdiff1d(np.arange(1, count + 1), pieces[faces]).size == 0


def describe_grid(volume_shape: tuple[int, ...], affine: NDArray[np.float64]) -> str:
    """A grid in words, for messages."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return f"{'x'.join(map(str, volume_shape))} at {'x'.join(f'{value:.3f}' for value in spacing)} mm"
