"""The voxels of a DICOM series, by dcm2niix, the field's own converter.

It sees the series' files alone, in a temporary folder and under neutral names, so that nothing of a header ends in
a file name or a message. Where its voxels lie is held against the headers before they are used: it writes a volume
for a stack with a missing slice, too.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from meddiff_core.data.dicom.header import Header, read_dataset, read_header
from meddiff_core.data.dicom.stack import EXACT_MM, stack_of
from meddiff_core.data.scan import Scan, check_shape, ras_scan
from meddiff_core.errors import CaseRefused

TIMEOUT_S = 600.0
SAME_COSINES = 2e-3
SAME_SPACING_MM = 1e-3
MOST_TURN = 0.1
"""Largest part of a voxel by which one step of the converter's grid may differ from the headers'."""
IGNORED_SCALING = "slope/intercept is being ignored"
RESAMPLED = ("_Eq", "_Tilt")
"""Suffixes of second versions that dcm2niix makes of stacks that it finds uneven; geometry is decided here."""
OF_SIDECARS = (
    *("patient position", "unable to determine manufacturer", "protocol name", "instance number", "siemens moco"),
    *("slice timing", "interslice distance"),
)
"""Warnings of dcm2niix that concern files not asked for, or what the headers' positions have settled."""
MOST_WARNINGS = 3


def read_series(case: str, slices: Sequence[Path]) -> Scan:
    """One volume from the files of a series; CaseRefused says why it cannot be used."""
    if not slices:
        raise CaseRefused(case, "must be a DICOM series, has no slices")
    headers = [_header(case, path) for path in slices]
    _check_grey(case, headers)
    _check_alike(case, headers)
    shape = (headers[0].columns, headers[0].rows, sum(header.frames for header in headers))
    check_shape(case, shape)
    stack = stack_of(headers)
    if stack.faults:
        raise CaseRefused(case, "; ".join(stack.faults))
    array, affine, warnings = _convert(case, headers)
    voxels, affine = _on_headers_grid(case, array, affine, shape, stack.affine)
    if stack.displacement_mm > EXACT_MM:
        warnings.append(f"slices lie up to {stack.displacement_mm:.3f} mm off an even stack, taken as rounding")
    modality = headers[0].text.get("Modality")
    return ras_scan(case, voxels, affine, headers[0].bits, True, modality, tuple(warnings))


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


def _convert(case: str, headers: Sequence[Header]) -> tuple[NDArray[Any], NDArray[np.float64], list[str]]:
    """Voxels as dcm2niix writes them, their affine (RAS) and what it warns of."""
    with tempfile.TemporaryDirectory(prefix="meddiff-dicom-") as name:
        source, target = Path(name, "in"), Path(name, "out")
        source.mkdir()
        target.mkdir()
        _lay_out(case, headers, source)
        said = _run_converter(case, headers, source, target)
        files = [path for path in target.glob("*.nii") if not any(f"{sign}_" in path.stem for sign in RESAMPLED)]
        syntax = f"{headers[0].syntax.name or 'an unknown transfer syntax'}"
        if not files:
            raise CaseRefused(case, f"pixels must be decodable, dcm2niix gave no volume of {syntax}{_errors(said)}")
        if len(files) > 1:
            raise CaseRefused(case, f"must be one volume, dcm2niix found {len(files)} in this series")
        image = nib.load(files[0])
        assert isinstance(image, nib.Nifti1Image)
        return np.array(image.dataobj), np.asarray(image.affine, np.float64), _warnings(said)


def _lay_out(case: str, headers: Sequence[Header], folder: Path) -> None:
    """Links to the slices; a copy with preamble and one series UID where the converter would not join them."""
    joined = len({header.series for header in headers}) > 1
    for number, header in enumerate(headers):
        path = folder / f"{number:05d}.dcm"
        if header.preamble and not joined:
            path.symlink_to(header.path.resolve())
            continue
        try:
            _write_standard(header.path, path, headers[0].series)
        except Exception as error:  # as above
            raise CaseRefused(case, f"{header.path.name} cannot be read to its end ({type(error).__name__})") from error


