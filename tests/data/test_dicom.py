"""DICOM as hospitals write it: which files make one scan, where its voxels lie, and what is refused."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from meddiff_core.data.dicom import DicomIndex, index_dicom, is_dicom, read_series, volume
from meddiff_core.data.dicom import index as index_module
from meddiff_core.data.fingerprint import fingerprint_case
from meddiff_core.data.ingest import digest_case, discover, read_scan
from meddiff_core.data.scan import Scan, to_ras
from meddiff_core.errors import CaseRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import Refusal

Change = Callable[[Dataset, int], None]
ROWS, COLUMNS, COUNT = 6, 8, 5
PIXEL_TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def _slice(number: int, series: str = "1.2.3", patient: str = "P1", study: str = "1.9") -> Dataset:
    """One slice of an axial CT: rows 2 mm, columns 1 mm and slices 12 mm apart, so that it is no slab."""
    part = Dataset()
    part.file_meta = FileMetaDataset()
    part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID = CTImageStorage
    uid = generate_uid(entropy_srcs=[series, patient, str(number)])
    part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID = uid
    part.Modality, part.SeriesInstanceUID, part.StudyInstanceUID, part.PatientID = "CT", series, study, patient
    part.SeriesNumber, part.InstanceNumber = 3, number + 1
    part.ImageOrientationPatient, part.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [10, 20, 30 + 12 * number]
    part.PixelSpacing, part.Rows, part.Columns = [20, 10], ROWS, COLUMNS
    part.BitsAllocated = part.BitsStored = 16
    part.HighBit, part.PixelRepresentation, part.SamplesPerPixel = 15, 1, 1
    part.PhotometricInterpretation = "MONOCHROME2"
    part.RescaleSlope, part.RescaleIntercept = 2, -1000
    part.PixelData = _pixels(number).tobytes()
    return part


def _pixels(number: int) -> NDArray[np.int16]:
    return (100 * number + np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)).astype(np.int16)


def _write(folder: Path, change: Change | None = None, numbers: Sequence[int] = range(COUNT), **who: str) -> Path:
    """A series; the names of its files run against the positions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        part = _slice(number, **who)
        if change:
            change(part, number)
        part.save_as(folder / f"{who.get('series', 'a')}-{99 - number:03d}.dcm", enforce_file_format=True)
    return folder


def _index(root: Path) -> DicomIndex:
    return index_dicom([path for path in sorted(root.rglob("*")) if path.is_file() and is_dicom(path)], root)


def _read(root: Path) -> Scan:
    index = _index(root)
    assert not index.refused
    (series,) = index.series
    return read_series("case", series.slices)


def _refusal(folder: Path) -> str:
    with pytest.raises(CaseRefused) as refused:
        read_series("case", sorted(folder.glob("*.dcm")))
    return refused.value.reason


def _at(scan: Scan, row: int, column: int, number: int) -> float:
    """The voxel where a pixel of a slice lies."""
    ras = [-(10 + 10 * column), -(20 + 20 * row), 30 + 12 * number, 1]
    i, j, k = np.rint(np.linalg.solve(scan.volume.affine, ras)[:3]).astype(int)
    return float(scan.volume.array[i, j, k])


def _is_whole(scan: Scan) -> bool:
    """Every pixel is where its slice says, after slope and intercept."""
    places = np.ndindex(ROWS, COLUMNS, COUNT)
    return all(_at(scan, row, column, n) == 2 * _pixels(n)[row, column] - 1000 for row, column, n in places)


# Voxels


def test_each_pixel_lies_where_its_slice_says(tmp_path: Path) -> None:
    scan = _read(_write(tmp_path))
    assert scan.volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert scan.volume.spacing_mm == (10.0, 20.0, 12.0)
    assert (scan.source.bits, scan.source.modality, scan.source.warnings) == (16, "CT", ())
    assert _is_whole(scan)


def _turned(part: Dataset, number: int) -> None:
    row, column = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
    part.ImageOrientationPatient = [*row, *column]
    part.ImagePositionPatient = [
        float(v) for v in np.round(np.array([5, -6, 7]) - 12 * number * np.cross(row, column), 6)
    ]


