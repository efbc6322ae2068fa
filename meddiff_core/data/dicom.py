"""Series of DICOM slices, stacked by their positions in space and never by file name.

A tilted gantry, a missing slice or an uneven distance makes a stack that looks like a head and has the wrong
shape; such a series is refused with the measured figures. DICOM is LPS; it leaves here as RAS+.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from meddiff_core.artefacts import digest_of
from meddiff_core.data.scan import Scan, check_shape, ras_scan
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Refusal

MOST_TILT_DEGREES = 0.5
MOST_UNEVEN_MM = 0.05
MOST_UNEVEN_SHARE = 0.01
SAME_POSITION_MM = 1e-3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does; a DICOMDIR is an index and does not count."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@dataclass(frozen=True)
class DicomSeries:
    """One series."""

    slices: tuple[Path, ...]
    patient: str | None
    study: str
    name: str
    kind: str


@dataclass(frozen=True)
class DicomIndex:
    """All series."""

    series: tuple[DicomSeries, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[Refusal, ...] = ()


def index_dicom(files: Sequence[Path], root: Path) -> DicomIndex:
    """Series among files."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    patients = {}
    for path in sorted(files):
        try:
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "PatientID", "SeriesDescription"]
            )
            uid = str(header.get("SeriesInstanceUID", ""))
            patients[uid] = str(header.get("PatientID", ""))
        except Exception:
            uid = path.name
        found[uid].append(path)
    folders = {uid: (paths[0].parent.relative_to(root).parts or (root.resolve().name,)) for uid, paths in found.items()}
    several = list(folders.values())
    return DicomIndex(
        tuple(
            DicomSeries(
                tuple(paths),
                digest_of(patients[uid])[:12] if patients.get(uid) else "",
                "",
                "/".join(folders[uid]) + (f"_{digest_of(uid)[:8]}" if several.count(folders[uid]) > 1 else ""),
                "",
            )
            for uid, paths in sorted(found.items())
        )
    )


def read_series(case: str, files: Sequence[Path]) -> Scan:
    """One volume from a series of single-frame slices; CaseRefused says why it cannot be used."""
    slices = [_read_slice(case, path) for path in files]
    check_shape(case, (len(slices), int(slices[0].Rows), int(slices[0].Columns)))
    _check_alike(case, slices)
    normal = _normal(slices[0])
    slices.sort(key=lambda part: float(_position(part) @ normal))
    positions = np.array([_position(part) for part in slices])
    if faults := _geometry_faults(positions, normal, _spacing(slices[0])[0]):
        raise CaseRefused(case, "; ".join(faults))
    array = np.stack([_intensities(case, part).T for part in slices], axis=-1)
    bits = int(slices[0].get("BitsStored", 16))
    return ras_scan(
        case, array, _affine(slices[0], positions), bits, True, modality=str(slices[0].get("Modality", "")) or None
    )


def _read_slice(case: str, path: Path) -> FileDataset:
    try:
        part = pydicom.dcmread(path)
    except Exception as error:  # pydicom raises many kinds on a damaged file
        raise CaseRefused(case, f"{path.name} cannot be read as DICOM: {error}") from error
    if int(part.get("NumberOfFrames", 1) or 1) > 1:
        raise CaseRefused(case, f"{path.name} holds several frames; convert the series to NIfTI first")
    if int(part.get("SamplesPerPixel", 1)) != 1:
        raise CaseRefused(case, f"{path.name} must be grey, has {part.SamplesPerPixel} samples a pixel")
    if lacking := [name for name in NEEDED if part.get(name) in (None, "")]:
        raise CaseRefused(case, f"{path.name} must have {', '.join(lacking)}")
    return part


