"""Stacks of slices: where their voxels lie, and which stacks are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from meddiff_core.data.fingerprint import fingerprint_case
from meddiff_core.data.ingest import discover, load_image
from meddiff_core.errors import CaseRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, Refusal

Change = Callable[[Dataset, int], None]
ROWS, COLUMNS, COUNT = 6, 8, 5


def _write(folder: Path, change: Change | None = None, count: int = COUNT, uid: str = "1.2.3") -> Path:
    """An axial CT: rows 2 mm and columns 1 mm apart, slices 3 mm; the file names run against the positions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        part = Dataset()
        part.file_meta = FileMetaDataset()
        part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID = CTImageStorage
        part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
        part.Modality, part.SeriesInstanceUID, part.PatientID = "CT", uid, "secret"
        part.ImageOrientationPatient, part.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [10, 20, 30 + 3 * number]
        part.PixelSpacing, part.Rows, part.Columns = [2, 1], ROWS, COLUMNS
        part.BitsAllocated = part.BitsStored = 16
        part.HighBit, part.PixelRepresentation, part.SamplesPerPixel = 15, 1, 1
        part.PhotometricInterpretation = "MONOCHROME2"
        part.RescaleSlope, part.RescaleIntercept = 2, -1000
        part.PixelData = _pixels(number).tobytes()
        if change:
            change(part, number)
        part.save_as(folder / f"{uid}-{count - number:03d}.dcm", enforce_file_format=True)
    return folder


def _pixels(number: int) -> "np.ndarray[Any, np.dtype[np.int16]]":
    return (100 * number + np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)).astype(np.int16)


def _refusal(folder: Path) -> str:
    with pytest.raises(CaseRefused) as refused:
        load_image(CaseRef("case", "subject", folder))
    return refused.value.reason


def test_each_pixel_lies_where_its_slice_says(tmp_path: Path) -> None:
    volume = load_image(CaseRef("case", "subject", _write(tmp_path / "s")))
    assert volume.array.shape == (COLUMNS, ROWS, COUNT)
    assert volume.spacing_mm == (1.0, 2.0, 3.0)
    row, column, number = 1, 6, 3
    ras = [-(10 + column), -(20 + 2 * row), 30 + 3 * number, 1]
    i, j, k = np.rint(np.linalg.solve(volume.affine, ras)[:3]).astype(int)
    assert volume.array[i, j, k] == 2 * _pixels(number)[row, column] - 1000


def test_the_subject_is_the_folder_and_not_the_patient_id(tmp_path: Path) -> None:
    _write(tmp_path / "in" / "pat 7" / "scan")
    _write(tmp_path / "in" / "pat 8", uid="1.2.3.4")
    _write(tmp_path / "in" / "pat 8", uid="1.2.3.5")
    inventory = discover(DataConfig(images="in"), tmp_path)
    assert [case.subject for case in inventory.cases] == ["pat 7", "pat 8", "pat 8"]
    assert inventory.cases[0].case == "pat 7_scan"
    assert len({case.case for case in inventory.cases}) == 3
    for case in inventory.cases:
        assert load_image(case).array.shape == (COLUMNS, ROWS, COUNT)


def test_a_folder_of_two_series_named_by_a_table_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "pat", uid="1.2.3.4")
    _write(tmp_path / "pat", uid="1.2.3.5")
    (tmp_path / "scans.csv").write_text("subject,image\npat,pat\n")
    case = discover(DataConfig(images="scans.csv"), tmp_path).cases[0]
    result = fingerprint_case(case, DataConfig(images="scans.csv"))
    assert result == Refusal("pat", "folder must hold one series, holds 2")


def _tilted(part: Dataset, number: int) -> None:
    part.ImagePositionPatient = [10, 20 + np.tan(np.radians(10)) * 3 * number, 30 + 3 * number]


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    assert "gantry tilt must be at most 0.5 degrees, is 10.0" in _refusal(_write(tmp_path, _tilted))


