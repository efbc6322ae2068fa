"""Volumes in single files, images and label maps: NIfTI, and FreeSurfer's MGH.

nibabel repairs a zero or negative voxel size in silence and scales label values as floats; both would give a
volume of the wrong size or structure. The header is therefore read again as it was written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from meddiff_core.data.scan import (
    Scan,
    check_affine,
    check_shape,
    describe_grid,
    displacement_mm,
    ras_scan,
    to_ras,
)
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Volume

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
"""NIfTI in one file, and FreeSurfer's own format."""
MOST_DISPLACED = 0.1
"""Share of a voxel up to which two grids are one, written with different rounding."""
WORTH_A_NOTE = 0.01
"""The same, where it is not worth a note."""
MOST_ROUNDED = 0.01
"""How far a label value may be from a whole number: a slope, or single precision."""
UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres in the unit of length that a header states, by its code: metre, millimetre, micrometre."""
UNIT_NAMES = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True)
class LabelMap:
    """Label values on the grid of their image, and what had to be repaired."""

    values: NDArray[np.int32]
    warnings: tuple[str, ...] = ()


def is_volume(path: Path) -> bool:
    """Whether the name is that of a volume in a single file."""
    return path.name.lower().endswith(ENDINGS)


def stem_of(path: Path) -> str:
    """The name of an image without .nii.gz and the like."""
    name = path.name
    for suffix in ENDINGS:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_nifti(case: str, path: Path, channel: int | None = None) -> Scan:
    """One volume, or one channel of several along the fourth axis; CaseRefused says why it cannot be used."""
    image = _open(case, path, "image", channel)
    array = _voxels(case, path, image, "image")
    stored = image.get_data_dtype()
    bits, integer = 8 * stored.itemsize, stored.kind in "iu"
    return ras_scan(case, array, _affine(image), bits, integer, warnings=tuple(_warnings(image)))


def read_label(case: str, path: Path, image: Volume) -> LabelMap:
    """The label map of an image, on the same grid, RAS+."""
    file = _open(case, path, "label map")
    affine = _affine(file)
    check_affine(case, affine)
    stored, affine = to_ras(_voxels(case, path, file, "label map"), affine)
    aside = _check_grid(case, stored.shape, affine, image)
    values, rounded = _label_values(case, stored)
    warnings = []
    if aside > WORTH_A_NOTE:
        warnings.append(f"label map lies up to {aside:.2g} of a voxel aside of its image; taken as rounding")
    if rounded:
        warnings.append(f"label values were rounded to whole numbers, by at most {rounded:.2g}")
    return LabelMap(values, tuple(warnings))


def _check_grid(case: str, shape: tuple[int, ...], affine: NDArray[np.float64], image: Volume) -> float:
    """How far a label map lies aside of its image, in voxels."""
    same = shape == image.array.shape
    moved_mm = displacement_mm(shape, affine, image.affine) if same else 0.0
    aside = moved_mm / min(image.spacing_mm)
    if same and aside <= MOST_DISPLACED:
        return aside
    expected, got = describe_grid(image.array.shape, image.affine), describe_grid(shape, affine)
    figure = f"up to {moved_mm:.3g} mm aside, {aside:.2g} of a voxel"
    found = figure if expected == got else f"{got}, {figure}" if same else got
    raise CaseRefused(case, f"label map must be on the image's grid {expected}, is {found}")


def _label_values(case: str, values: NDArray[Any]) -> tuple[NDArray[np.int32], float]:
    """Whole numbers, and by how much one had to be rounded at most."""
    low, high = values.min(), values.max()
    if not np.isfinite(values).all() or low < -MOST_ROUNDED or high > np.iinfo(np.int32).max:
        raise CaseRefused(case, f"label values must be 0 or more, range from {low:g} to {high:g}")
    if values.dtype.kind in "iu":
        return values.astype(np.int32), 0.0
    labels = np.rint(values).astype(np.int32)
    off = np.abs(values - labels)
    if (wrong := off > MOST_ROUNDED).any():
        raise CaseRefused(case, f"label values must be whole numbers, one is {values[wrong][0]:g}")
    return labels, float(off.max())


def _open(case: str, path: Path, what: str, channel: int | None = None) -> nib.Nifti1Image:
    if not path.exists():
        raise CaseRefused(case, f"{what} is gone: {path.name}")
    try:
        image = nib.load(path)
    except Exception as error:  # a damaged header makes nibabel raise many kinds
        raise CaseRefused(case, f"{what} cannot be read as NIfTI: {_without_path(error, path)}") from error
    if isinstance(image, nib.MGHImage):
        image = nib.Nifti1Image.from_image(image)
    elif isinstance(image, nib.Nifti1Image):
        _check_spacing(case, image)
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one
        raise CaseRefused(case, f"{what} must be NIfTI, is {type(image).__name__}")
    image = image if channel is None else _channel(case, image, channel)
    check_shape(case, tuple(int(length) for length in image.shape))
    if image.get_data_dtype().kind not in "iuf":
        raise CaseRefused(case, f"{what} must hold one number a voxel, holds {image.get_data_dtype()}")
    return image


def _channel(case: str, image: nib.Nifti1Image, channel: int) -> nib.Nifti1Image:
    """One volume of a file that holds several along its fourth axis."""
    if len(image.shape) != 4 or channel >= image.shape[3]:
        raise CaseRefused(case, f"must hold channel {channel} along a fourth axis, has shape {image.shape}")
    return image.slicer[..., channel]


def _voxels(case: str, path: Path, image: nib.Nifti1Image, what: str) -> NDArray[Any]:
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            array = np.asanyarray(image.dataobj)
    except Exception as error:  # a truncated file: EOFError, zlib.error, OSError or ValueError
        raise CaseRefused(case, f"{what} cannot be read to its end: {_without_path(error, path)}") from error
    return np.asarray(array).reshape(array.shape[:3])


def _affine(image: nib.Nifti1Image) -> NDArray[np.float64]:
    """Voxel to mm, whatever unit of length the header states."""
    affine = np.array(image.affine, np.float64)
    affine[:3] *= UNITS_MM.get(_unit(image), 1.0)
    return affine


def _unit(image: nib.Nifti1Image) -> int:
    """Code of the unit of length: the lowest three bits of xyzt_units."""
    return int(image.header["xyzt_units"]) & 7


def _check_spacing(case: str, image: nib.Nifti1Image) -> None:
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        written = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]
    if not (np.isfinite(written) & (written > 0)).all():
        raise CaseRefused(case, f"spacing must be > 0 mm, got {', '.join(f'{value:g}' for value in written)}")


def _warnings(image: nib.Nifti1Image) -> list[str]:
    header = image.header
    found = []
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        found.append("has neither sform nor qform: its orientation is assumed")
    elif np.array_equal(image.affine, np.eye(4)):
        found.append("affine is the identity: spacing and orientation may have been lost")
    if name := UNIT_NAMES.get(_unit(image)):
        found.append(f"header states {name}: voxel sizes were converted to mm")
    spacing, stated = np.linalg.norm(image.affine[:3, :3], axis=0), np.asarray(header.get_zooms()[:3])
    if not np.allclose(spacing, stated, rtol=0.01):
        found.append(
            f"pixdim {np.round(stated, 3).tolist()} and affine {np.round(spacing, 3).tolist()} differ; affine is used"
        )
    return found + _forms(image)


def _forms(image: nib.Nifti1Image) -> list[str]:
    """Where sform and qform, both set, disagree: of one space in any way, of two spaces in the axes' directions."""
    header = image.header
    try:
        sform, qform = header.get_sform(coded=True), header.get_qform(coded=True)
    except (ValueError, HeaderDataError):  # a quaternion longer than 1
        return ["qform is no rotation; sform is used"]
    if sform[0] is None or qform[0] is None:
        return []
    axes = ["".join(map(str, aff2axcodes(affine))) for affine in (sform[0], qform[0])]
    moved = displacement_mm(image.shape, sform[0], qform[0])
    if axes[0] == axes[1] and (sform[1] != qform[1] or moved <= MOST_DISPLACED * min(header.get_zooms()[:3])):
        return []
    turned = f": axes {axes[0]} and {axes[1]}" if axes[0] != axes[1] else ""
    if set("LR") & {a for pair in zip(*axes, strict=True) if pair[0] != pair[1] for a in pair}:
        turned += ", left and right may be swapped"
    moved_mm = moved * UNITS_MM.get(_unit(image), 1.0)
    return [f"sform and qform put a voxel up to {moved_mm:.3g} mm apart{turned}; sform is used"]


def _without_path(error: Exception, path: Path) -> str:
    """First line of what a reader says, without the folders that it names."""
    line = (str(error).splitlines() or [""])[0] or type(error).__name__
    return line.replace(f"File {path}", "it").replace(str(path), "the file")
