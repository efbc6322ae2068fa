"""A first study loads, and what cannot become one is refused before anything is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.scaffold import ScaffoldOptions, scaffold_study
from meddiff_core.study import load_study


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans that serve as their own label maps."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("s01", "s02"):
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    path = tmp_path / "groups.yaml"
    path.write_text("left: [1, 2]\nright: [3]\n")
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "people.tsv"
    path.write_text("participant_id\tage\tsex\ns01\t30\tF\ns02\t40\tM\n")
    return path


def test_a_scaffolded_study_loads_with_what_was_given(tmp_path: Path, scans: Path, people: Path, groups: Path) -> None:
    study = load_study(
        scaffold_study(tmp_path / "My Study_2", scans, ScaffoldOptions(scans, people, groups, ["left"], 7, 2.5)).path
    )
    assert study.name == "my-study-2"
    assert (study.data.images, study.data.labels, study.data.participants) == (str(scans), str(scans), str(people))
    assert study.data.label_groups == {"left": [1, 2], "right": [3]}
    assert study.data.mask == "none"
    assert (study.cohort.size, study.plan.budget_minutes) == (7, 2.5)


def test_covariates_that_were_seen_and_volumes_that_were_asked_for_are_filled_in(
    tmp_path: Path, scans: Path, people: Path, groups: Path
) -> None:
    labels = shutil.copytree(scans, tmp_path / "labels")
    study = load_study(
        scaffold_study(tmp_path / "study", scans, ScaffoldOptions(labels, people, groups, ["right"])).path
    )
    kinds = {"age": "continuous", "sex": "categorical", "right_mm3": "volume of right"}
    assert study.data.covariates == kinds


def test_images_alone_are_enough(tmp_path: Path, scans: Path) -> None:
    study = load_study(scaffold_study(tmp_path / "study", scans).path)
    assert (study.data.labels, study.data.label_groups, study.data.mask) == (None, {}, "none")
    assert study.data.covariates == {}


def test_a_relative_path_is_found_from_anywhere(tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_study(scaffold_study(Path("study"), Path("scans")).path).data.images == str(scans)


def test_a_folder_whose_name_has_no_letter_still_gets_a_study(tmp_path: Path, scans: Path) -> None:
    assert load_study(scaffold_study(tmp_path / "数据", scans).path).name == "study"


def test_a_pattern_need_not_exist_as_a_file(tmp_path: Path, scans: Path) -> None:
    study = load_study(scaffold_study(tmp_path / "study", scans / "s0*.nii.gz").path)
    assert study.data.images.endswith("/s0*.nii.gz")


def test_an_existing_study_is_never_overwritten(tmp_path: Path, scans: Path) -> None:
    path = scaffold_study(tmp_path / "study", scans).path
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="study must be new"):
        scaffold_study(tmp_path / "study", scans, ScaffoldOptions(scans))
    assert path.read_bytes() == before


@pytest.mark.parametrize("option", ["images", "labels", "participants"])
def test_a_path_that_does_not_exist_is_refused_by_its_option(
    tmp_path: Path, scans: Path, people: Path, option: str
) -> None:
    given = {"images": scans, "labels": scans, "participants": people, option: tmp_path / "nowhere"}
    with pytest.raises(ConfigurationError, match=rf"--{option} must exist, .*nowhere does not"):
        scaffold_study(tmp_path / "study", given.pop("images"), ScaffoldOptions(**given))
    assert not (tmp_path / "study").exists()


def test_a_folder_without_scans_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataRefused, match="no scans"):
        scaffold_study(tmp_path / "study", tmp_path / "empty")
    assert not (tmp_path / "study").exists()


def test_groups_need_labels(tmp_path: Path, scans: Path, groups: Path) -> None:
    with pytest.raises(ConfigurationError, match="--groups needs --labels"):
        scaffold_study(tmp_path / "study", scans, ScaffoldOptions(groups=groups))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("left: [1", "--groups must be YAML"),
        ("- 1", r"data\.label_groups: must be a valid dictionary, is \[1\]"),
        ("left: [0]", r"data\.label_groups\.left\.0: must be greater than or equal to 1, is 0"),
        ("left: [1]\nright: [1]", r"data: label_groups must not share values, shared is \[1\]"),
    ],
)
def test_a_file_that_holds_no_groups_is_refused_in_one_line(
    tmp_path: Path, scans: Path, groups: Path, content: str, message: str
) -> None:
    groups.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        scaffold_study(tmp_path / "study", scans, ScaffoldOptions(scans, groups=groups))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_groups_must_be_a_file(tmp_path: Path, scans: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--groups must be a YAML file or a preset \(freesurfer\)"):
        scaffold_study(tmp_path / "study", scans, ScaffoldOptions(scans, groups=tmp_path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 0}, r"cohort\.size: must be greater than or equal to 1, is 0"),
        ({"budget_minutes": 0.0}, r"plan\.budget_minutes: must be greater than 0, is 0\.0"),
        ({"volumes": ["liver"]}, r"covariates\.liver_mm3 must be the volume of one of \['left', 'right'\]"),
    ],
)
def test_a_value_that_fits_no_study_is_refused_by_its_key(
    tmp_path: Path, scans: Path, groups: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        scaffold_study(tmp_path / "study", scans, ScaffoldOptions(scans, groups=groups, **given))
    assert not (tmp_path / "study").exists()


def test_a_mask_is_only_what_was_asked_for(tmp_path: Path, scans: Path) -> None:
    study = load_study(scaffold_study(tmp_path / "study", scans, ScaffoldOptions(scans, mask="label")).path)
    assert study.data.mask == "label"
    with pytest.raises(ConfigurationError, match=r"data\.mask: must be 'none', 'label' or 'brain'"):
        scaffold_study(tmp_path / "other", scans, ScaffoldOptions(scans, mask="skull"))


def test_covariates_are_not_written_down_while_something_is_open(tmp_path: Path, scans: Path, people: Path) -> None:
    shutil.copy(scans / "s01.nii.gz", scans / "s01_T2.nii.gz")
    new = scaffold_study(tmp_path / "study", scans, ScaffoldOptions(participants=people))
    assert [question.key for question in new.inventory.questions] == ["data.kinds"]
    assert load_study(new.path).data.covariates is None


def test_the_groups_of_freesurfer_have_a_name(tmp_path: Path) -> None:
    for name in ("T1", "aseg"):
        path = tmp_path / "subjects" / "bert" / "mri" / f"{name}.mgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.MGHImage(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
    new = scaffold_study(
        tmp_path / "study", tmp_path / "subjects", ScaffoldOptions(groups=Path("freesurfer"), volumes=["hippocampus"])
    )
    study = load_study(new.path)
    assert study.data.label_groups["hippocampus"] == [17, 53]
    assert study.data.covariates == {"hippocampus_mm3": "volume of hippocampus"}
    assert [case.label and case.label.name for case in new.inventory.cases] == ["aseg.mgz"]


def test_label_names_of_a_data_set_become_groups(tmp_path: Path) -> None:
    root = tmp_path / "Dataset004_Hippocampus"
    for name in ("imagesTr/h_1_0000", "labelsTr/h_1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), root / f"{name}.nii.gz")
    labels = {"background": 0, "Anterior part": 1, "Posterior part": 2, "ignore": 3}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": labels}))
    study = load_study(scaffold_study(tmp_path / "study", root).path)
    assert study.data.label_groups == {"anterior_part": [1], "posterior_part": [2]}
    assert study.data.labels == str(root / "labelsTr")