def test_tilt_and_uneven_distance_are_both_named(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        _tilted(part, number if number < 3 else number + 0.5)  # type: ignore[arg-type]

    reason = _refusal(_write(tmp_path, change))
    assert "tilt" in reason
    assert "slice distance must be even, is 3.00 to 4.50 mm" in reason


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    (folder / "1.2.3-003.dcm").unlink()
    assert "1 slices are missing: distance 3.00 mm, up to 6.00 mm" in _refusal(folder)


def test_two_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10, 20, 30 + 3 * min(number, 3)]

    assert "1 of 5 lie where another one does" in _refusal(_write(tmp_path, change))


def test_a_slice_aside_is_refused(tmp_path: Path) -> None:
    def change(part: Dataset, number: int) -> None:
        part.ImagePositionPatient = [10 + (number == 2), 20, 30 + 3 * number]

    assert "aside" in _refusal(_write(tmp_path, change))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "must share ImageOrientationPatient"),
        ("PixelSpacing", [3, 1], "must share PixelSpacing"),
        ("ImagePositionPatient", None, "must have ImagePositionPatient"),
        ("NumberOfFrames", 4, "several frames"),
        ("PixelData", b"\0\0", "cannot be read"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path: Path, name: str, value: Any, expected: str) -> None:
    def change(part: Dataset, number: int) -> None:
        if number == 2:
            setattr(part, name, value)

    assert expected in _refusal(_write(tmp_path, change))


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    assert "must be a 3D volume" in _refusal(_write(tmp_path, count=1))


def test_a_damaged_slice_refuses_its_series_only(tmp_path: Path) -> None:
    _write(tmp_path / "in" / "good")
    bad = _write(tmp_path / "in" / "bad", uid="1.2.9")
    slices = sorted(bad.iterdir())
    slices[0].write_bytes(slices[0].read_bytes()[:200])
    config = DataConfig(images="in")
    results = {case.subject: fingerprint_case(case, config) for case in discover(config, tmp_path).cases}
    assert [subject for subject, result in results.items() if not isinstance(result, Refusal)] == ["good"]


def test_a_siemens_series_is_whole_and_upright(real_data: Path) -> None:
    config = DataConfig(images="mprage_siemens")
    case = discover(config, real_data / "dicom").cases[0]
    volume = load_image(case)
    assert volume.array.shape == (192, 256, 256)
    np.testing.assert_allclose(volume.spacing_mm, (0.900, 0.859, 0.859), atol=1e-3)
    first = pydicom.dcmread(min(case.image.glob("*.dcm")))
    corner = [-first.ImagePositionPatient[0], -first.ImagePositionPatient[1], first.ImagePositionPatient[2], 1]
    i, j, k = np.rint(np.linalg.solve(volume.affine, corner)[:3]).astype(int)
    assert volume.array[i, j, k] == first.pixel_array[0, 0]
    body = volume.array > 100
    assert body[:, :, -60:].sum() > 0  # the crown is up: the neck below is narrower than the head
    assert body[:, :, 20].sum() < body[:, :, 160].sum() * 1.5


def test_an_independent_reader_agrees(real_data: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = real_data / "dicom" / "mprage_siemens"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume = load_image(CaseRef("case", "subject", folder))
    for index in ((0, 0, 0), (100, 30, 90), (255, 255, 191)):
        x, y, z = image.TransformIndexToPhysicalPoint(index)
        i, j, k = np.rint(np.linalg.solve(volume.affine, [-x, -y, z, 1])[:3]).astype(int)
        assert volume.array[i, j, k] == image.GetPixel(*index)


def test_a_tilted_uneven_ct_is_refused_with_both_figures(real_data: Path) -> None:
    reason = _refusal(real_data / "dicom" / "ct_ge_tilt")
    assert "18.5" in reason
    assert "1.08 to 7.00 mm" in reason
