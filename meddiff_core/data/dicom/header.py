"""What a scan's identity, contrast and geometry need of a DICOM header, and nothing else of it.

Pixels are not read, and identifiers are digested at once, so that no name or Patient ID outlives this module.
Old consoles wrote files without the preamble; they are recognised by their first elements, never by their names.
"""

import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import VR

from meddiff_core.artefacts import digest_of

Vectors = NDArray[np.float64]

PREAMBLE = 128
HEAD_BYTES = 4096
"""Of a file without a preamble, enough for its first elements."""
DEFLATED, MOST_INFLATED, AT_ONCE = b"1.2.840.10008.1.2.1.99", 2**30, 2**20
"""The transfer syntax of a file that is compressed as a whole, its bytes at most, and those inflated at a time."""
LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
FIRST_TAGS = {(0x0008, 0x0008), (0x0008, 0x0016), (0x0008, 0x0018), (0x0008, 0x0060)}
"""Image Type, SOP class, SOP instance, modality: an image without a preamble must begin with some of them."""
SQUARE = 0.01
"""Largest difference of the axes' cross product from a unit vector."""
GE_COMPONENT = 0x0043102F
COMPONENTS = {1: "phase", 2: "real", 3: "imaginary"}
TAGS: list[str | int] = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "ImageType"),
    *("Modality", "Manufacturer", "SeriesDescription", "ProtocolName", "ComplexImageComponent"),
    *("PatientID", "IssuerOfPatientID", "PatientName", "AccessionNumber"),
    *("ScanningSequence", "EchoNumbers", "EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent"),
    *("ConvolutionKernel", "AcquisitionNumber", "TemporalPositionIdentifier", "DiffusionBValue"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    GE_COMPONENT,
]
PIXEL_TAGS: list[str | int] = [
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
]
IMAGES = (
    "CT Image Storage",
    "Enhanced CT Image Storage",
    "Legacy Converted Enhanced CT Image Storage",
    "MR Image Storage",
    "Enhanced MR Image Storage",
    "Legacy Converted Enhanced MR Image Storage",
    "Positron Emission Tomography Image Storage",
    "Enhanced PET Image Storage",
    "Legacy Converted Enhanced PET Image Storage",
)


@dataclass(frozen=True)
class Header:
    """One file: whose it is, what it shows, where its frames lie (LPS, mm)."""

    path: Path
    patient: str | None
    study: str
    series: str
    """Series Instance UID; empty where the file has none."""
    instance: str
    sop_class: str
    syntax: UID
    image_type: tuple[str, ...]
    words: tuple[str, ...]
    """Of the series' description, without numbers, dates and whatever repeats the patient's name or ids."""
    text: dict[str, str]
    """Short values that distinguish contrasts and volumes, by their keyword."""
    figures: dict[str, float]
    """The same for numbers."""
    rows: int
    columns: int
    samples: int
    colours: str
    bits: int
    frames: int
    positions: Vectors | None
    """(frames, 3), centre of the first pixel; None where a frame has none."""
    orientations: Vectors | None
    """(frames, 6), direction cosines of rows and columns."""
    spacing_mm: tuple[float, float] | None
    """Distance between rows and between columns."""
    rescale: Vectors
    """(frames, 2), slope and intercept of the Modality LUT."""

    @property
    def coding(self) -> str:
        """Transfer syntax in words."""
        return str(self.syntax.name) or "no named transfer syntax"

    @property
    def lacking(self) -> list[str]:
        """What a slice needs to lie in space, and this one does not have."""
        needed = {
            "ImagePositionPatient": self.positions,
            "ImageOrientationPatient": self.orientations,
            "PixelSpacing": self.spacing_mm,
        }
        sizes = {"Rows": self.rows, "Columns": self.columns}
        return [name for name, value in needed.items() if value is None] + [n for n, v in sizes.items() if v < 1]


