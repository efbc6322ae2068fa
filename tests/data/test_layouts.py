"""Layout by layout: what is read as a scan, of whom, of which kind, with which label map, and what is asked."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from meddiff_core.data.ingest import Inventory, discover, load_image, load_label, require_answers
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.study import DataConfig

Made = Callable[..., Any]
TWELVE = range(12)


def _touch(root: Path, *names: str) -> Path:
    """Files by their names alone: nothing is read before a case is asked for."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@dataclass(frozen=True)
class Layout:
    """A folder, and what is right."""

    files: tuple[str, ...]
    """Names below the folder; `{n}` stands for 01 to 12."""
    scans: int
    subjects: int
    example: tuple[str, str]
    """The first case and its subject."""
    words: str
    """What the layout is called."""
    rule: str
    kinds: dict[str, int]
    """Scans of every kind that was found, used or not."""
    labels: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What each note is of."""
    asks: tuple[str, ...] = ()
    """Keys of the questions."""


LAYOUTS = {
    "flat, numbered": Layout(
        ("hippocampus_{n}.nii.gz",), 12, 12, ("hippocampus_01", "hippocampus_01"), "flat folder", "file name",
        {"(no suffix)": 12},
    ),
    "flat, several contrasts": Layout(
        ("P{n}_T1.nii.gz", "P{n}_flair.nii.gz"), 24, 12, ("P01_T1", "P01"), "flat folder", "file name",
        {"T1": 12, "flair": 12}, asks=("data.kinds",),
    ),
    "flat, one of several contrasts": Layout(
        ("P{n}_T1.nii.gz", "P{n}_flair.nii.gz"), 12, 12, ("P01_flair", "P01"), "flat folder", "file name",
        {"T1": 12, "flair": 12}, settings={"kinds": ["FLAIR"]}, notes=("T1",),
    ),
    "flat, two visits": Layout(
        ("P{n}_v1_T1.nii.gz", "P{n}_v2_T1.nii.gz"), 24, 12, ("P01_v1_T1", "P01"), "flat folder", "file name",
        {"T1": 24},
    ),
    "flat, label maps beside": Layout(
        ("P{n}.nii.gz", "P{n}_seg.nii.gz"), 12, 12, ("P01", "P01"), "flat folder", "file name", {"(no suffix)": 12},
        notes=("data.labels",),
    ),
    "flat, label maps beside, named": Layout(
        ("P{n}.nii.gz", "P{n}_seg.nii.gz"), 12, 12, ("P01", "P01"), "flat folder", "file name", {"(no suffix)": 12},
        labels=12, settings={"labels": "in"},
    ),
    "a folder a subject": Layout(
        ("s00{n}/ct.nii.gz",), 12, 12, ("s0001_ct", "s0001"), "12 folders of images", "folder", {"ct": 12},
    ),
    "a folder a subject, several contrasts": Layout(
        ("P{n}/T1.nii.gz", "P{n}/T2.nii.gz"), 24, 12, ("P01_T1", "P01"), "12 folders of images", "folder",
        {"T1": 12, "T2": 12}, asks=("data.kinds",),
    ),
    "a folder a subject and visit": Layout(
        ("P{n}/2019/T1.nii.gz", "P{n}/2021/T1.nii.gz"), 24, 12, ("P01_2019_T1", "P01"), "24 folders of images",
        "folder", {"T1": 24},
    ),
    "a folder a visit and subject": Layout(
        ("baseline/P{n}/T1.nii.gz", "followup/P{n}/T1.nii.gz"), 24, 12, ("baseline_P01_T1", "P01"),
        "24 folders of images", "folder", {"T1": 24},
    ),
    "a folder a site": Layout(
        ("paris/P{n}.nii.gz", "rome/R{n}.nii.gz"), 24, 24, ("P01", "P01"), "2 folders of images", "file name",
        {"(no suffix)": 24},
    ),
    "a folder a site and subject": Layout(
        ("paris/P{n}/T1.nii.gz", "rome/R{n}/T1.nii.gz"), 24, 2, ("paris_P01_T1", "paris"), "24 folders of images",
        "folder", {"T1": 24}, asks=("data.subject",),
    ),
    "a folder a site and subject, with a pattern": Layout(
        ("paris/P{n}/T1.nii.gz", "rome/R{n}/T1.nii.gz"), 24, 24, ("paris_P01_T1", "P01"), "24 folders of images",
        "data.subject", {"T1": 24}, settings={"subject": "^[^/]+/(?P<subject>[^/]+)/"},
    ),
    "a folder a contrast": Layout(
        ("T1/P{n}.nii.gz", "T2/P{n}.nii.gz"), 24, 12, ("T1_P01", "P01"), "2 folders of images", "file name",
        {"T1": 12, "T2": 12}, asks=("data.kinds",),
    ),
    "BraTS": Layout(
        ("BraTS_{n}/BraTS_{n}_t1.nii.gz", "BraTS_{n}/BraTS_{n}_t1ce.nii.gz", "BraTS_{n}/BraTS_{n}_seg.nii.gz"), 12, 12,
        ("BraTS_01_t1ce", "BraTS_01"), "12 folders of images", "folder", {"t1": 12, "t1ce": 12}, labels=12,
        settings={"labels": "in", "kinds": ["t1ce"]}, notes=("t1",),
    ),
    "TotalSegmentator": Layout(
        ("s00{n}/ct.nii.gz", "s00{n}/segmentations/liver.nii.gz", "s00{n}/segmentations/spleen.nii.gz"), 12, 12,
        ("s0001_ct", "s0001"), "12 folders of images", "folder", {"ct": 12}, notes=("data.labels",),
    ),
    "nnU-Net": Layout(
        ("imagesTr/L_{n}_0000.nii.gz", "labelsTr/L_{n}.nii.gz", "imagesTs/L_9{n}_0000.nii.gz"), 12, 12,
        ("L_01", "L_01"), "nnU-Net (in, 1 channel)", "file name", {"channel 0": 12}, labels=12, notes=("imagesTs",),
    ),
    "nnU-Net, two channels": Layout(
        ("imagesTr/L_{n}_0000.nii.gz", "imagesTr/L_{n}_0001.nii.gz", "labelsTr/L_{n}.nii.gz"), 24, 12,
        ("imagesTr_L_01_0000", "L_01"), "nnU-Net (in, 2 channels)", "file name", {"channel 0": 12, "channel 1": 12},
        labels=24, asks=("data.channel",),
    ),
    "nnU-Net, one of two channels": Layout(
        ("imagesTr/L_{n}_0000.nii.gz", "imagesTr/L_{n}_0001.nii.gz", "labelsTr/L_{n}.nii.gz"), 12, 12, ("L_01", "L_01"),
        "nnU-Net (in, 2 channels)", "file name", {"channel 0": 12, "channel 1": 12}, labels=12,
        settings={"channel": 1}, notes=("channel 0",),
    ),
    "nnU-Net, its folders named": Layout(
        ("imagesTr/L_{n}_0000.nii.gz", "labelsTr/L_{n}.nii.gz"), 12, 12, ("L_01", "L_01"), "nnU-Net (in, 1 channel)",
        "file name", {"channel 0": 12}, labels=12, settings={"images": "in/imagesTr", "labels": "in/labelsTr"},
    ),
    "Decathlon": Layout(
        ("imagesTr/spleen_{n}.nii.gz", "labelsTr/spleen_{n}.nii.gz"), 12, 12, ("spleen_01", "spleen_01"),
        "Decathlon (in, 1 channel)", "file name", {"(no suffix)": 12}, labels=12,
    ),
    "BIDS": Layout(
        ("sub-{n}/anat/sub-{n}_T1w.nii.gz", "sub-{n}/anat/sub-{n}_T1w.json", "sub-{n}/func/sub-{n}_task-x_bold.nii.gz"),
        12, 12, ("sub-01_T1w", "sub-01"), "BIDS", "BIDS entity `sub`", {"T1w": 12}, notes=("func/*_bold",),
    ),
    "BIDS, sessions, runs and parts": Layout(
        (
            "sub-{n}/ses-1/anat/sub-{n}_ses-1_run-1_part-mag_T1w.nii.gz",
            "sub-{n}/ses-1/anat/sub-{n}_ses-1_run-1_part-phase_T1w.nii.gz",
            "sub-{n}/ses-2/anat/sub-{n}_ses-2_run-1_part-mag_T1w.nii.gz",
            "sub-{n}/ses-2/anat/sub-{n}_ses-2_run-2_part-mag_T1w.nii.gz",
        ),
        36, 12, ("sub-01_ses-1_run-1_part-mag_T1w", "sub-01"), "BIDS", "BIDS entity `sub`",
        {"T1w": 36, "T1w part-phase": 12}, notes=("T1w part-phase",),
    ),
    "BIDS, before and after contrast": Layout(
        ("sub-{n}/anat/sub-{n}_T1w.nii.gz", "sub-{n}/anat/sub-{n}_ce-gad_T1w.nii.gz"), 24, 12,
        ("sub-01_T1w", "sub-01"), "BIDS", "BIDS entity `sub`", {"T1w": 12, "T1w ce-gad": 12}, asks=("data.kinds",),
    ),
    "BIDS, one level down": Layout(
        ("ds000001/sub-{n}/anat/sub-{n}_UNIT1.nii.gz",), 12, 12, ("sub-01_UNIT1", "sub-01"), "BIDS in ds000001",
        "BIDS entity `sub`", {"UNIT1": 12},
    ),
    "BIDS, derivatives": Layout(
        (
            "derivatives/fmriprep/sub-{n}/anat/sub-{n}_desc-preproc_T1w.nii.gz",
            "derivatives/fmriprep/sub-{n}/anat/sub-{n}_desc-brain_mask.nii.gz",
            "derivatives/fmriprep/sub-{n}/anat/sub-{n}_label-GM_probseg.nii.gz",
            "derivatives/fmriprep/sub-{n}/anat/sub-{n}_dseg.nii.gz",
        ),
        12, 12, ("sub-01_desc-preproc_T1w", "sub-01"), "BIDS", "BIDS entity `sub`", {"T1w desc-preproc": 12},
        settings={"images": "in/derivatives/fmriprep"}, notes=("anat/*_dseg", "anat/*_mask", "anat/*_probseg"),
    ),
    "FreeSurfer": Layout(
        tuple(f"bert{{n}}/mri/{name}.mgz" for name in ("orig", "T1", "norm", "aseg", "aparc+aseg", "wm", "ribbon")), 12,
        12, ("bert01_T1", "bert01"), "FreeSurfer subjects", "folder", {"T1": 12, "orig": 12, "norm": 12}, labels=12,
        settings={"labels": "in"}, notes=("norm", "orig"),
    ),
    "SynthSeg": Layout(
        ("P{n}.nii.gz", "P{n}_synthseg.nii.gz"), 12, 12, ("P01", "P01"), "flat folder", "file name",
        {"(no suffix)": 12}, labels=12, settings={"labels": "in"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_is_read_as_what_it_is(tmp_path: Path, layout: Layout) -> None:
    _touch(tmp_path / "in", *(name.replace("{n}", f"{n + 1:02d}") for name in layout.files for n in TWELVE))
    inventory = discover(DataConfig(**({"images": "in"} | layout.settings)), tmp_path)
    assert inventory.refused == ()
    assert [question.key for question in inventory.questions] == list(layout.asks)
    assert (len(inventory.cases), len({case.subject for case in inventory.cases})) == (layout.scans, layout.subjects)
    assert (inventory.cases[0].case, inventory.cases[0].subject) == layout.example
    assert (inventory.layout, {rule.rule for rule in inventory.subject_rules}) == (layout.words, {layout.rule})
    assert {kind.kind: kind.scans for kind in inventory.image_kinds} == layout.kinds
    assert sum(case.label is not None for case in inventory.cases) == layout.labels
    assert tuple(note.case for note in inventory.notes) == layout.notes


def _read(root: Path, *names: str, **settings: Any) -> Inventory:
    _touch(root / "in", *names)
    return discover(DataConfig(**({"images": "in"} | settings)), root)


def _subjects(inventory: Inventory) -> dict[str, str]:
    return {case.case: case.subject for case in inventory.cases}


# Who is a subject


def test_a_name_that_would_make_all_scans_one_subject_is_asked_about(tmp_path: Path) -> None:
    inventory = _read(tmp_path, *(f"volunteer_v{n}.nii.gz" for n in TWELVE))
    assert [question.key for question in inventory.questions] == ["data.subject"]
    text = inventory.questions[0].text
    assert "12 scans would be of one subject, 'volunteer', by the file name: volunteer_v0.nii.gz" in text
    with pytest.raises(ConfigurationError, match=r"1 question must be answered.*\n  data\.subject: 12 scans"):
        require_answers(inventory)
    answered = _read(tmp_path, subject=r"_(?P<subject>v\d+)")
    require_answers(answered)
    assert len(set(_subjects(answered).values())) == 12


def test_a_few_scans_of_one_subject_are_not_asked_about(tmp_path: Path) -> None:
    inventory = _read(tmp_path, *(f"P{n}_run-{run}.nii" for n in TWELVE for run in range(8)))
    assert (len(set(_subjects(inventory).values())), inventory.questions) == (12, ())


def test_a_scan_that_the_pattern_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    inventory = _read(tmp_path, "P1_T1.nii", "P2_T1.nii", "other.nii", subject="(?P<subject>P[0-9])")
    assert _subjects(inventory) == {"P1_T1": "P1", "P2_T1": "P2"}
    assert [refusal.case for refusal in inventory.refused] == ["other.nii"]
    assert "data.subject" in inventory.refused[0].reason


@pytest.mark.parametrize("pattern", ["(", "(P[0-9])", "(?P<person>P[0-9])"])
def test_a_pattern_without_the_group_is_refused_when_the_study_is_read(pattern: str) -> None:
    with pytest.raises(ValueError, match="subject must be a regular expression with a group named `subject`"):
        DataConfig(images="in", subject=pattern)


def test_two_names_of_one_person_are_joined(tmp_path: Path) -> None:
    names = [f"P{n}.nii" for n in range(5)]
    assert set(_subjects(_read(tmp_path, *names, same_subject=[["P1", "P3"], ["P3", "P4"]])).values()) == {
        "P0", "P1", "P2",
    }  # fmt: skip
    (tmp_path / "same.csv").write_text("first,second\nP1,P3\nP0,P2\n")
    assert set(_subjects(_read(tmp_path, same_subject="same.csv")).values()) == {"P0", "P1", "P4"}


def test_a_joined_name_that_no_subject_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.same_subject: .*'patient_7' is none; did you mean patient_1"):
        _read(tmp_path, "patient_1.nii", "q2.nii", same_subject=[["q2", "patient_7"]])


def test_folders_that_could_be_persons_or_sites_are_asked_about(tmp_path: Path) -> None:
    inventory = _read(tmp_path, "a/x1.nii", "a/y2.nii", "b/z3.nii", "b/u4.nii")
    assert [question.key for question in inventory.questions] == ["data.subject"]
    assert "4 scans lie in 2 folders under names that differ" in inventory.questions[0].text


def test_a_short_number_behind_a_number_is_asked_about(tmp_path: Path) -> None:
    inventory = _read(tmp_path, *(f"P{n:02d}_{scan}.nii" for n in TWELVE for scan in (1, 2)))
    assert "P00_1 and P00_2 may be scans of one subject or of two" in inventory.questions[0].text
    assert len(set(_subjects(_read(tmp_path, subject=r"(?P<subject>[^/]+)[_-]\d+[^/]*$")).values())) == 12


def test_a_date_in_front_is_a_visit(tmp_path: Path) -> None:
    inventory = _read(tmp_path, "20190304_P01.nii", "20210304_P01.nii", "20190305_P02.nii", "20220101_P02.nii")
    assert set(_subjects(inventory).values()) == {"P01", "P02"}
    assert [kind.kind for kind in inventory.image_kinds] == ["(no suffix)"]


def test_the_number_of_a_visit_is_no_id_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("participant_id\tage\n" + "".join(f"{n}\t{40 + n}\n" for n in (1, 2, 31, 32)))
    inventory = _read(tmp_path, *(f"{n}/{visit}/T1.nii" for n in (31, 32) for visit in (1, 2)), participants="p.tsv")
    assert {case.subject: case.covariates["age"] for case in inventory.cases} == {"31": 71.0, "32": 72.0}


def test_a_pattern_that_makes_all_scans_one_subject_is_asked_about(tmp_path: Path) -> None:
    names = [f"study/P{n}/T1.nii" for n in TWELVE]
    assert [question.key for question in _read(tmp_path, *names, subject="^(?P<subject>[^/]+)/").questions] == [
        "data.subject"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "ADNI/002_S_{n}/MPRAGE/200{v}-04-18/I{v}{n}/ADNI_002_S_{n}_MR_br_raw_I{v}{n}.nii",
        "O{n}_MR_d{v}/anat/sub-O{n}_ses-d{v}_T1w.nii",
        "O{n}_MR_d{v}/O{n}_T1.nii",
        "sub-{n}_ses-{v}_T1w.nii",
    ],
)
def test_visits_of_one_person_in_archives_are_one_subject(tmp_path: Path, name: str) -> None:
    inventory = _read(tmp_path, *(name.format(n=n, v=v) for n in range(100, 112) for v in (6, 7)))
    assert (len(inventory.cases), len(set(_subjects(inventory).values())), inventory.questions) == (24, 12, ())


def test_a_pattern_that_is_not_used_is_said(tmp_path: Path) -> None:
    inventory = _read(tmp_path, "sub-1/anat/sub-1_T1w.nii", subject="(?P<subject>x)")
    assert [(note.case, note.reason) for note in inventory.notes] == [
        ("data.subject", "not used for 1 scan: the BIDS entity `sub` identifies subjects")
    ]


def test_folders_of_one_persons_sessions_are_one_subject(tmp_path: Path) -> None:
    inventory = _read(tmp_path, *(f"P{n}_ses-{ses}/T1.nii" for n in TWELVE for ses in (1, 2)))
    assert len(set(_subjects(inventory).values())) == 12


def test_a_table_knows_the_subject_by_the_folder_too(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("participant_id\tage\nkim\t30\nlee\t40\n")
    inventory = _read(tmp_path, "site/kim/x1.nii", "site/lee/x2.nii", participants="p.tsv")
    assert {case.subject: case.covariates["age"] for case in inventory.cases} == {"kim": 30.0, "lee": 40.0}
    assert inventory.subject_rules[0].examples == (("site/kim/x1.nii", "kim"), ("site/lee/x2.nii", "lee"))


def test_a_joined_subject_keeps_the_row_of_each_name(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("participant_id\tage\nkim\t30\nlee\t40\n")
    inventory = _read(tmp_path, "kim.nii", "lee.nii", participants="p.tsv", same_subject=[["kim", "lee"]])
    assert [(case.subject, case.covariates["age"]) for case in inventory.cases] == [("kim", 30.0), ("kim", 40.0)]


def test_a_table_of_images_may_name_one_file_name_many_times(tmp_path: Path) -> None:
    names = [f"s{n}/{year}/T1.nii.gz" for n in TWELVE for year in (2019, 2021)]
    _touch(tmp_path / "in", *names)
    rows = [f"{name.split('/')[0]},{name}" for name in [*names, names[0]]]
    (tmp_path / "in" / "scans.csv").write_text("\n".join(["subject,image", *rows]))
    inventory = discover(DataConfig(images="in/scans.csv"), tmp_path)
    assert (len(inventory.cases), len({case.subject for case in inventory.cases})) == (24, 12)
    assert inventory.cases[0].case == "s0_2019_T1"
    assert [(refusal.case, refusal.reason) for refusal in inventory.refused] == [(names[0], "is named twice")]


# DICOM: whose a series is


def _series(folder: Path, patient: str, uid: str) -> None:
    """Five slices of four by four pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(5):
        part = Dataset()
        part.file_meta = FileMetaDataset()
        part.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        part.SOPClassUID = part.file_meta.MediaStorageSOPClassUID = MRImageStorage
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"1.2.{uid}.{number + 1}"
        part.SeriesInstanceUID = part.StudyInstanceUID = f"1.2.{uid}"
        part.Modality, part.PatientID = "MR", patient
        part.ImagePositionPatient, part.ImageOrientationPatient = [0, 0, 3 * number], [1, 0, 0, 0, 1, 0]
        part.PixelSpacing, part.Rows, part.Columns = [1, 1], 4, 4
        part.BitsAllocated, part.BitsStored, part.HighBit, part.PixelRepresentation, part.SamplesPerPixel = (
            16,
            12,
            11,
            0,
            1,
        )
        part.PhotometricInterpretation, part.PixelData = "MONOCHROME2", bytes(32)
        part.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def test_two_accessions_of_one_patient_are_one_subject(tmp_path: Path) -> None:
    for number, patient in enumerate(("A", "A", "B", "C")):
        _series(tmp_path / "in" / f"ACC{number}", patient, str(number + 1))
    inventory = _read(tmp_path)
    subjects = _subjects(inventory)
    assert subjects["ACC0"] == subjects["ACC1"]
    assert len(set(subjects.values())) == 3
    assert "A" not in subjects.values()
    assert {rule.rule for rule in inventory.subject_rules} == {"DICOM Patient ID"}
    assert len(set(_subjects(_read(tmp_path, subject="(?P<subject>ACC[0-9])")).values())) == 4


