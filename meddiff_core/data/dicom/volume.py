"""The voxels of a DICOM series, by dcm2niix, the field's own converter.

It is given what the headers were found to say and no more: each frame as a slice of its own, with pixels and place,
under a neutral name. So nothing of a patient reaches it, and no habit of a vendor or an export (slices of several
UIDs or times, scales that vary, private elements) makes it split, scale or interpolate what is one even stack.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from meddiff_core.data.dicom.header import Header, read_dataset, read_header
from meddiff_core.data.dicom.stack import EXACT_MM, LPS_TO_RAS, Stack, order_of, stack_of
from meddiff_core.data.scan import Scan, check_shape, ras_scan
from meddiff_core.errors import CaseRefused

TIMEOUT_S = 600.0
SAME_COSINES = 2e-3
SAME_SPACING_MM = 1e-3
PLACED_MM = 0.05
"""Largest distance between the converter's corners and those of the headers."""
NATIVE = (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)
OPTIONS = ("-z", "n", "-b", "n", "-f", "volume", "-m", "y", "-x", "i", "-w", "2", "-p", "n")
"""Not compressed, no side file, slices merged, neither cropped nor turned, no scale of a vendor."""
GREY = "MONOCHROME2"
ROOT_UID = "2.25."


def read_series(case: str, slices: Sequence[Path]) -> Scan:
    """One volume from the files of a series; CaseRefused says why it cannot be used."""
    if not slices:
        raise CaseRefused(case, "must be a DICOM series, has no slices")
    headers = [_header(case, path) for path in slices]
    _check_grey(case, headers)
    _check_alike(case, headers)
    check_shape(case, _shape(headers))
    stack = stack_of(headers)
    if stack.faults:
        raise CaseRefused(case, "; ".join(stack.faults))
    array = _rescaled(case, headers, _convert(case, headers, stack))
    warnings = []
    if stack.displacement_mm > EXACT_MM:
        warnings.append(f"slices lie up to {stack.displacement_mm:.3f} mm off an even stack, taken as rounding")
    first = headers[0]
    return ras_scan(case, array, stack.affine, first.bits, True, first.text.get("Modality"), tuple(warnings))


def _shape(headers: Sequence[Header]) -> tuple[int, int, int]:
    return headers[0].columns, headers[0].rows, sum(header.frames for header in headers)


def _header(case: str, path: Path) -> Header:
    if not path.exists():
        raise CaseRefused(case, f"slice is gone: {path.name}")
    try:
        header = read_header(path)
    except Exception as error:  # pydicom raises many kinds on a damaged file, with texts that may quote the header
        raise CaseRefused(case, f"{path.name} cannot be read as DICOM ({type(error).__name__})") from error
    if header.lacking:
        raise CaseRefused(case, f"{path.name} must have {', '.join(header.lacking)}")
    if not all(np.isfinite(value) and value > 0 for value in header.spacing_mm or ()):
        raise CaseRefused(case, f"spacing must be > 0 mm, got {header.spacing_mm}")
    if header.positions is not None and len(header.positions) != header.frames:
        raise CaseRefused(case, f"{path.name} must place {header.frames} frames, places {len(header.positions)}")
    return header


def _check_grey(case: str, headers: Sequence[Header]) -> None:
    for header in headers:
        if header.samples != 1 or header.colours not in ("MONOCHROME1", "MONOCHROME2"):
            found = header.colours or "of no known kind"
            raise CaseRefused(case, f"pixels must be grey, are {found} with {header.samples} samples")


def _check_alike(case: str, headers: Sequence[Header]) -> None:
    """All frames on planes that are parallel, of one size and one spacing."""
    expected = _plane(headers[0])
    for header in headers:
        for (name, tolerance, want), (_, _, got) in zip(expected, _plane(header), strict=True):
            if np.abs(got - want[:1]).max() > tolerance:
                raise CaseRefused(case, f"slices must share {name}, have {want[0].tolist()} and {_farthest(got, want)}")


