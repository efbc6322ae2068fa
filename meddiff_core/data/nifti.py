"""Volumes in single files, images and label maps: NIfTI, and FreeSurfer's MGH.

nibabel repairs a zero or negative voxel size in silence and scales label values as floats; both would give a
volume of the wrong size or structure. The header is therefore read again as it was written.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from meddiff_core.data.scan import Scan, check_affine, check_shape, describe_grid, ras_scan, to_ras
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Volume

GRID_TOLERANCE_MM = 1e-3


ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
"""NIfTI in one file, and FreeSurfer's own format."""


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


def read_label(case: str, path: Path, image: Volume) -> NDArray[np.int32]:
    """The label map of an image, on the same grid, RAS+."""
    file = _open(case, path, "label map")
    affine = _affine(file)
    check_affine(case, affine)
    values, affine = to_ras(_voxels(case, path, file, "label map"), affine)
    if values.shape != image.array.shape or not np.allclose(affine, image.affine, rtol=0, atol=GRID_TOLERANCE_MM):
        expected, got = describe_grid(image.array.shape, image.affine), describe_grid(values.shape, affine)
        moved = np.abs(affine - image.affine).max()
        raise CaseRefused(
            case, f"label map must be on the image's grid {expected}, is {got} (affines differ by {moved:.4g})"
        )
    return _label_values(case, values)


def _label_values(case: str, values: NDArray[Any]) -> NDArray[np.int32]:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise CaseRefused(case, f"label values must be 0 or more, range from {values.min():g} to {values.max():g}")
    labels = values.astype(np.int32)
    if (wrong := values != labels).any():
        raise CaseRefused(case, f"label values must be whole numbers, one is {values[wrong][0]:g}")
    return labels


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
    return np.asarray(image.affine, np.float64)


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
    spacing, stated = np.linalg.norm(image.affine[:3, :3], axis=0), np.asarray(header.get_zooms()[:3])
    if not np.allclose(spacing, stated, rtol=0.01):
        found.append(
            f"pixdim {np.round(stated, 3).tolist()} and affine {np.round(spacing, 3).tolist()} differ; affine is used"
        )
    return found


def _without_path(error: Exception, path: Path) -> str:
    """First line of what a reader says, without the folders that it names."""
    line = (str(error).splitlines() or [""])[0] or type(error).__name__
    return line.replace(f"File {path}", "it").replace(str(path), "the file")