def is_dicom(path: Path) -> bool:
    """Whether a file's content begins as DICOM does, with or without a preamble; a DICOMDIR is no image."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return _has_preamble(head) or _begins_with_elements(head)


def _has_preamble(head: bytes) -> bool:
    return head[PREAMBLE : PREAMBLE + 4] == b"DICM"


def _begins_with_elements(head: bytes) -> bool:
    """Tags in order from group 0002 or 0008 on, one of them what every image has."""
    for order in "<", ">":
        tags = _leading_tags(head, order)
        ordered = all(before < after for before, after in pairwise(tags))
        if len(tags) >= 3 and ordered and tags[0][0] in (0x0002, 0x0008) and FIRST_TAGS & set(tags):
            return True
    return False


def _leading_tags(head: bytes, order: str) -> list[tuple[int, int]]:
    """Tags of the elements at the start, as far as their lengths lead within the head and the groups are low."""
    tags, at = [], 0
    while at + 12 <= len(head):
        group, element = struct.unpack_from(f"{order}HH", head, at)
        if group not in (0x0002, 0x0008, 0x0010):
            break
        tags.append((group, element))
        at += _element_bytes(head, at, order)
    return tags


def _element_bytes(head: bytes, at: int, order: str) -> int:
    """Length of an element with its own header, explicit or implicit."""
    vr = head[at + 4 : at + 6].decode("latin-1")
    if vr in LONG_VRS:
        return 12 + int(struct.unpack_from(f"{order}I", head, at + 8)[0])
    if vr in set(VR):
        return 8 + int(struct.unpack_from(f"{order}H", head, at + 6)[0])
    return 8 + int(struct.unpack_from(f"{order}I", head, at + 4)[0])


def _check_deflated(path: Path) -> None:
    """Refuse a deflated file that is too large once inflated: pydicom inflates all of it to read a header.

    Raises:
        ValueError: it is.
    """
    with path.open("rb") as file:
        if DEFLATED not in (head := file.read(HEAD_BYTES)):
            return
        start = PREAMBLE + 4 if _has_preamble(head) else 0
        file.seek(start + 12 + int(struct.unpack_from("<I", head, start + 8)[0]))  # where group 0002 ends, as it says
        inflating, left = zlib.decompressobj(-zlib.MAX_WBITS), MOST_INFLATED
        while left > 0 and not inflating.eof and (part := file.read(AT_ONCE)):
            while left > 0 and part and not inflating.eof:  # at its end zlib leaves the last tail as it was
                left -= len(inflating.decompress(part, AT_ONCE))
                part = inflating.unconsumed_tail
    if left <= 0:
        raise ValueError(f"a deflated file must have at most {MOST_INFLATED} bytes inflated")


def read_dataset(path: Path, pixels: bool = False) -> FileDataset:
    """The elements of `TAGS` of a file, with or without a preamble; of `PIXEL_TAGS` where pixels are asked for."""
    _check_deflated(path)
    tags = [Tag(name) for name in (PIXEL_TAGS if pixels else TAGS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values against the standard, which every console writes
        return pydicom.dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=tags)


def read_header(path: Path) -> Header:
    """What one file says; any exception of pydicom where it is damaged."""
    data = read_dataset(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _header(path, data)


def _header(path: Path, data: FileDataset) -> Header:
    positions, orientations, spacing = _geometry(data)
    return Header(
        path=path,
        patient=_patient(data),
        study=digest_of(_text(data, "StudyInstanceUID"))[:12],
        series=_text(data, "SeriesInstanceUID"),
        instance=_text(data, "SOPInstanceUID"),
        sop_class=UID(_text(data, "SOPClassUID") or str(data.file_meta.get("MediaStorageSOPClassUID", ""))).name,
        syntax=UID(str(data.file_meta.get("TransferSyntaxUID", ""))),
        image_type=tuple(word.strip().upper() for word in _list(data, "ImageType")),
        words=_description(data),
        text=_texts(data),
        figures=_figures(data),
        rows=int(data.get("Rows") or 0),
        columns=int(data.get("Columns") or 0),
        samples=int(data.get("SamplesPerPixel") or 1),
        colours=_text(data, "PhotometricInterpretation"),
        bits=int(data.get("BitsStored") or 16),
        frames=max(int(data.get("NumberOfFrames") or 1), 1),
        positions=positions,
        orientations=orientations,
        spacing_mm=spacing,
        rescale=_rescale(data),
    )


def _text(data: Dataset, name: str) -> str:
    return str(data.get(name) or "").strip()


def _list(data: Dataset, name: str) -> list[str]:
    value = data.get(name)
    return [] if not value else [value] if isinstance(value, str) else [str(part) for part in value]


def _patient(data: Dataset) -> str | None:
    """Digest of the Patient ID and who issued it; None where there is no id."""
    number = _text(data, "PatientID")
    return digest_of([number, _text(data, "IssuerOfPatientID")])[:12] if number else None


def _description(data: Dataset) -> tuple[str, ...]:
    """Words of the description that would be the same for another patient of the same protocol."""
    named = next((text for name in ("SeriesDescription", "ProtocolName") if (text := _text(data, name))), "")
    private = {word for name in ("PatientName", "PatientID", "AccessionNumber") for word in _words(_text(data, name))}
    sure = {word for word in private if len(word) > 2}
    return tuple(word for word in _words(named) if word not in sure and not re.search(r"^\d+$|\d{4}", word))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _texts(data: Dataset) -> dict[str, str]:
    names = ("Modality", "SeriesNumber", "AcquisitionNumber", "TemporalPositionIdentifier")
    found = {name: _text(data, name) for name in (*names, "DiffusionBValue", "ContrastBolusAgent")}
    found["ScanningSequence"] = "/".join(sorted(_list(data, "ScanningSequence")))
    found["ConvolutionKernel"] = " ".join(_list(data, "ConvolutionKernel")).lower()
    found["Component"] = _component(data)
    return {name: text for name, text in found.items() if text}


def _component(data: Dataset) -> str:
    """Phase, real or imaginary, where GE's own element or that of enhanced images says so."""
    named = _text(data, "ComplexImageComponent").lower()
    if named:
        return "" if named == "magnitude" else named
    private = data.get(GE_COMPONENT) if _text(data, "Manufacturer").upper().startswith("GE") else None
    value = private.value if private is not None else 0
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else value
    return COMPONENTS.get(number, "") if isinstance(number, int) else ""


