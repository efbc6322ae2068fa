"""A patient's name is in every text that scans, sidecars and tables have: nothing that leaves a study holds it."""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numcodecs.zstd import Zstd
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from meddiff_core.stages.chain import make_missing
from meddiff_core.stages.making import Resources
from meddiff_core.workspace import Workspace

ZSTD = b"\x28\xb5\x2f\xfd"
EMBEDDED = re.compile(rb"base64,([A-Za-z0-9+/=]+)")
INSIDE = ("inventory.json", "fingerprint.json", "refused.csv", "study.yaml")
"""Where only the study's owner looks: they name files and folders, as they must."""
SIZE, SUBJECTS = 16, 40
TEXTS = {
    "PatientName": "{}^Anna", "OtherPatientNames": "{}", "PatientComments": "{} came by herself",
    "AdditionalPatientHistory": "{} fell", "ReferringPhysicianName": "{}", "OperatorsName": "{}",
    "InstitutionName": "{} hospital", "StationName": "{}", "AccessionNumber": "{}", "StudyDescription": "head of {}",
    "ImageComments": "{}", "PatientAddress": "{} road 1", "RequestedProcedureDescription": "{}",
    "SeriesDescription": "head {}", "ProtocolName": "{}", "ContrastBolusAgent": "{}", "DeviceSerialNumber": "{}",
}  # fmt: skip
BIDS_TEXTS = ("Name", "Authors", "Acknowledgements", "Description", "LongName", "InstitutionName", "PatientName")


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and those that lie compressed in it."""
    raw = path.read_bytes()
    yield path.as_posix().encode()
    yield raw
    yield from (base64.b64decode(found) for found in EMBEDDED.findall(raw))
    if raw.startswith(ZSTD):
        yield bytes(Zstd().decode(raw))
    elif raw.startswith(b"\x1f\x8b"):
        yield gzip.decompress(raw)
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        yield repr((table.schema.metadata, table.to_pydict())).encode()


def holding(folder: Path, name: str) -> list[str]:
    """Files below a folder that hold a name, in any case, in UTF-8 or UTF-16."""
    spellings = [name.lower().encode(code) for code in ("utf-8", "utf-16-le")]
    files = sorted(path for path in [folder, *folder.rglob("*")] if path.is_file())
    return [
        path.relative_to(folder.parent).as_posix()
        for path in files
        if any(spelling in content.lower() for content in contents_below(path, folder) for spelling in spellings)
    ]


def contents_below(path: Path, folder: Path) -> Iterator[bytes]:
    """The contents of a file and its name below a folder: the folder itself is the test's."""
    first, *others = contents(path)
    return iter([first.removeprefix(folder.as_posix().encode()), *others])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_byte_that_leaves_holds_the_name(chain: Any, canary: str) -> None:
    leaving = [chain.release, *(chain.folder / name for name in ("mlflow.db", "mlruns", ".meddiff"))]
    assert [found for folder in leaving for found in holding(folder, canary)] == []
    assert canary.lower() not in (chain.run.out + chain.run.err).lower()
    stores = [path for folder in leaving for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in stores)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_subject_is_named_in_what_is_compressed_either(chain: Any, subjects: list[str]) -> None:
    assert holding(chain.release, subjects[0].rpartition("-")[0]) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_was_not_declared_never_leaves_prepare(chain: Any, canary: str) -> None:
    """What is left of the name in the study are the names of files and folders, where scans lie."""
    assert {Path(found).name for found in holding(chain.folder, canary)} <= {*INSIDE, "cases.parquet"}
    cases = pd.read_parquet(chain.folder / "cases.parquet")
    held = {name for name, column in cases.items() if column.astype(str).str.contains(canary).any()}
    assert held <= {"source"}
    assert not {"surname", f"{canary} score"} & set(cases.columns)


@pytest.mark.parametrize("place", ["images", "labels", "sidecars", "participants.tsv"])
def test_the_name_was_planted(scans: Path, canary: str, place: str) -> None:
    """Otherwise the tests before this one could not fail."""
    if place == "participants.tsv":
        assert canary in (scans / place).read_text()
    elif place == "sidecars":
        assert all(canary in path.read_text() for path in (scans / "images").glob("*.json"))
    else:
        raw = gzip.decompress(next((scans / place).glob("*.nii.gz")).read_bytes())
        assert raw.count(canary.encode()) == 5
        assert holding(scans / place, canary)


def write_dicom(folder: Path, scans: Path, name: str) -> None:
    """Heads as series of MR, each text of a header about the patient filled with the name; one lacks a slice."""
    for subject in range(SUBJECTS):
        random = np.random.default_rng(subject)
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 3, indexing="ij"))
        head = ((grid / random.uniform(0.75, 0.95, (3, 1, 1, 1))) ** 2).sum(0) < 1
        image = (head * (600 + 200 * grid[1] + random.normal(0, 9, head.shape))).astype(np.int16)
        series = folder / f"{name} {subject:02d}"
        series.mkdir(parents=True)
        for number in range(SIZE):
            _slice(subject, number, image[:, :, number], name).save_as(
                series / f"{name}{number:05d}.dcm", enforce_file_format=True
            )
    (folder / f"{name} 00" / f"{name}00007.dcm").unlink()