@pytest.mark.parametrize("patient", ["", "ANONYMOUS"])
def test_a_patient_id_that_tells_nothing_is_passed_over(tmp_path: Path, patient: str) -> None:
    for number in range(4):
        _series(tmp_path / "in" / f"pat{number // 2}" / f"S000{number % 2}", patient, str(number + 1))
    inventory = _read(tmp_path)
    assert (set(_subjects(inventory).values()), inventory.questions) == ({"pat0", "pat1"}, ())
    assert [note.case for note in inventory.notes] == (["data.subject"] if patient else [])


def test_a_patient_keeps_the_row_that_the_table_has_under_its_folder(tmp_path: Path) -> None:
    for number, patient in enumerate("AAB"):
        _series(tmp_path / "in" / f"ACC{number}", patient, str(number + 1))
    (tmp_path / "p.tsv").write_text("participant_id\tage\nACC0\t30\nACC1\t32\nACC2\t50\n")
    inventory = _read(tmp_path, participants="p.tsv")
    assert [case.covariates["age"] for case in inventory.cases] == [30.0, 32.0, 50.0]
    assert len({case.subject for case in inventory.cases}) == 2


# Kinds of image


def test_several_kinds_that_were_chosen_become_a_condition(tmp_path: Path) -> None:
    inventory = _read(tmp_path, "P1_T1.nii", "P1_T2.nii", "P2_t1.nii", "P2_PD.nii", kinds=["t1", "T2"])
    assert {case.case: case.covariates for case in inventory.cases} == {
        "P1_T1": {"kind": "T1"},
        "P1_T2": {"kind": "T2"},
        "P2_t1": {"kind": "T1"},
    }
    assert inventory.kinds == {"kind": "categorical"}
    assert [note.case for note in inventory.notes] == ["PD"]