def _check_alike(case: str, slices: Sequence[FileDataset]) -> None:
    first = slices[0]
    for name, tolerance in (("ImageOrientationPatient", 1e-3), ("PixelSpacing", 1e-4), ("Rows", 0), ("Columns", 0)):
        expected = np.atleast_1d(np.asarray(first[name].value, float))
        for part in slices:
            got = np.atleast_1d(np.asarray(part[name].value, float))
            if expected.shape != got.shape or np.abs(expected - got).max() > tolerance:
                raise CaseRefused(case, f"slices must share {name}, have {expected.tolist()} and {got.tolist()}")
    if len(series := {str(part.get("SeriesInstanceUID", "")) for part in slices}) > 1:
        raise CaseRefused(case, f"folder must hold one series, holds {len(series)}")
    if not all(value > 0 for value in _spacing(first)):
        raise CaseRefused(case, f"spacing must be > 0 mm, got {_spacing(first)}")


def _geometry_faults(positions: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float) -> list[str]:
    """Why slices in order of position are not an even, straight stack, each fault with its figures."""
    distances = np.diff(positions @ normal)
    path = positions[-1] - positions[0]
    if same := int((distances < SAME_POSITION_MM).sum()):
        return [f"slices must lie apart, {same} of {len(positions)} lie where another one does"]
    faults = []
    tilt = float(np.degrees(np.arccos(np.clip(path @ normal / np.linalg.norm(path), -1, 1))))
    if tilt > MOST_TILT_DEGREES:
        faults.append(f"gantry tilt must be at most {MOST_TILT_DEGREES} degrees, is {tilt:.1f}")
    usual = float(np.median(distances))
    if np.abs(distances - usual).max() > min(MOST_UNEVEN_MM, MOST_UNEVEN_SHARE * usual):
        faults.append(_uneven(distances, usual))
    aside = positions - positions[0] - np.outer(positions @ normal - positions[0] @ normal, path / (path @ normal))
    if (shift := float(np.linalg.norm(aside, axis=1).max())) > 0.1 * pixel_mm and not faults:
        faults.append(f"slices must lie on a straight line, are up to {shift:.2f} mm aside of it")
    return faults


def _uneven(distances: NDArray[np.float64], usual: float) -> str:
    steps = distances / usual
    whole = np.rint(steps)
    if np.abs(steps - whole).max() < 0.05 and whole.min() >= 1:
        return f"{int((whole - 1).sum())} slices are missing: distance {usual:.2f} mm, up to {distances.max():.2f} mm"
    return f"slice distance must be even, is {distances.min():.2f} to {distances.max():.2f} mm (median {usual:.2f} mm)"


def _affine(first: FileDataset, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel (column, row, slice) to mm, RAS: PS3.3 C.7.6.2.1.1, with the step between slices measured."""
    row_mm, column_mm = _spacing(first)
    along_row, along_column = _axes(first)
    affine = np.eye(4)
    affine[:3, 0] = along_row * column_mm
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return LPS_TO_RAS @ affine


def _spacing(part: FileDataset) -> tuple[float, float]:
    """Distance between rows and between columns, mm."""
    rows, columns = part.PixelSpacing
    return float(rows), float(columns)


def _axes(part: FileDataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cosines = np.asarray(part.ImageOrientationPatient, np.float64)
    return cosines[:3], cosines[3:]


def _normal(part: FileDataset) -> NDArray[np.float64]:
    normal = np.cross(*_axes(part))
    return normal / np.linalg.norm(normal)


def _position(part: FileDataset) -> NDArray[np.float64]:
    return np.asarray(part.ImagePositionPatient, np.float64)


def _intensities(case: str, part: FileDataset) -> NDArray[np.float32]:
    """Pixels of one slice (row, column) after its own rescale slope and intercept."""
    try:
        pixels = part.pixel_array
    except Exception as error:  # no pixels, a length that is wrong, a codec that is not there
        raise CaseRefused(case, f"pixels of slice {part.get('InstanceNumber', '?')} cannot be read: {error}") from error
    slope, intercept = float(part.get("RescaleSlope") or 1), float(part.get("RescaleIntercept") or 0)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
