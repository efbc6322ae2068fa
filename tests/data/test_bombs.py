"""A few bytes that claim gigabytes are refused before anything is unpacked."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage, generate_uid

from meddiff_core.data.dicom import header
from meddiff_core.data.layouts import nnunet
from meddiff_core.data.nifti import read_nifti
from meddiff_core.data.scan import MOST_VOXELS
from meddiff_core.errors import CaseRefused, ConfigurationError


@pytest.mark.parametrize(
    ("shape", "name"), [((2000, 2000, 2000), "a.nii.gz"), ((32767,) * 3, "a.nii"), ((2, 2, 2, 30000), "a.nii.gz")]
)
def test_a_header_that_claims_a_huge_volume(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    head = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    head.set_data_shape(shape)
    raw = head.binaryblock + bytes(4096)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    said = f"must have at most {MOST_VOXELS} voxels" if len(shape) == 3 else "must be one 3D volume"
    with pytest.raises(CaseRefused, match=said):
        read_nifti("a", tmp_path / name)


def deflated(path: Path, text_bytes: int) -> Path:
    """A file of DICOM that is compressed as a whole."""
    part = Dataset()
    part.SOPClassUID, part.SOPInstanceUID, part.TextValue = MRImageStorage, generate_uid(), "a" * text_bytes
    part.file_meta = FileMetaDataset()
    part.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID
    part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID
    dcmwrite(path, part, enforce_file_format=True)
    return path


def test_a_deflated_file_is_measured_before_it_is_inflated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "MOST_INFLATED", 2**20)
    monkeypatch.setattr(header, "AT_ONCE", 2**12)
    small, large = deflated(tmp_path / "small.dcm", 50_000), deflated(tmp_path / "large.dcm", 2_000_000)
    assert header.read_dataset(small).SOPClassUID == MRImageStorage
    assert large.stat().st_size < 10_000

    def inflate(*arguments: Any) -> None:
        raise AssertionError("was inflated")

    monkeypatch.setattr(zlib, "decompress", inflate)
    with pytest.raises(ValueError, match="must have at most 1048576 bytes inflated"):
        header.read_dataset(large)


@pytest.mark.parametrize("size", range(4090, 4100))
def test_the_end_of_a_deflated_file_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Wherever it lies in what is inflated at once, and whatever follows it."""
    monkeypatch.setattr(header, "AT_ONCE", 64)
    path = deflated(tmp_path / "small.dcm", size)
    path.write_bytes(path.read_bytes() + bytes(1000))
    header._check_deflated(path)


def test_a_description_of_a_data_set_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset.json").write_text("{}" + " " * 2000)
    assert not nnunet.read_description(tmp_path / "dataset.json").channels
    monkeypatch.setattr(nnunet, "MOST_BYTES", 1000)
    with pytest.raises(ConfigurationError, match="must have at most 1000 bytes, has 2002"):
        nnunet.read_description(tmp_path / "dataset.json")
