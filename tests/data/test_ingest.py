"""What becomes a case, of whom, with which label map and covariates."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddiff_core.data.ingest import discover, listing_digest, load_image, load_label
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.study import DataConfig

Made = Callable[..., Any]


def test_images_find_their_label_maps_subjects_and_covariates(cohort: Made, data: Made) -> None:
    inventory = discover(data(), cohort(3))
    assert [case.case for case in inventory.cases] == ["s00_T1", "s01_T1", "s02_T1"]
    assert [case.subject for case in inventory.cases] == ["s00", "s01", "s02"]
    assert inventory.cases[1].label is not None
    assert inventory.cases[1].label.name == "s01_T1_seg.nii.gz"
    assert inventory.cases[1].covariates == {"age": 31.0, "sex": "F"}
    assert inventory.kinds == {"age": "continuous", "sex": "categorical"}
    assert (inventory.refused, inventory.notes) == ((), ())


def test_the_longest_participant_that_a_name_begins_with_is_its_subject(tmp_path: Path, save: Made, head: Made) -> None:
    for name in ("IXI-1-a", "IXI-1-ab", "IXI-12_T1", "other_T1"):
        save(tmp_path / "images" / f"{name}.nii", head(len(name))[0])
    (tmp_path / "p.tsv").write_text("participant_id\tage\nIXI\t1\nIXI-1\t2\nIXI-1-a\t3\n")
    inventory = discover(DataConfig(images="images", participants="p.tsv"), tmp_path)
    subjects = {case.case: case.subject for case in inventory.cases}
    assert subjects == {"IXI-1-a": "IXI-1-a", "IXI-1-ab": "IXI-1", "IXI-12_T1": "IXI", "other_T1": "other"}


def test_a_row_without_scan_and_a_scan_without_row_are_noted(cohort: Made, data: Made) -> None:
    folder = cohort(2)
    (folder / "participants.tsv").write_text("participant_id\tage\ns00\t30\nghost\t50\n")
    inventory = discover(data(), folder)
    assert [note.case for note in inventory.notes] == ["ghost", "participants.tsv", "s01_T1"]
    assert inventory.notes[1].reason == "1 of 2 subjects have one of the 2 ids of the table"
    assert inventory.cases[1].covariates == {"age": None}


def test_the_longest_image_name_takes_a_label_map(tmp_path: Path, save: Made, head: Made) -> None:
    image, label = head(0)
    for name in ("a", "a_b"):
        save(tmp_path / "images" / f"{name}.nii", image)
    save(tmp_path / "labels" / "a_seg.nii", label)
    save(tmp_path / "labels" / "a_b_seg.nii", label)
    save(tmp_path / "labels" / "ab_seg.nii", label)
    inventory = discover(DataConfig(images="images", labels="labels"), tmp_path)
    assert [case.label.name for case in inventory.cases if case.label] == ["a_seg.nii", "a_b_seg.nii"]
    assert [(note.case, note.reason) for note in inventory.notes] == [("ab_seg.nii", "is a label map of no image")]


def test_a_label_map_is_that_of_all_kinds_of_its_subject_but_not_of_two_runs(
    tmp_path: Path, save: Made, head: Made
) -> None:
    image, label = head(0)
    for name in ("one_T1", "one_T2", "two_run-1_T1", "two_run-2_T1"):
        save(tmp_path / "images" / f"{name}.nii", image)
    for name in ("one_seg", "two_seg"):
        save(tmp_path / "labels" / f"{name}.nii", label)
    inventory = discover(DataConfig(images="images", labels="labels"), tmp_path)
    assert {case.case: case.label.name for case in inventory.cases if case.label} == {
        "one_T1": "one_seg.nii",
        "one_T2": "one_seg.nii",
    }
    assert {(refusal.case, refusal.reason) for refusal in inventory.refused} == {
        ("two_run-1_T1", "has no label map"),
        ("two_run-2_T1", "has no label map"),
    }


def test_an_image_with_two_label_maps_is_refused(cohort: Made, data: Made) -> None:
    folder = cohort(2)
    shutil.copy(folder / "labels" / "s00_T1_seg.nii.gz", folder / "labels" / "s00_T1_old.nii.gz")
    inventory = discover(data(), folder)
    assert [case.case for case in inventory.cases] == ["s01_T1"]
    assert "has 2 label maps: s00_T1_old.nii.gz, s00_T1_seg.nii.gz" in inventory.refused[0].reason


def test_label_maps_among_the_images_are_distinguished_by_a_glob(tmp_path: Path, save: Made, head: Made) -> None:
    image, label = head(0)
    save(tmp_path / "all" / "a_T1.nii", image)
    save(tmp_path / "all" / "a_T1_seg.nii", label)
    inventory = discover(DataConfig(images="all/*_T1.nii", labels="all"), tmp_path)
    assert [(case.case, case.label and case.label.name) for case in inventory.cases] == [("a_T1", "a_T1_seg.nii")]


def test_bids_gives_one_contrast_of_every_session(tmp_path: Path, save: Made, head: Made) -> None:
    for name in ("ses-1/anat/sub-01_ses-1_T1w", "ses-2/anat/sub-01_ses-2_T1w", "ses-2/anat/sub-01_ses-2_FLAIR"):
        save(tmp_path / "ds" / "sub-01" / f"{name}.nii.gz", head(0)[0])
    save(tmp_path / "ds" / "derivatives" / "x" / "sub-01" / "anat" / "sub-01_ses-1_dseg.nii.gz", head(0)[1])
    save(tmp_path / "ds" / "derivatives" / "x" / "sub-01" / "anat" / "sub-01_ses-2_dseg.nii.gz", head(0)[1])
    (tmp_path / "ds" / "dataset_description.json").write_text("{}")
    (tmp_path / "ds" / "participants.tsv").write_text("participant_id\tage\nsub-01\t44\n")
    inventory = discover(DataConfig(images="ds", labels="ds/derivatives/x", kinds=["T1w"]), tmp_path)
    assert [case.case for case in inventory.cases] == ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w"]
    assert {case.subject for case in inventory.cases} == {"sub-01"}
    assert {case.covariates["age"] for case in inventory.cases} == {44.0}
    assert [case.label.name for case in inventory.cases if case.label] == [
        "sub-01_ses-1_dseg.nii.gz",
        "sub-01_ses-2_dseg.nii.gz",
    ]
    assert [(note.case, note.reason) for note in inventory.notes] == [
        ("FLAIR", "left out: 1 scan of 1 subject of this kind; data.kinds chooses")
    ]


def test_a_table_gives_subjects_label_maps_and_covariates(tmp_path: Path, save: Made, head: Made) -> None:
    for subject in ("anna", "bert"):
        save(tmp_path / "in" / subject / "T1.nii.gz", head(0)[0])
        save(tmp_path / "in" / subject / "seg.nii.gz", head(0)[1])
    rows = [f"{name},{name}/T1.nii.gz,{name}/seg.nii.gz,{age}" for name, age in (("anna", 30), ("bert", 40))]
    (tmp_path / "in" / "scans.csv").write_text("\n".join(["subject,image,label,age", *rows]))
    inventory = discover(DataConfig(images="in/scans.csv"), tmp_path)
    assert [(case.case, case.subject, case.covariates) for case in inventory.cases] == [
        ("anna_T1", "anna", {"age": 30.0}),
        ("bert_T1", "bert", {"age": 40.0}),
    ]
    assert load_label(inventory.cases[0], load_image(inventory.cases[0])).max() == 2


def test_a_table_without_a_label_cell_refuses_that_row(tmp_path: Path, save: Made, head: Made) -> None:
    save(tmp_path / "a.nii", head(0)[0])
    (tmp_path / "scans.csv").write_text("subject,image,label\na,a.nii,\n")
    inventory = discover(DataConfig(images="scans.csv"), tmp_path)
    assert [(refusal.case, refusal.reason) for refusal in inventory.refused] == [("a.nii", "has no label map")]


def test_the_digest_of_a_listing_changes_with_a_file_and_with_nothing_else(cohort: Made, data: Made) -> None:
    folder = cohort(2)
    first = listing_digest(discover(data(), folder))
    assert listing_digest(discover(data(), folder)) == first
    path = folder / "images" / "s00_T1.nii.gz"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    assert listing_digest(discover(data(), folder)) != first


def test_side_files_and_hidden_files_are_no_scans(cohort: Made, data: Made) -> None:
    folder = cohort(1)
    for name in ("README", "LICENSE.txt", "a.json", "b.bval", "c.tsv", ".hidden.nii", "dataset_description.json"):
        (folder / "images" / name).write_text("text")
    (folder / "images" / ".cache").mkdir()
    shutil.copy(folder / "images" / "s00_T1.nii.gz", folder / "images" / ".cache" / "s09_T1.nii.gz")
    inventory = discover(data(), folder)
    assert len(inventory.cases) == 1
    assert inventory.refused == ()


@pytest.mark.parametrize("key", ["images", "labels", "participants"])
def test_a_path_that_does_not_exist_is_a_fault_of_the_study(cohort: Made, data: Made, key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"data\.{key}: must exist.* does not"):
        discover(data(**{key: "nowhere.tsv"}), cohort(1))


def test_a_glob_that_matches_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"no scans in .*looked for \.nii"):
        discover(DataConfig(images="*.nii"), tmp_path)


def test_images_are_turned_to_ras_with_their_place_kept(tmp_path: Path, save: Made, head: Made) -> None:
    affine = np.array([[0, 0, 1.5, -9], [-2.0, 0, 0, 7], [0, 3, 0, 4], [0, 0, 0, 1.0]])  # PSR
    array = head(3)[0]
    save(tmp_path / "i" / "a.nii", array, affine)
    volume = load_image(discover(DataConfig(images="i"), tmp_path).cases[0])
    assert volume.array.dtype == np.float32
    assert volume.spacing_mm == (1.5, 2.0, 3.0)
    np.testing.assert_array_equal(volume.array[2, -1 - 3, 5], array[3, 5, 2])
    np.testing.assert_allclose(volume.affine @ [2, array.shape[0] - 1 - 3, 5, 1], affine @ [3, 5, 2, 1])