def _figures(data: Dataset) -> dict[str, float]:
    names = ("EchoTime", "RepetitionTime", "InversionTime", "EchoNumbers")
    groups = _sequence(data, "SharedFunctionalGroupsSequence") + _sequence(data, "PerFrameFunctionalGroupsSequence")[:1]
    nested = {
        "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
        "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    }
    found = {name: _number(data.get(name)) for name in names}
    for name, (sequence, inner) in nested.items():
        for group in groups:
            for item in _sequence(group, sequence):
                found[name] = found[name] or _number(item.get(inner))
    return {name: value for name, value in found.items() if value and value > 0}


def _number(value: Any) -> float | None:
    """The first of what may be several; None for nothing."""
    first = value[0] if isinstance(value, list | pydicom.multival.MultiValue) and value else value
    return float(first) if isinstance(first, int | float) or (isinstance(first, str) and first) else None


def _sequence(data: Dataset, name: str) -> list[Dataset]:
    return list(data.get(name) or [])


def _geometry(data: Dataset) -> tuple[Vectors | None, Vectors | None, tuple[float, float] | None]:
    """Positions, orientations and spacing, of the image or of its frames."""
    shared = next(iter(_sequence(data, "SharedFunctionalGroupsSequence")), Dataset())
    frames = _sequence(data, "PerFrameFunctionalGroupsSequence")
    places = [_macro(frame, shared, "PlanePositionSequence") for frame in frames] or [data]
    turns = [_macro(frame, shared, "PlaneOrientationSequence") for frame in frames] or [data]
    measures = _macro(frames[0], shared, "PixelMeasuresSequence") if frames else data
    positions = _vectors(places, "ImagePositionPatient", 3)
    return positions, _square(_vectors(turns, "ImageOrientationPatient", 6)), _spacing(measures)


def _square(orientations: Vectors | None) -> Vectors | None:
    """Orientations whose axes stand at right angles, as near as rounding leaves them; else there is none."""
    if orientations is None:
        return None
    across = np.linalg.norm(np.cross(orientations[:, :3], orientations[:, 3:]), axis=1)
    return orientations if np.abs(across - 1).max() < SQUARE else None


def _macro(frame: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group of a frame, its own or that of all frames."""
    return next(iter(_sequence(frame, name) or _sequence(shared, name)), Dataset())


def _vectors(parts: list[Dataset], name: str, length: int) -> Vectors | None:
    values = [part.get(name) for part in parts]
    if any(value is None or isinstance(value, str) or len(value) != length for value in values):
        return None
    array = np.array([[float(number) for number in value or ()] for value in values])
    return array if np.isfinite(array).all() else None


def _spacing(part: Dataset) -> tuple[float, float] | None:
    value = part.get("PixelSpacing")
    if value is None or isinstance(value, str) or len(value) != 2:
        return None
    return float(value[0]), float(value[1])


def _rescale(data: Dataset) -> Vectors:
    shared = next(iter(_sequence(data, "SharedFunctionalGroupsSequence")), Dataset())
    frames = _sequence(data, "PerFrameFunctionalGroupsSequence")
    parts = [_macro(frame, shared, "PixelValueTransformationSequence") for frame in frames] or [data]
    return np.array([[_or(part.get("RescaleSlope"), 1), _or(part.get("RescaleIntercept"), 0)] for part in parts])


def _or(value: Any, default: float) -> float:
    return float(default if value is None or value == "" else value)