def test_an_oblique_series_lies_where_it_was_taken(tmp_path: Path) -> None:
    scan = _read(_write(tmp_path, _turned))
    lps = np.array([5, -6, 7]) + 10 * 3 * np.array([0.8, 0.6, 0]) + 20 * 2 * np.array([0, 0, -1])
    lps = lps - 12 * 4 * np.cross([0.8, 0.6, 0], [0, 0, -1])
    i, j, k = np.rint(np.linalg.solve(scan.volume.affine, [-lps[0], -lps[1], lps[2], 1])[:3]).astype(int)
    assert scan.volume.array[i, j, k] == 2 * _pixels(4)[2, 3] - 1000


def test_each_slice_is_scaled_by_its_own_slope(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        part.Modality, part.RescaleSlope, part.RescaleIntercept = "PT", 1 + 0.25 * number, -number

    scan = _read(_write(tmp_path, change))
    for number in range(COUNT):
        assert _at(scan, 1, 6, number) == pytest.approx((1 + 0.25 * number) * _pixels(number)[1, 6] - number)


def test_a_slope_of_zero_is_refused(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.RescaleSlope = int(number > 0)

    assert "rescale slope must be a number other than 0" in _refusal(_write(tmp_path, change))


def test_files_of_several_times_and_acquisitions_are_one_volume(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.AcquisitionNumber, part.StudyTime, part.AcquisitionTime = number, f"1{number}0000", f"1{number}0000"

    assert _is_whole(_read(_write(tmp_path, change)))


def _enhanced(path: Path, order: Sequence[int], step_mm: float = 12) -> None:
    part = _slice(0)
    part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    part.Modality, part.NumberOfFrames = "MR", len(order)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, plane.ImageOrientationPatient = part.PixelSpacing, part.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    part.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in order:
        frame, place, scale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [10, 20, 30 + step_mm * number]
        scale.RescaleSlope, scale.RescaleIntercept = 1 + number, -number
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        frames.append(frame)
    part.PerFrameFunctionalGroupsSequence = frames
    for name in "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept":
        delattr(part, name)
    part.PixelData = b"".join(_pixels(number).tobytes() for number in order)
    part.save_as(path, enforce_file_format=True)


def test_frames_of_an_enhanced_image_are_placed_and_scaled_one_by_one(tmp_path: Path) -> None:
    _enhanced(tmp_path / "a.dcm", order=(3, 0, 4, 1, 2))
    scan = _read(tmp_path)
    assert scan.volume.array.shape == (COLUMNS, ROWS, COUNT)
    for number in range(COUNT):
        assert _at(scan, 1, 6, number) == (1 + number) * _pixels(number)[1, 6] - number


def test_an_enhanced_image_without_a_frame_is_refused(tmp_path: Path) -> None:
    _enhanced(tmp_path / "a.dcm", order=(0, 1, 2, 4, 5))
    assert "1 slice is missing: distance 12.00 mm, up to 24.00 mm" in _refusal(tmp_path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_plain_encodings_are_read(tmp_path: Path, syntax: str) -> None:
    def change(part: Dataset, number: int) -> None:
        part.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            part.PixelData = _pixels(number).astype(">i2").tobytes()

    assert _is_whole(_read(_write(tmp_path, change)))


def _of_test_file(name: str) -> Change:
    stored = pydicom.dcmread(PIXEL_TEST_FILES / name)

    def change(part: Dataset, number: int) -> None:
        part.file_meta.TransferSyntaxUID = stored.file_meta.TransferSyntaxUID
        for tag in "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData":
            setattr(part, tag, stored[tag].value)
        part.RescaleSlope, part.RescaleIntercept = 1, 0
        part["PixelData"].VR = "OB"

    return change


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"])
def test_compressed_pixels_are_those_of_the_plain_file(tmp_path: Path, name: str) -> None:
    expected = pydicom.dcmread(PIXEL_TEST_FILES / "MR_small.dcm").pixel_array
    scan = _read(_write(tmp_path, _of_test_file(f"{name}.dcm")))
    for number, row, column in ((0, 0, 0), (2, 10, 50), (4, 63, 63)):
        assert _at(scan, row, column, number) == expected[row, column]


def test_a_syntax_that_cannot_be_decoded_is_refused_by_its_name(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        part.PixelData = encapsulate([b"\xff\xd8\xff\xd9" * 20])
        part["PixelData"].VR = "OB"

    assert "JPEG Extended (Process 2 and 4)" in _refusal(_write(tmp_path, change))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "must share ImageOrientationPatient"),
        ("PixelSpacing", [30, 10], "must share PixelSpacing"),
        ("PixelSpacing", [0, 10], "spacing must be > 0 mm"),
        ("ImagePositionPatient", None, "must have ImagePositionPatient"),
        ("Columns", 7, "must share Rows and Columns, have [6.0, 8.0] and [6.0, 7.0]"),
        ("NumberOfFrames", 4, "must place 4 frames, places 1"),
        ("SamplesPerPixel", 3, "must be grey"),
        ("PhotometricInterpretation", "PALETTE COLOR", "must be grey, are PALETTE COLOR"),
        ("PixelData", b"\0\0", "cannot be read: 2 of 96 bytes are there"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path: Path, name: str, value: Any, expected: str) -> None:
    def change(part: Dataset, number: int) -> None:
        if number == 2:
            setattr(part, name, value)

    assert expected in _refusal(_write(tmp_path, change))


def test_a_slice_that_is_gone_is_named(tmp_path: Path) -> None:
    slices = [*_write(tmp_path).iterdir(), tmp_path / "gone.dcm"]
    with pytest.raises(CaseRefused, match=r"slice is gone: gone\.dcm"):
        read_series("case", slices)


# Stacks


def _tilted(part: Dataset, number: float) -> None:
    part.ImagePositionPatient = [10, 20 + np.tan(np.radians(10)) * 12 * number, 30 + 12 * number]


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    assert "gantry tilt must be at most 0.5 degrees, is 10.0" in _refusal(_write(tmp_path, _tilted))


def test_tilt_and_uneven_distance_are_both_named(tmp_path: Path) -> None:
    reason = _refusal(_write(tmp_path, lambda part, number: _tilted(part, number if number < 3 else number + 0.5)))
    assert "tilt" in reason
    assert "slice distance must be even, is 12.00 to 18.00 mm" in reason


def test_slices_that_lean_a_little_keep_their_place(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20 + 0.1 * number, 30 + 12 * number]

    affine = _read(_write(tmp_path, change)).volume.affine
    np.testing.assert_allclose(affine[:3, 2], [0, -0.1, 12], atol=1e-9)


@pytest.mark.parametrize("gone", [(2,), (1, 3), (2, 3)])
def test_a_missing_slice_is_refused(tmp_path: Path, gone: tuple[int, ...]) -> None:
    reason = _refusal(_write(tmp_path, numbers=[n for n in range(9) if n not in gone]))
    assert f"{len(gone)} slice{'s are' if len(gone) > 1 else ' is'} missing: distance 12.00 mm" in reason


def test_rounded_positions_are_an_even_stack(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20, f"{30 + 1.2345 * number:.2f}"]

    scan = _read(_write(tmp_path, change, range(40)))
    assert scan.volume.spacing_mm[2] == pytest.approx(1.2345, abs=2e-4)
    assert "up to 0.005 mm off an even stack, taken as rounding" in scan.source.warnings[0]


@pytest.mark.parametrize(("off_mm", "is_read"), [(0.2, True), (0.7, False), (2.0, False)])
def test_a_displacement_is_rounding_while_it_is_small(tmp_path: Path, off_mm: float, is_read: bool) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20, 30 + 12 * number + (off_mm if number == 4 else 0)]

    _write(tmp_path, change, range(9))
    if is_read:
        assert "taken as rounding" in _read(tmp_path).source.warnings[0]
    else:
        assert "slice distance must be even" in _refusal(tmp_path)


def test_a_slice_aside_is_refused(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10 + 3 * (number == 2), 20, 30 + 12 * number]

    assert "must lie on a straight line, are up to 2." in _refusal(_write(tmp_path, change))


def test_two_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20, 30 + 12 * min(number, 3)]

    assert "1 of 5 lie where another one does: more than one volume" in _refusal(_write(tmp_path, change))


def test_a_claim_of_enormous_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.Rows = part.Columns = 65_000

    assert "must have at most 2147483648 voxels, has 21125000000" in _refusal(_write(tmp_path, change))


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    assert "must be a 3D volume" in _refusal(_write(tmp_path, numbers=[0]))


# The converter


def _converter(monkeypatch: pytest.MonkeyPatch, script: Path, text: str) -> None:
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    monkeypatch.setattr("dcm2niix.bin", str(script))


def test_a_converter_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcm2niix.bin", str(tmp_path / "nowhere"))
    assert "dcm2niix must be installed, cannot be started: No such file" in _refusal(_write(tmp_path))


def test_a_converter_that_crashes_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _converter(monkeypatch, tmp_path / "tool", "kill -SEGV $$")
    assert "was stopped by signal 11" in _refusal(_write(tmp_path))


def test_a_converter_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _converter(monkeypatch, tmp_path / "tool", "exec sleep 60")
    monkeypatch.setattr(volume, "TIMEOUT_S", 0.2)
    assert "must end within 0.2 s, did not" in _refusal(_write(tmp_path))


def test_a_converter_without_a_volume_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _converter(monkeypatch, tmp_path / "tool", "echo Error: Unable to decode this")
    reason = _refusal(_write(tmp_path))
    assert reason == "dcm2niix must give one volume of Explicit VR Little Endian, gave 0: Unable to decode this"


def test_the_converter_sees_nothing_of_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(command: list[str], **options: Any) -> Any:
        parts = sorted(Path(command[-1]).iterdir())
        seen.extend([command, options["env"], *parts, *(pydicom.dcmread(path) for path in parts)])
        return original(command, **options)

    original = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("SECRET", "Smith")
    _write(tmp_path / "Smith", lambda part, _: setattr(part, "PatientName", "Smith"), patient="Smith")
    _read(tmp_path)
    assert len(seen) == 2 + 2 * COUNT
    assert "Smith" not in str(seen)


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    _write(tmp_path / "in")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    _read(tmp_path / "in")
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert not list((tmp_path / "temporary").iterdir())


# What is DICOM


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_image_without_a_preamble_is_dicom(tmp_path: Path, syntax: str) -> None:
    def change(part: Dataset, number: int) -> None:
        if syntax == ExplicitVRBigEndian:
            part.PixelData = _pixels(number).astype(">i2").tobytes()

    for number in range(COUNT):
        part = _slice(number)
        change(part, number)
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        bare = Dataset({element.tag: element for element in part})
        pydicom.dcmwrite(tmp_path / f"IM{number}", bare, implicit_vr=implicit, little_endian=little)
        assert (tmp_path / f"IM{number}").read_bytes()[128:132] != b"DICM"
    assert _is_whole(_read(tmp_path))


def test_meta_information_without_a_preamble_is_dicom(tmp_path: Path) -> None:
    for path in _write(tmp_path).iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert _is_whole(_read(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00",
        b"A text of some length that goes on and on, for longer than a preamble would. " * 20,
        (348).to_bytes(4, "little") + bytes(400),
        b"\x1f\x8b\x08\x00" + bytes(range(256)) * 4,
        b"\x08\x00\x08\x00" + bytes(1000),
        np.random.default_rng(1).bytes(5000),
    ],
)
def test_other_files_are_no_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.dcm").write_bytes(content)
    assert not is_dicom(tmp_path / "file.dcm")


def test_a_dicomdir_is_no_image(tmp_path: Path) -> None:
    _write(tmp_path)
    shutil.copy(next(tmp_path.glob("*.dcm")), tmp_path / "DICOMDIR")
    assert not is_dicom(tmp_path / "DICOMDIR")


# Which files make one scan


def test_a_series_in_two_folders_is_one_scan(tmp_path: Path) -> None:
    _write(tmp_path / "in" / "pat" / "S1", numbers=[0, 1, 2])
    _write(tmp_path / "in" / "pat" / "S2", numbers=[3, 4])
    index = _index(tmp_path / "in")
    assert [series.name for series in index.series] == ["pat"]
    assert _is_whole(_read(tmp_path / "in"))


def test_names_may_be_in_any_encoding(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"in/M\xfcller")
    for path in _write(folder).iterdir():
        path.rename(path.with_name(os.fsdecode(b"\xe4") + path.name))
    index = _index(tmp_path / "in")
    assert index.series[0].name == "M\\udcfcller"
    assert _is_whole(_read(tmp_path / "in"))


def test_two_folders_of_one_patient_share_its_digest(tmp_path: Path) -> None:
    _write(tmp_path / "ACC1", series="1.2.1", patient="4711")
    _write(tmp_path / "ACC2", series="1.2.2", patient="4711")
    _write(tmp_path / "ACC3", series="1.2.3", patient="4712")
    patients = [series.patient for series in _index(tmp_path).series]
    assert patients[0] == patients[1] != patients[2]
    assert "471" not in str(patients[0])[:3]
    assert "4711" not in str(_index(tmp_path))


def test_the_same_id_of_two_issuers_is_two_patients(tmp_path: Path) -> None:
    _write(tmp_path / "a", lambda part, _: setattr(part, "IssuerOfPatientID", "A"), series="1.2.1")
    _write(tmp_path / "b", lambda part, _: setattr(part, "IssuerOfPatientID", "B"), series="1.2.2")
    assert len({series.patient for series in _index(tmp_path).series}) == 2


@pytest.mark.parametrize("value", ["", "  ", None])
def test_no_patient_id_is_no_patient(tmp_path: Path, value: str | None) -> None:
    _write(tmp_path, lambda part, _: setattr(part, "PatientID", value))
    assert _index(tmp_path).series[0].patient is None


def test_a_copy_is_dropped_with_a_note(tmp_path: Path) -> None:
    _write(tmp_path / "in")
    shutil.copy(tmp_path / "in" / "a-097.dcm", tmp_path / "in" / "a-097 (1).dcm")
    index = _index(tmp_path / "in")
    assert len(index.series[0].slices) == COUNT
    assert all("(1)" not in path.name for path in index.series[0].slices)
    assert ["1 file is a copy of another" in note.reason for note in index.notes] == [True]


def test_a_copy_of_a_whole_folder_is_dropped(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    index = _index(tmp_path)
    assert [series.name for series in index.series] == ["a"]
    assert [(note.case, note.reason[:19]) for note in index.notes] == [("b", "5 files are copies ")]


def test_of_two_copies_the_more_complete_one_is_kept(tmp_path: Path) -> None:
    _write(tmp_path / "a", lambda part, _: setattr(part, "PatientID", "X1"), range(3))
    _write(tmp_path / "b", lambda part, _: setattr(part, "PatientID", "X2"))
    assert [(series.name, len(series.slices)) for series in _index(tmp_path).series] == [("b", COUNT)]


def test_one_instance_uid_with_two_contents_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    _write(tmp_path / "b", lambda part, _: setattr(part, "PixelData", _pixels(7).tobytes()))
    index = _index(tmp_path)
    assert not index.series
    assert [refusal.case for refusal in index.refused] == [tmp_path.name]
    assert "share a SOP Instance UID and differ in pixels" in index.refused[0].reason


def test_a_slice_of_two_contents_refuses_its_series_only(tmp_path: Path) -> None:
    _write(tmp_path / "good", series="1.2.4")
    _write(tmp_path / "bad")
    part = pydicom.dcmread(tmp_path / "bad" / "a-099.dcm")
    part.PixelData = _pixels(7).tobytes()
    part.save_as(tmp_path / "bad" / "again.dcm")
    index = _index(tmp_path)
    assert [series.name for series in index.series] == ["good"]
    assert [refusal.case for refusal in index.refused] == ["bad"]


def test_patients_whose_series_uid_is_the_same_are_kept_apart(tmp_path: Path) -> None:
    _write(tmp_path / "a", patient="P1")
    _write(tmp_path / "b", patient="P2")
    assert [series.name for series in _index(tmp_path).series] == ["a", "b"]


def test_folders_whose_series_uid_is_the_same_are_kept_apart_where_they_overlap(tmp_path: Path) -> None:
    _write(tmp_path / "a", numbers=range(5))
    for path in _write(tmp_path / "b", numbers=range(5)).iterdir():
        part = pydicom.dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.save_as(path)
    assert [(series.name, len(series.slices)) for series in _index(tmp_path).series] == [("a", 5), ("b", 5)]


def _uid_per_slice(part: Dataset, number: int) -> None:
    part.SeriesInstanceUID = f"{part.SeriesInstanceUID}.{number + 1}"


def test_slices_with_a_series_uid_of_their_own_are_one_series(tmp_path: Path) -> None:
    _write(tmp_path / "in" / "a", _uid_per_slice)
    _write(tmp_path / "in" / "b", _uid_per_slice, series="1.2.4", patient="P2", study="1.8")
    index = _index(tmp_path / "in")
    assert [(series.name, len(series.slices)) for series in index.series] == [("a", COUNT), ("b", COUNT)]
    assert "5 slices, each with a Series Instance UID of its own" in index.notes[0].reason
    shutil.rmtree(tmp_path / "in" / "b")
    assert _is_whole(_read(tmp_path / "in"))


def test_two_series_of_lone_slices_are_distinguished_by_their_numbers(tmp_path: Path) -> None:
    _write(tmp_path, _uid_per_slice, series="1.2.4")

    def change(part: Dataset, number: int) -> None:
        _uid_per_slice(part, number)
        part.SeriesNumber = 9

    _write(tmp_path, change, series="1.2.5")
    assert sorted(len(series.slices) for series in _index(tmp_path).series) == [COUNT, COUNT]


def test_lone_slices_with_a_gap_are_refused_once(tmp_path: Path) -> None:
    index = _index(_write(tmp_path, _uid_per_slice, numbers=[0, 1, 2, 4, 5]))
    assert not index.series
    assert ["1 slice is missing" in refusal.reason for refusal in index.refused] == [True]


def _two_of(name: str, second: Any) -> Change:
    """Even numbers and odd ones as two volumes at one place, distinguished by an element."""

    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20, 30 + 12 * (number // 2)]
        if number % 2:
            setattr(part, name, second)

    return change


@pytest.mark.parametrize(
    ("name", "second", "kind"),
    [
        ("EchoNumbers", 2, "CT; echo 2"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "P", "ND"], "CT; phase"),
        ("ImageType", ["DERIVED", "PRIMARY", "DIXON", "WATER"], "CT; water"),
        ("AcquisitionNumber", 2, "CT; acquisition 2"),
        ("TemporalPositionIdentifier", 2, "CT; time point 2"),
        ("ComplexImageComponent", "PHASE", "CT; phase"),
    ],
)
def test_volumes_under_one_uid_are_distinguished(tmp_path: Path, name: str, second: Any, kind: str) -> None:
    series = _index(_write(tmp_path, _two_of(name, second), range(12))).series
    assert [len(part.slices) for part in series] == [6, 6]
    assert kind in {part.kind for part in series}
    assert len({part.name for part in series}) == len({part.kind for part in series}) == 2
    assert all(read_series("case", part.slices).volume.array.shape == (COLUMNS, ROWS, 6) for part in series)


def test_two_kernels_under_one_uid_are_two_kinds(tmp_path: Path) -> None:
    series = _index(_write(tmp_path, _two_of("ConvolutionKernel", "BONE"), range(12))).series
    assert [part.kind for part in series] == ["CT; kernel bone", "CT"]
    assert len({part.name for part in series}) == 2


def test_time_points_are_counted_by_their_numbers(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20, 30 + 12 * (number // 3)]
        part.TemporalPositionIdentifier = 10 - number % 3
        part.InstanceNumber = 10 - number % 3

    for part in _index(_write(tmp_path, change, range(15))).series:
        header = pydicom.dcmread(part.slices[0])
        assert part.kind == f"CT; time point {header.InstanceNumber - 7}"


def test_echo_times_without_numbers_tell_echoes(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        _two_of("InstanceNumber", 1)(part, number)
        part.EchoTime = 5 * (1 + number % 2) + 0.001 * number

    assert [series.kind for series in _index(_write(tmp_path, change, range(12))).series] == ["CT; echo 2", "CT"]


def test_a_time_series_is_left_out(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient, part.AcquisitionNumber = [10, 20, 30 + 12 * (number % 4)], number // 4

    index = _index(_write(tmp_path, change, range(40)))
    assert not index.series
    assert "a time series of 10 volumes" in index.notes[0].reason


def test_volumes_that_nothing_tells_apart_are_refused_when_read(tmp_path: Path) -> None:
    (series,) = _index(_write(tmp_path, _two_of("InstanceNumber", 1), range(12))).series
    with pytest.raises(CaseRefused, match="more than one volume"):
        read_series("case", series.slices)


def test_a_page_of_another_size_does_not_spoil_its_series(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        if number == 5:
            part.Rows, part.PixelData = 3, bytes(3 * COLUMNS * 2)

    index = _index(_write(tmp_path / "in", change, range(6)))
    assert [len(series.slices) for series in index.series] == [COUNT]
    assert "left out: 1 slice, a volume has at least 4" in index.notes[0].reason


# What is no scan


def _localiser(part: Dataset, number: int) -> None:
    turns = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]]
    part.ImageOrientationPatient = turns[number % 3]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda part, _: setattr(part, "SOPClassUID", SecondaryCaptureImageStorage), "Secondary Capture Image Storage"),
        (lambda part, _: setattr(part, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.11"), "Basic Text SR Storage"),
        (lambda part, _: setattr(part, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4"), "Segmentation Storage"),
        (lambda part, _: setattr(part, "SOPClassUID", "1.2.3.4.5"), "1.2.3.4.5"),
        (lambda part, _: setattr(part, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "Image Type says LOCALIZER"),
        (lambda part, _: setattr(part, "SamplesPerPixel", 3), "its pixels are in colour"),
        (_localiser, "3 orientations, as of a localiser"),
    ],
)
def test_what_is_no_scan_is_left_out_and_said(tmp_path: Path, change: Change, expected: str) -> None:
    _write(tmp_path / "scan")
    _write(tmp_path / "other", change, range(15), series="1.2.4")
    index = _index(tmp_path)
    assert [series.name for series in index.series] == ["scan"]
    assert not index.refused
    (note,) = index.notes
    assert note.case == "other"
    assert note.reason.startswith("15 files are left out")
    assert expected in note.reason


def test_a_series_without_positions_is_refused(tmp_path: Path) -> None:
    index = _index(_write(tmp_path / "a", lambda part, _: delattr(part, "ImagePositionPatient")).parent)
    assert index.refused[0].reason == "every slice must have ImagePositionPatient; 5 of 5 lack it"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "every slice must have ImageOrientationPatient"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "every slice must have ImageOrientationPatient"),
        ("PixelSpacing", None, "every slice must have PixelSpacing"),
        ("PixelSpacing", [0, 0], ""),
        ("ImagePositionPatient", [1, 2, 3], ""),
    ],
)
def test_impossible_geometry_is_refused_by_index_or_reader(
    tmp_path: Path, name: str, value: Any, expected: str
) -> None:
    index = _index(_write(tmp_path, lambda part, _: setattr(part, name, value)))
    assert len(index.refused) == bool(expected)
    assert all(refusal.reason.startswith(expected) for refusal in index.refused)
    for series in index.series:
        with pytest.raises(CaseRefused):
            read_series("case", series.slices)


def test_a_damaged_slice_refuses_its_series_only(tmp_path: Path) -> None:
    _write(tmp_path / "good")
    bad = sorted(_write(tmp_path / "bad", series="1.2.9").iterdir())
    bad[0].write_bytes(bad[0].read_bytes()[:200])
    index = _index(tmp_path)
    assert [series.name for series in index.series] == ["good"]
    assert [refusal.case for refusal in index.refused] == [f"bad/{bad[0].name}", "bad"]


# Kinds


def _described(text: str, **values: Any) -> Change:
    def change(part: Dataset, number: int) -> None:
        part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = MRImageStorage
        part.Modality, part.SeriesDescription = "MR", text
        for name, value in values.items():
            setattr(part, name, value)

    return change


def _kinds(root: Path, *changes: Change) -> list[str]:
    for number, change in enumerate(changes):
        _write(root / f"{number:02d}", change, series=f"1.2.{number + 1}", patient=f"PAT{number}")
    return [series.kind for series in _index(root).series]


def test_a_kind_is_said_in_words(tmp_path: Path) -> None:
    change = _described("T1_MPRAGE SAG", ScanningSequence=["IR", "GR"], ContrastBolusAgent="Gadovist")
    assert _kinds(tmp_path, change) == ["MR t1 mprage sag; GR/IR; contrast agent"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"text": "t1"}, {"text": "t2"}),
        ({"text": "t1"}, {"text": "t1", "ContrastBolusAgent": "Dotarem"}),
        ({"text": "head"}, {"text": "head", "ImageType": ["DERIVED", "PRIMARY", "MPR"]}),
        ({"text": "head"}, {"text": "head", "ImageType": ["ORIGINAL", "PRIMARY", "P"]}),
        ({"text": "", "EchoTime": 12, "RepetitionTime": 500}, {"text": "", "EchoTime": 100, "RepetitionTime": 500}),
        ({"text": "", "EchoTime": 12, "RepetitionTime": 500}, {"text": "", "EchoTime": 12, "RepetitionTime": 4000}),
        ({"text": "", "ScanningSequence": "SE"}, {"text": "", "ScanningSequence": "GR"}),
        ({"text": "head", "ConvolutionKernel": "BONE"}, {"text": "head", "ConvolutionKernel": "STANDARD"}),
        ({"text": "head"}, {"text": "head", "PixelSpacing": [5, 10]}),
        ({"text": "", "InversionTime": 900}, {"text": "", "InversionTime": 2500}),
    ],
)
def test_contrasts_and_fields_of_view_are_distinguished(tmp_path: Path, one: Any, other: Any) -> None:
    assert len(set(_kinds(tmp_path, _described(**one), _described(**other)))) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"text": "T1 mprage 3"}, {"text": "t1_MPRAGE-12"}),
        ({"text": "t1 PAT0"}, {"text": "t1 pat1"}),
        ({"text": "t1 20190203"}, {"text": "t1 2021-04-30"}),
        ({"text": "t1 pat50772"}, {"text": "t1"}),
        (
            {"text": "t1", "EchoTime": 2.94, "RepetitionTime": 1900},
            {"text": "t1", "EchoTime": 3.31, "RepetitionTime": 2300},
        ),
        ({"text": "t1", "ContrastBolusAgent": "NONE"}, {"text": "t1"}),
        ({"text": "t1", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, {"text": "t1", "ImageType": ["ORIGINAL"]}),
    ],
)
def test_one_protocol_over_patients_is_one_kind(tmp_path: Path, one: Any, other: Any) -> None:
    assert len(set(_kinds(tmp_path, _described(**one), _described(**other)))) == 1