def _farthest(got: NDArray[np.float64], want: NDArray[np.float64]) -> list[float]:
    return list(got[np.abs(got - want[:1]).max(axis=1).argmax()].tolist())


def _plane(header: Header) -> list[tuple[str, float, NDArray[np.float64]]]:
    """Name, tolerance and values (frames or 1, n) of what slices share."""
    assert header.orientations is not None
    return [
        ("ImageOrientationPatient", SAME_COSINES, header.orientations),
        ("PixelSpacing", SAME_SPACING_MM, np.array([header.spacing_mm], np.float64)),
        ("Rows and Columns", 0, np.array([[header.rows, header.columns]], np.float64)),
    ]


def _convert(case: str, headers: Sequence[Header], stack: Stack) -> NDArray[Any]:
    """Stored pixels (column, row, slice in order of position)."""
    with tempfile.TemporaryDirectory(prefix="meddiff-dicom-") as name:
        source, target = Path(name, "in"), Path(name, "out")
        source.mkdir()
        target.mkdir()
        _lay_out(case, headers, stack, source)
        said = _run_converter(case, source, target)
        files = sorted(target.iterdir())
        if len(files) != 1 or files[0].suffix != ".nii":
            raise CaseRefused(
                case, f"dcm2niix must give one volume of {headers[0].coding}, gave {len(files)}{_first_error(said)}"
            )
        image = nib.load(files[0])
        assert isinstance(image, nib.Nifti1Image)
        return _on_headers_grid(case, image, _shape(headers), stack.upright)


def _lay_out(case: str, headers: Sequence[Header], stack: Stack, folder: Path) -> None:
    """A file for each frame, numbered along the normal, at its place on the even grid."""
    place = np.argsort(order_of(headers))
    frame = 0
    for header in headers:
        try:
            for pixels, data in _frames(header):
                _write_slice(folder, int(place[frame]), pixels, data, headers[0], stack)
                frame += 1
        except Exception as error:  # a damaged file makes pydicom raise many kinds
            what = f"pixels of {header.path.name} ({header.coding})"
            raise CaseRefused(case, f"{what} cannot be read: {_brief(error)}") from error


def _brief(error: Exception) -> str:
    """Our own words, or the kind of error: those of pydicom may quote the header."""
    return str(error) if isinstance(error, EOFError) else type(error).__name__


def _frames(header: Header) -> Iterator[tuple[bytes, Dataset]]:
    """Pixels of each frame, as they are stored, and the data set that describes them."""
    data = read_dataset(header.path, pixels=True)
    if "TransferSyntaxUID" not in data.file_meta or data.file_meta.TransferSyntaxUID.is_deflated:
        data.file_meta.TransferSyntaxUID = _plain_syntax(*data.original_encoding)
    if "PixelData" not in data:
        raise EOFError("the file ends before them, or has none")
    if data.file_meta.TransferSyntaxUID not in NATIVE:
        for pixels in generate_frames(data.PixelData, number_of_frames=header.frames):
            yield encapsulate([pixels]), data
        return
    size = header.rows * header.columns * (int(data.BitsAllocated) // 8)
    if len(data.PixelData) < size * header.frames:
        raise EOFError(f"{len(data.PixelData)} of {size * header.frames} bytes are there")
    for frame in range(header.frames):
        yield data.PixelData[frame * size : (frame + 1) * size], data


def _plain_syntax(implicit: bool | None, little: bool | None) -> UID:
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _write_slice(folder: Path, number: int, pixels: bytes, data: Dataset, first: Header, stack: Stack) -> None:
    """What the converter needs of one frame; its place is on the even, upright grid: dcm2niix knows no lean."""
    part = Dataset()
    part.file_meta = FileMetaDataset()
    part.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = MRImageStorage
    part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = UID(f"{ROOT_UID}{number + 1}")
    part.StudyInstanceUID = part.SeriesInstanceUID = UID(f"{ROOT_UID}0")
    part.Modality, part.InstanceNumber, part.SeriesNumber = "MR", number + 1, 1
    position = (LPS_TO_RAS @ stack.upright @ [0, 0, number, 1])[:3]
    assert first.orientations is not None
    part.ImagePositionPatient = [_decimal(value) for value in position]
    part.ImageOrientationPatient = [_decimal(value) for value in first.orientations[0]]
    part.PixelSpacing = [_decimal(value) for value in first.spacing_mm or ()]
    part.SliceThickness = _decimal(float(np.linalg.norm(stack.upright[:3, 2])))
    part.Rows, part.Columns, part.SamplesPerPixel, part.PhotometricInterpretation = first.rows, first.columns, 1, GREY
    for name in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        setattr(part, name, int(data[name].value))
    part.PixelData = pixels
    part["PixelData"].VR = "OB" if data.file_meta.TransferSyntaxUID not in NATIVE else "OW"
    part.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value:.9f}"[:16]