def test_a_column_of_the_table_cannot_be_called_as_the_condition(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("participant_id\tkind\nP1\tx\nP2\ty\n")
    files = "P1_T1.nii", "P2_T2.nii"
    assert _read(tmp_path, *files, participants="p.tsv", kinds=["T1"]).kinds == {"kind": "categorical"}
    with pytest.raises(ConfigurationError, match="condition `kind`, which is a column of the table already"):
        _read(tmp_path, *files, participants="p.tsv", kinds=["T1", "T2"])


def test_a_kind_that_no_scan_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data\.kinds: .*'flare' is none; did you mean flair\?"):
        _read(tmp_path, "P1_flair.nii", "P2_T1.nii", kinds=["flare"])


def test_the_counts_of_kinds_tell_scans_and_subjects(tmp_path: Path) -> None:
    names = [f"sub-{n}/anat/sub-{n}_T2w.nii.gz" for n in TWELVE]
    inventory = _read(tmp_path, *names, "sub-1/anat/sub-1_T1w.nii.gz")
    assert "'T2w': 12 scans of 12 subjects; 'T1w': 1 scan of 1 subject" in inventory.questions[0].text


def test_phase_images_are_used_only_by_name(tmp_path: Path) -> None:
    names = [f"sub-{n}/anat/sub-{n}_part-{part}_T1w.nii.gz" for n in TWELVE for part in ("mag", "phase")]
    assert {case.kind for case in _read(tmp_path, *names).cases} == {"T1w"}
    assert {case.kind for case in _read(tmp_path, kinds=["T1w part-phase"]).cases} == {"T1w part-phase"}
    for path in (tmp_path / "in").rglob("*mag*"):
        path.unlink()
    assert [question.key for question in _read(tmp_path).questions] == ["data.kinds"]


# nnU-Net and the Decathlon


def _description(root: Path, **content: Any) -> None:
    (root / "in").mkdir(exist_ok=True)
    (root / "in" / "dataset.json").write_text(json.dumps(content))


def test_a_channel_is_chosen_by_its_number_or_name(tmp_path: Path) -> None:
    names = [f"imagesTr/x_{n}_000{channel}.nii.gz" for n in TWELVE for channel in (0, 1)]
    _description(tmp_path, channel_names={"0": "T1", "1": "FLAIR"})
    for channel in (1, "1", "flair"):
        assert {case.kind for case in _read(tmp_path, *names, channel=channel).cases} == {"FLAIR"}
    with pytest.raises(ConfigurationError, match=r"data\.channel: .*is 'FLARE'; did you mean FLAIR"):
        _read(tmp_path, channel="FLARE")
    with pytest.raises(ConfigurationError, match=r"data\.channel: .*is 7"):
        _read(tmp_path, channel=7)


def test_a_channel_is_no_setting_for_other_layouts(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"data\.channel: is for nnU-Net and Decathlon data sets, .*flat folder"
    ):
        _read(tmp_path, "P1.nii", channel=0)


def test_a_data_set_of_nnunet_may_lie_one_level_down(tmp_path: Path) -> None:
    inventory = _read(tmp_path, "Dataset1/imagesTr/x_0000.nii.gz", "Dataset1/labelsTr/x.nii.gz")
    assert [(case.case, case.label is not None) for case in inventory.cases] == [("x", True)]
    with pytest.raises(ConfigurationError, match="must be one nnU-Net data set, holds 2: Dataset1, Dataset2"):
        _read(tmp_path, "Dataset2/imagesTr/x_0000.nii.gz")


def test_numbers_that_are_no_channels_are_subjects(tmp_path: Path) -> None:
    inventory = _read(tmp_path, *(f"hippocampus_{n:04d}.nii.gz" for n in range(26)))
    assert (inventory.layout, len(set(_subjects(inventory).values()))) == ("flat folder", 26)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ({"background": 0, "liver": 1, "left kidney": 2}, {"liver": [1], "left_kidney": [2]}),
        ({"background": 0, "edema": [1], "core": [2, 3], "ignore": 4}, {"edema": [1], "core": [2, 3]}),
        ({"0": "background", "1": "liver", "2": "cancer"}, {"liver": [1], "cancer": [2]}),
        ({"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3]}, {}),
        ({"background": 0, "肝": 1}, {"label_1": [1]}),
    ],
)
def test_label_names_of_dataset_json_are_groups(tmp_path: Path, labels: Any, groups: Any) -> None:
    _description(tmp_path, labels=labels)
    inventory = _read(tmp_path, "imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz", "imagesTr/y_0000.nii.gz")
    assert inventory.label_groups == groups
    assert [note.case for note in inventory.notes] == ([] if groups else ["dataset.json"])
    assert [(refusal.case, refusal.reason) for refusal in inventory.refused] == [("y", "has no label map")]


def test_an_image_of_several_channels_gives_the_one_that_was_chosen(tmp_path: Path, save: Made, head: Made) -> None:
    image, label = head(0)
    for n in range(3):
        save(tmp_path / "in" / "imagesTr" / f"B_{n}.nii.gz", np.stack([image, image + 100], axis=-1))
        save(tmp_path / "in" / "labelsTr" / f"B_{n}.nii.gz", label)
    _description(tmp_path, tensorImageSize="4D", modality={"0": "T1w", "1": "FLAIR"})
    assert [question.key for question in _read(tmp_path).questions] == ["data.channel"]
    cases = _read(tmp_path, channel="FLAIR").cases
    assert [(case.case, case.kind) for case in cases] == [(f"B_{n}", "FLAIR") for n in range(3)]
    volume = load_image(cases[0])
    np.testing.assert_array_equal(volume.array, image + 100)
    assert load_label(cases[0], volume).max() == 2


# Label maps


def test_two_label_maps_of_absent_images_are_no_ones(tmp_path: Path) -> None:
    _touch(tmp_path / "labels", "P1_seg.nii", "P2_1_seg.nii", "P2_2_old.nii")
    inventory = _read(tmp_path, "P1.nii", "P2.nii", labels="labels")
    assert [(refusal.case, refusal.reason) for refusal in inventory.refused] == [("P2", "has no label map")]
    assert {note.case for note in inventory.notes} == {"P2_1_seg.nii", "P2_2_old.nii"}


def test_a_label_map_of_another_session_is_not_taken(tmp_path: Path) -> None:
    _touch(tmp_path / "labels", "P1_ses-1_T1_seg.nii", "P1_ses-3_T1_seg.nii", "P2_ses-2_T1_seg.nii")
    inventory = _read(tmp_path, "P1_ses-2_T1.nii", "P2_ses-2_T1.nii", labels="labels")
    assert [case.case for case in inventory.cases] == ["P2_ses-2_T1"]
    assert [(refusal.case, refusal.reason) for refusal in inventory.refused] == [("P1_ses-2_T1", "has no label map")]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("img00{n}", "label00{n}"),
        ("volume-{n}", "segmentation-{n}"),
        ("ct_{n}_image", "ct_{n}_label"),
        ("{n}", "{n}_gt"),
    ],
)
def test_label_maps_under_names_of_challenges_are_found(tmp_path: Path, image: str, label: str) -> None:
    _touch(tmp_path / "labels", *(f"{label.format(n=n)}.nii" for n in range(1, 13)))
    inventory = _read(tmp_path, *(f"{image.format(n=n)}.nii" for n in range(1, 13)), labels="labels")
    pairs = [(case.case, case.label.stem) for case in inventory.cases if case.label]
    assert sorted(pairs) == sorted((image.format(n=n), label.format(n=n)) for n in range(1, 13))