def test_a_name_in_a_description_does_not_enter_the_kind(tmp_path: Path) -> None:
    change = _described("t1 Smith head", PatientName="Smith^Anna")
    assert _kinds(tmp_path, change) == ["MR t1 head"]


# A study of DICOM


def test_a_study_takes_each_series_with_all_its_slices(tmp_path: Path) -> None:
    _write(tmp_path / "in" / "p1" / "S1", numbers=[0, 1, 2])
    _write(tmp_path / "in" / "p1" / "S2", numbers=[3, 4])
    (case,) = discover(DataConfig(images="in"), tmp_path).cases
    assert (len(case.slices), case.kind) == (COUNT, "CT")
    assert _is_whole(read_scan(case))
    digest = digest_case(case)
    case.slices[0].rename(case.slices[0].with_name("other"))
    moved = discover(DataConfig(images="in"), tmp_path).cases[0]
    assert digest_case(moved) == digest
    assert isinstance(fingerprint_case(case, DataConfig(images="in")), Refusal)


def test_a_folder_of_two_series_named_by_a_table_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "one", series="1.2.4")
    _write(tmp_path / "two", series="1.2.5")
    _write(tmp_path / "two", series="1.2.6")
    (tmp_path / "scans.csv").write_text("subject,image\na,one\nb,two\n")
    inventory = discover(DataConfig(images="scans.csv"), tmp_path)
    assert [case.subject for case in inventory.cases] == ["a"]
    assert inventory.refused == (Refusal("two", "folder must hold one DICOM series, holds 2"),)