def _run_converter(case: str, source: Path, target: Path) -> str:
    """What dcm2niix says; its exit status is no measure, its volumes are."""
    try:
        done = subprocess.run(
            [dcm2niix.bin, *OPTIONS, "-o", str(target), str(source)],
            cwd=target,
            env={"HOME": str(target), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CaseRefused(case, f"dcm2niix must end within {TIMEOUT_S:g} s, did not") from error
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise CaseRefused(case, f"dcm2niix must be installed, cannot be started: {why}") from error
    if done.returncode < 0:
        raise CaseRefused(case, f"dcm2niix must end, was stopped by signal {-done.returncode}")
    return (done.stdout + b"\n" + done.stderr).decode(errors="replace").replace(f"{source}{os.sep}", "")


def _first_error(said: str) -> str:
    lines = re.findall(
        r"^(?:Error|Warning):? *(.*(?:decode|decompress|Transfer Syntax|corrupt).*)$", said, re.MULTILINE
    )
    return f": {lines[0][:200]}" if lines else ""


def _on_headers_grid(
    case: str, image: nib.Nifti1Image, shape: tuple[int, int, int], affine: NDArray[np.float64]
) -> NDArray[Any]:
    """The converter's voxels in the order of the headers' grid, whose corners must be where the converter's are."""
    if image.shape != shape:
        raise CaseRefused(case, f"dcm2niix must give {shape} voxels, gave {image.shape}")
    flips = np.rint(np.diag(np.linalg.inv(affine) @ image.affine)[:3]).astype(int)
    turn = np.diag([*flips, 1.0])
    turn[:3, 3] = np.where(flips < 0, np.array(shape) - 1, 0)
    corners = np.array([[*np.where(bits, np.array(shape) - 1, 0), 1] for bits in np.ndindex(2, 2, 2)], np.float64)
    off = np.linalg.norm((affine @ turn - image.affine) @ corners.T, axis=0).max()
    if not off <= PLACED_MM:
        raise CaseRefused(case, f"dcm2niix must place the volume where its headers do, is {off:.2f} mm off")
    return np.asarray(image.dataobj)[tuple(slice(None, None, int(flip)) for flip in flips)]


def _rescaled(case: str, headers: Sequence[Header], array: NDArray[Any]) -> NDArray[np.float32]:
    """Each slice by its own slope and intercept."""
    rescale = np.concatenate([np.broadcast_to(header.rescale, (header.frames, 2)) for header in headers])
    if not np.isfinite(rescale).all() or (rescale[:, 0] == 0).any():
        raise CaseRefused(case, "rescale slope must be a number other than 0, is not in every slice")
    voxels = np.empty(array.shape, np.float32, order="F")
    for number, (slope, intercept) in enumerate(rescale[order_of(headers)].tolist()):
        voxels[..., number] = array[..., number] * slope + intercept
    return voxels