def test_links_among_the_label_maps_are_said(tmp_path: Path) -> None:
    _touch(tmp_path, "share/P1_seg.nii", "labels/P2_seg.nii")
    (tmp_path / "labels" / "P1_seg.nii").symlink_to(tmp_path / "share" / "P1_seg.nii")
    inventory = _read(tmp_path, "P1.nii", "P2.nii", labels="labels")
    assert [(note.case, note.reason) for note in inventory.notes] == [
        ("data.labels", "1 link leads out of the folder (set data.follow_links: true)")
    ]
    assert len(_read(tmp_path, labels="labels", follow_links=True).cases) == 2


def test_label_maps_in_folders_of_subjects_are_found(tmp_path: Path) -> None:
    _touch(tmp_path / "labels", *(f"P{n}/2019/seg.nii" for n in TWELVE))
    inventory = _read(tmp_path, *(f"P{n}/2019/T1.nii" for n in TWELVE), labels="labels")
    assert all(case.label and case.label.parts[-3] == case.subject for case in inventory.cases)


@pytest.mark.parametrize(
    "name",
    ["P1_seg", "P1_label", "P1_labels", "P1_mask", "P1_dseg", "P1-seg", "P1_gt", "segmentation_P1", "aparc+aseg",
     "P1_brainmask", "P1_T1_seg_v2", "masks/P1", "labelsTr/P1", "P1/segmentations/liver"],
)  # fmt: skip
def test_a_label_map_is_never_a_scan(tmp_path: Path, name: str) -> None:
    inventory = _read(tmp_path, "P1_T1.nii.gz", f"{name}.nii.gz")
    assert [case.case for case in inventory.cases] == ["P1_T1"]
    assert f"1 file is named as a label map and left out ({name}.nii.gz)" in inventory.notes[0].reason