def _write_standard(source: Path, target: Path, series: str) -> None:
    """The same data set with preamble, meta information and the given Series Instance UID."""
    data = read_dataset(source, whole=True)
    data.SeriesInstanceUID = series
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        data.file_meta.TransferSyntaxUID = _plain_syntax(bool(implicit), bool(little))
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.preamble = b"\0" * 128
    data.save_as(target, enforce_file_format=True)


def _plain_syntax(implicit: bool, little: bool) -> str:
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"


def _run_converter(case: str, headers: Sequence[Header], source: Path, target: Path) -> str:
    """What dcm2niix says; its exit status is no measure, its volumes are."""
    environment = {"HOME": str(target), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [*_command(headers[0]), "-o", str(target), str(source)],
            cwd=target,
            env=environment,
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
    said = (done.stdout + b"\n" + done.stderr).decode(errors="replace").replace(f"{source}{os.sep}", "")
    if IGNORED_SCALING in said:
        raise CaseRefused(case, "rescale slopes vary from slice to slice, dcm2niix does not apply them")
    return said


def _command(first: Header) -> list[str]:
    """Merged, neither cropped nor turned, without side files.

    Philips: `-p n`, the values of the Modality LUT and not the vendor's own scale. For others that option would drop
    slopes that vary from slice to slice.
    """
    philips = "philips" in first.text.get("Manufacturer", "").lower()
    options = {"-z": "n", "-b": "n", "-f": "volume", "-m": "y", "-x": "i", "-w": "2", "-p": "n" if philips else "y"}
    return [dcm2niix.bin, *(part for option in options.items() for part in option)]


def _errors(said: str) -> str:
    lines = re.findall(r"^Error:? *(.+)$", said, re.MULTILINE)
    return f": {lines[0][:200]}" if lines else ""


def _warnings(said: str) -> list[str]:
    lines = dict.fromkeys(re.findall(r"^Warning: *(.+)$", said, re.MULTILINE))
    kept = [line for line in lines if not any(sign in line.lower() for sign in OF_SIDECARS) or "Missing" in line]
    return [f"dcm2niix: {line[:200]}" for line in kept[:MOST_WARNINGS]]


def _on_headers_grid(
    case: str,
    array: NDArray[Any],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    expected: NDArray[np.float64],
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The converter's voxels with the headers' affine, in the converter's order of axes.

    dcm2niix takes the slice distance from the first two slices, which rounded positions spoil.
    """
    check_shape(case, array.shape)
    voxels = array.reshape(array.shape[:3])
    steps = (np.linalg.inv(expected) @ affine)[:3, :3]
    turn = np.rint(steps)
    if not np.array_equal(turn @ turn.T, np.eye(3)) or np.abs(steps - turn).max() > MOST_TURN:
        raise CaseRefused(case, f"dcm2niix must keep the headers' grid, steps by {np.round(steps, 3).tolist()} voxels")
    if tuple(np.abs(turn) @ voxels.shape) != shape:
        raise CaseRefused(case, f"dcm2niix must give {shape} voxels, gave {voxels.shape}")
    placed = np.eye(4)
    placed[:3, :3] = turn
    placed[:3, 3] = np.where(turn.sum(axis=1) < 0, np.array(shape) - 1, 0)
    if not _meets(expected @ placed, affine, voxels.shape):
        raise CaseRefused(case, "dcm2niix must place the volume where the headers do, places it elsewhere")
    return voxels, expected @ placed


def _meets(expected: NDArray[np.float64], got: NDArray[np.float64], shape: tuple[int, ...]) -> bool:
    """Whether two grids with like steps agree within half a voxel at one corner or more."""
    corners = np.array([[*np.where(bits, np.array(shape) - 1, 0), 1] for bits in np.ndindex(2, 2, 2)], np.float64)
    off = np.abs(np.linalg.inv(expected) @ (got - expected) @ corners.T)[:3]
    return bool((off.max(axis=0) <= 0.5).any())