# Cost


def test_each_header_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        _write(tmp_path / f"{number}", _uid_per_slice if number % 2 else None, series=f"1.2.{number + 1}")
    read: list[Path] = []
    original = index_module.read_header
    monkeypatch.setattr(index_module, "read_header", lambda path: read.append(path) or original(path))
    _index(tmp_path)
    assert sorted(read) == sorted(path for path in tmp_path.rglob("*.dcm"))


# Real scans


def test_a_siemens_series_is_whole_and_upright(real_data: Path) -> None:
    folder = real_data / "dicom" / "mprage_siemens"
    scan = _read(folder).volume
    assert scan.array.shape == (192, 256, 256)
    np.testing.assert_allclose(scan.spacing_mm, (0.900, 0.859, 0.859), atol=1e-3)
    first = pydicom.dcmread(min(folder.glob("*.dcm")))
    corner = [-first.ImagePositionPatient[0], -first.ImagePositionPatient[1], first.ImagePositionPatient[2], 1]
    i, j, k = np.rint(np.linalg.solve(scan.affine, corner)[:3]).astype(int)
    assert scan.array[i, j, k] == first.pixel_array[0, 0]
    body = scan.array > 100
    assert body[:, :, -60:].sum() > 0  # the crown is up: the neck below is narrower than the head
    assert body[:, :, 20].sum() < body[:, :, 160].sum() * 1.5


def test_an_independent_reader_agrees_voxel_for_voxel(real_data: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = real_data / "dicom" / "mprage_siemens"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    expected = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    scan = _read(folder).volume
    upright, place = to_ras(expected, np.diag([-1, -1, 1, 1]) @ affine)
    np.testing.assert_allclose(scan.affine, place, atol=1e-4)
    np.testing.assert_array_equal(scan.array, upright)


def test_a_tilted_uneven_ct_is_refused_with_both_figures(real_data: Path) -> None:
    reason = _refusal(real_data / "dicom" / "ct_ge_tilt")
    assert "18.5" in reason
    assert "1.08 to 7.00 mm" in reason