def _slice(subject: int, number: int, pixels: Any, name: str) -> Dataset:
    part = Dataset()
    part.file_meta = FileMetaDataset()
    part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    part.file_meta.MediaStorageSOPClassUID = part.SOPClassUID = MRImageStorage
    uid = generate_uid(entropy_srcs=[str(subject), str(number)])
    part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID = uid
    part.Modality, part.SeriesInstanceUID, part.StudyInstanceUID = "MR", f"1.2.{subject + 1}", f"1.9.{subject + 1}"
    part.PatientID, part.SeriesNumber, part.InstanceNumber = f"{name}{subject}", 3, number + 1
    part.ImageOrientationPatient, part.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 10 * number]
    part.PixelSpacing, part.SliceThickness, part.Rows, part.Columns = [10, 10], 10, SIZE, SIZE
    part.BitsAllocated = part.BitsStored = 16
    part.HighBit, part.PixelRepresentation, part.SamplesPerPixel = 15, 1, 1
    part.PhotometricInterpretation = "MONOCHROME2"
    for keyword, text in TEXTS.items():
        setattr(part, keyword, text.format(name))
    private = part.private_block(0x0009, name, create=True)
    private.add_new(0x01, "LO", name)
    private.add_new(0x02, "OB", name.encode())
    requested = Dataset()
    requested.PatientName, requested.PatientID, requested.ScheduledProcedureStepDescription = name, name, name
    part.RequestAttributesSequence = part.OtherPatientIDsSequence = [requested]
    part.PixelData = np.ascontiguousarray(pixels).tobytes()
    return part


def write_bids(folder: Path, scans: Path, name: str) -> None:
    """The same heads as BIDS: the name in entities of files, sidecars, tables beside them and their descriptions."""
    said = json.dumps(dict.fromkeys(BIDS_TEXTS, name))
    table = pd.read_csv(scans / "participants.tsv", sep="\t")
    for number, image in enumerate(sorted((scans / "images").glob("*.nii.gz"))):
        subject = f"sub-{number:02d}"
        anatomy, labels = folder / subject / "anat", folder / "derivatives" / name / subject / "anat"
        for place in (anatomy, labels):
            place.mkdir(parents=True)
        start = f"{subject}_acq-{name}"
        shutil.copy(image, anatomy / f"{start}_T1w.nii.gz")
        shutil.copy(scans / "labels" / image.name, labels / f"{start}_desc-{name}_dseg.nii.gz")
        (labels / f"{start}_desc-{name}_dseg.tsv").write_text(f"index\tname\n1\t{name}\n2\t{name} too\n")
        for sidecar in (anatomy / f"{start}_T1w.json", labels / f"{start}_desc-{name}_dseg.json"):
            sidecar.write_text(said)
        (folder / subject / f"{subject}_scans.tsv").write_text(f"filename\toperator\nanat/{start}_T1w.nii.gz\t{name}\n")
        (folder / subject / f"{subject}_sessions.tsv").write_text(f"session_id\tplace\nses-1\t{name}\n")
    (folder / "sub-00" / "anat" / f"sub-00_acq-{name}_T1w.nii.gz").write_bytes(b"no scan")
    table.assign(participant_id=[f"sub-{number:02d}" for number in range(len(table))]).to_csv(
        folder / "participants.tsv", sep="\t", index=False
    )
    (folder / "participants.json").write_text(json.dumps(dict.fromkeys(table.columns, dict.fromkeys(BIDS_TEXTS, name))))
    (folder / "dataset_description.json").write_text(json.dumps({"BIDSVersion": "1.9.0"} | json.loads(said)))
    (folder / "README").write_text(name)
    (folder / "CHANGES").write_text(name)


NO_TABLE: dict[str, Any] = {"labels": None, "participants": None, "label_groups": {}, "covariates": {}, "mask": "none"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "settings"),
    [(write_dicom, NO_TABLE), (write_bids, {"labels": "derivatives/{}", "participants": "participants.tsv"})],
)
def test_no_text_of_a_scan_reaches_what_later_stages_read(
    site: Path, scans: Path, canary: str, write_study: Callable[..., None], write: Any, settings: dict[str, Any]
) -> None:
    """Training, sampling, audit and release read these artefacts alone. What is left names where scans lie."""
    folder = site / write.__name__
    place = folder / f"{canary} archive"
    place.mkdir(parents=True)
    write(place, scans, canary)
    asked = {key: f"{place.name}/{value}".format(canary) if isinstance(value, str) and key != "mask" else value
             for key, value in settings.items()}  # fmt: skip
    data = {"images": place.name} | asked
    write_study(folder, data=data, plan={"size": [SIZE] * 3, "spacing_mm": 10.0})
    workspace, wanted = Workspace.open(folder), ["inventory", "fingerprint", "split", "plan", "dataset"]
    said = [str(event) for event in make_missing(workspace, wanted, Resources("cpu"))]
    assert json.loads((folder / "split.json").read_text())
    assert len(pd.read_csv(folder / "refused.csv")) == 1
    made = [found for path in folder.iterdir() if path != place for found in holding(path, canary)]
    assert {Path(found).name for found in made} <= {*INSIDE, "cases.parquet"}
    cases = pd.read_parquet(folder / "cases.parquet")
    assert {name for name, column in cases.items() if column.astype(str).str.contains(canary).any()} <= {"source"}
    assert [text for text in said if canary.lower() in text.lower()] == []