def test_a_volume_of_freesurfer_is_read(tmp_path: Path, head: Made) -> None:
    image, label = head(0)
    for name, array in (("T1", image.clip(0, 255).astype(np.uint8)), ("aseg", label.astype(np.int32))):
        path = tmp_path / "in" / "bert" / "mri" / f"{name}.mgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.MGHImage(array, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    case = discover(DataConfig(images="in", labels="in"), tmp_path).cases[0]
    volume = load_image(case)
    assert (volume.array.shape, volume.spacing_mm) == (image.shape, (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(load_label(case, volume), label)


# Links, other files, and nothing at all


def _links(root: Path, count: int, target: str) -> None:
    (root / "in").mkdir(exist_ok=True)
    for n in range(count):
        (root / "in" / f"P{n}.nii").symlink_to(target.format(n))


def test_links_out_of_the_folder_are_used_only_if_a_person_says_so(tmp_path: Path) -> None:
    share = _touch(tmp_path / "share", *(f"P{n}.nii" for n in TWELVE))
    _links(tmp_path, 12, f"{share}/P{{}}.nii")
    with pytest.raises(DataRefused, match=r"12 links lead out of the folder \(set data\.follow_links: true\)"):
        _read(tmp_path)
    assert len(_read(tmp_path, follow_links=True).cases) == 12


def test_content_that_was_not_fetched_is_called_so(tmp_path: Path) -> None:
    _links(tmp_path, 1, "../.git/annex/objects/P{}")
    with pytest.raises(DataRefused, match=r"1 file was not fetched \(`datalad get` or `git lfs pull` does\)"):
        _read(tmp_path, follow_links=True)


def test_a_pointer_to_content_elsewhere_is_no_scan(tmp_path: Path) -> None:
    _touch(tmp_path / "in", "P1.nii.gz")
    (tmp_path / "in" / "P2.nii.gz").write_text("/annex/objects/MD5E-s1--0.nii.gz")
    (tmp_path / "in" / "P3.nii.gz").write_text("version https://git-lfs.github.com/spec/v1")
    inventory = _read(tmp_path)
    assert [case.case for case in inventory.cases] == ["P1"]
    assert all("not fetched" in refusal.reason for refusal in inventory.refused)


def test_folders_linked_in_a_circle_end(tmp_path: Path) -> None:
    _touch(tmp_path / "in", "a/P1.nii")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    assert len(_read(tmp_path, follow_links=True).cases) == 1


def test_a_whole_refusal_is_short_whatever_it_counts(tmp_path: Path) -> None:
    with pytest.raises(DataRefused) as caught:
        _read(tmp_path, *(f"slide_{n}.png" for n in range(300)), "notes.docx")
    assert str(caught.value).endswith("BIDS anat images; found 301 other files (.png, .docx)")


def test_many_files_without_use_are_counted_and_few_are_named(tmp_path: Path) -> None:
    few = _read(tmp_path, "P1.nii", "a.png", "b.png")
    assert [refusal.case for refusal in few.refused] == ["a.png", "b.png"]
    many = _read(tmp_path, *(f"{n}.png" for n in range(300)))
    assert [(refusal.case, refusal.reason) for refusal in many.refused] == [
        ("*.png", "302 files are no image that can be read"),
    ]


def test_a_study_whose_images_are_all_refused_is_still_listed(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    inventory = _read(tmp_path, *(f"P{n}.nii" for n in TWELVE), labels="labels")
    assert (len(inventory.cases), len(inventory.refused)) == (0, 12)


@pytest.mark.parametrize(
    "names",
    [
        "BraTS-GLI-{n:05d}-00{scan}/BraTS-GLI-{n:05d}-00{scan}-t1c.nii.gz",
        "{n:07d}_20252_{scan}_0/T1/T1.nii.gz",
        "P{n:02d}{scan}.nii.gz",
        "site{scan}/{n:03d}.nii.gz",
        "{scan}/P{n:02d}_T1.nii.gz",
    ],
)
def test_both_answers_about_names_that_may_be_of_one_person_do_what_they_say(tmp_path: Path, names: str) -> None:
    scans = ("train", "test") if names.startswith("{scan}") else ("a", "b") if "{n:02d}{scan}" in names else (0, 1)
    files = [names.format(n=n, scan=scan) for n in TWELVE for scan in scans]
    (question,) = _read(tmp_path, *files).questions
    one, two = re.findall(r"'(\S*\(\?P<subject>\S*)' for", question.text)
    for pattern, subjects in ((one, 12), (two, 24)):
        inventory = _read(tmp_path, subject=pattern)
        assert (len(set(_subjects(inventory).values())), inventory.questions) == (subjects, ())


def test_many_numbers_behind_a_site_are_subjects(tmp_path: Path) -> None:
    inventory = _read(tmp_path, *(f"site{site}_{n:03d}.nii.gz" for n in TWELVE for site in (1, 2)))
    assert (len(set(_subjects(inventory).values())), inventory.questions) == (24, ())


@pytest.mark.parametrize(
    "names",
    [
        ("P{n:02d}_left_knee.nii.gz", "P{n:02d}_right_knee.nii.gz"),
        ("P{n:02d}/Visit 1/T1.nii.gz", "P{n:02d}/Visit 2/T1.nii.gz"),
        ("P{n:02d}/12.03.2019/T1.nii.gz", "P{n:02d}/12.03.2021/T1.nii.gz"),
        ("P{n:02d}/baseline/T1.nii.gz", "P{n:02d}/12months/T1.nii.gz"),
        ("DOE{n}_t1_20190312101010_3.nii.gz", "DOE{n}_t1_20200312101010_5.nii.gz"),
        ("patient{n:03d}/patient{n:03d}_frame01.nii.gz", "patient{n:03d}/patient{n:03d}_frame12.nii.gz"),
    ],
)
def test_two_visits_are_of_one_subject_and_one_kind(tmp_path: Path, names: tuple[str, str]) -> None:
    inventory = _read(tmp_path, *(name.format(n=n) for n in TWELVE for name in names))
    assert (len(inventory.cases), len(set(_subjects(inventory).values())), inventory.questions) == (24, 12, ())


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (("{n}/{n}_SA_ED.nii", "{n}/{n}_LA_ED.nii", "{n}/{n}_SA_ES.nii"), {"SA ED", "LA ED", "SA ES"}),
        (("{n}/{n}_10{n}_t2w.nii", "{n}/{n}_10{n}_hbv.nii"), {"t2w", "hbv"}),
        (("P{n}/T1_MPRAGE_201903121010{n}_3.nii", "P{n}/T2_TSE_201903121010{n}_4.nii"), {"T1 MPRAGE", "T2 TSE"}),
        (("Patient-{n}/{n}-T1.nii", "Patient-{n}/{n}-Flair.nii"), {"T1", "Flair"}),
        (("{n}/T1/T1.nii.gz", "{n}/T1/T1_brain.nii.gz"), {"T1", "T1 brain"}),
        (("p1sub{n}.nii", "mwp1sub{n}.nii", "wmsub{n}.nii"), {"p1", "mwp1", "wm"}),
        (("c1sub{n}.nii", "c2sub{n}.nii", "sub{n}.nii"), {"c1", "c2", "(no suffix)"}),
    ],
)
def test_kinds_are_found_from_all_words_that_subjects_share(
    tmp_path: Path, names: tuple[str, ...], kinds: set[str]
) -> None:
    inventory = _read(tmp_path, *(name.format(n=n) for n in range(10, 22) for name in names))
    assert {kind.kind for kind in inventory.image_kinds} == kinds
    assert len(set(_subjects(inventory).values())) == 12


def test_a_pattern_for_subjects_leaves_their_kinds_apart(tmp_path: Path) -> None:
    names = [f"site/P{n:02d}/{view}.nii" for n in TWELVE for view in ("axial", "sagittal")]
    inventory = _read(tmp_path, *names, subject="(?P<subject>P[0-9]+)/")
    assert {kind.kind: kind.scans for kind in inventory.image_kinds} == {"axial": 12, "sagittal": 12}


def test_a_contrast_within_the_name_does_not_make_two_subjects(tmp_path: Path) -> None:
    names = [f"imagesTr/topcow_{contrast}_{n:03d}_0000.nii.gz" for n in TWELVE for contrast in ("ct", "mr")]
    assert len(set(_subjects(_read(tmp_path, *names)).values())) == 12


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("CT/{n}/image.nii", "CT/{n}/Ground/liver_GT.nii"),
        ("brain/1BA{n}/ct.nii", "brain/1BA{n}/mask.nii"),
        ("training{n}/preprocessed/training{n}_01_flair_pp.nii", "training{n}/masks/training{n}_01_mask1.nii"),
        ("images/FLARE_{n}_0000.nii", "labels/FLARE_{n}.nii"),
        ("P{n}/T1.nii", "P{n}/LabelsForTesting.nii"),
        ("S{n}/mri/T1.mgz", "S{n}/mri/aparc+aseg.mgz"),
    ],
)
def test_label_maps_beside_the_images_are_found(tmp_path: Path, image: str, label: str) -> None:
    inventory = _read(tmp_path, *(name.format(n=n) for n in range(10, 22) for name in (image, label)), labels="in")
    pairs = {(image.format(n=n), label.format(n=n)) for n in range(10, 22)}
    root = tmp_path / "in"
    assert {(case.image, case.label) for case in inventory.cases} == {(root / one, root / two) for one, two in pairs}


def test_raw_volumes_of_freesurfer_are_no_label_maps(tmp_path: Path) -> None:
    names = ("T1.mgz", "aparc+aseg.mgz", "wm.mgz", "orig/001.mgz")
    inventory = _read(tmp_path, *(f"S{n}/mri/{name}" for n in TWELVE for name in names), labels="in")
    assert {case.label.name for case in inventory.cases if case.label} == {"aparc+aseg.mgz"}
    assert (len(inventory.cases), inventory.refused) == (12, ())


def test_freesurfers_longitudinal_stream_is_one_subject_and_each_visit_one_scan(tmp_path: Path) -> None:
    folders = ("A{n}_1", "A{n}_2", "A{n}", "A{n}_1.long.A{n}", "A{n}_2.long.A{n}")
    names = [f"{folder.format(n=n)}/mri/T1.mgz" for n in range(10, 22) for folder in folders]
    inventory = _read(tmp_path, *names, "fsaverage/mri/T1.mgz")
    assert (len(inventory.cases), len(set(_subjects(inventory).values())), inventory.questions) == (24, 12, ())
    assert not any("long" in case.case or case.subject == "fsaverage" for case in inventory.cases)


@pytest.mark.parametrize("folder", ["labelled", "labeled_data", "unlabelled"])
def test_a_folder_of_labelled_images_holds_images(tmp_path: Path, folder: str) -> None:
    assert len(_read(tmp_path, *(f"{folder}/P{n:02d}.nii" for n in TWELVE)).cases) == 12


def test_all_names_of_a_subject_are_kept_for_the_search_for_leaks(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("subject,age\nanna_0815,30\n0816,31\n")
    _touch(tmp_path, "images/anna_0815_T1.nii", "images/00816_T1.nii", "images/bert_T1.nii")
    settings: dict[str, Any] = {"participants": "table.csv", "same_subject": [["anna_0815", "bert"]]}
    inventory = discover(DataConfig(images="images", **settings), tmp_path)
    assert {"anna_0815", "0816", "bert"} <= set(inventory.names)
