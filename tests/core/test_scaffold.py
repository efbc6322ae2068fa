"""A first study loads, and what cannot become one is refused before anything is written."""

from pathlib import Path

import pytest

from meddiff_core.errors import ConfigurationError
from meddiff_core.scaffold import scaffold_study
from meddiff_core.study import load_study


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    path = tmp_path / "groups.yaml"
    path.write_text("left: [1, 2]\nright: [3]\n")
    return path


def test_a_scaffolded_study_loads_with_what_was_given(tmp_path: Path, scans: Path, groups: Path) -> None:
    table = tmp_path / "people.tsv"
    table.touch()
    study = load_study(scaffold_study(tmp_path / "My Study_2", scans, scans, table, groups))
    assert study.name == "my-study-2"
    assert (study.data.images, study.data.labels, study.data.participants) == (str(scans), str(scans), str(table))
    assert study.data.label_groups == {"left": [1, 2], "right": [3]}
    assert study.data.mask == "label"


def test_images_alone_are_enough(tmp_path: Path, scans: Path) -> None:
    study = load_study(scaffold_study(tmp_path / "study", scans, None, None, None))
    assert (study.data.labels, study.data.label_groups, study.data.mask) == (None, {}, "none")


def test_a_relative_path_is_found_from_anywhere(tmp_path: Path, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = load_study(scaffold_study(Path("study"), Path("scans"), None, None, None))
    assert study.data.images == str(scans)


def test_a_folder_whose_name_has_no_letter_still_gets_a_study(tmp_path: Path, scans: Path) -> None:
    assert load_study(scaffold_study(tmp_path / "数据", scans, None, None, None)).name == "study"


def test_a_pattern_need_not_exist_as_a_file(tmp_path: Path, scans: Path) -> None:
    study = load_study(scaffold_study(tmp_path / "study", scans / "*" / "t1.nii.gz", None, None, None))
    assert study.data.images.endswith("/*/t1.nii.gz")


def test_an_existing_study_is_never_overwritten(tmp_path: Path, scans: Path) -> None:
    path = scaffold_study(tmp_path / "study", scans, None, None, None)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="study must be new"):
        scaffold_study(tmp_path / "study", scans, scans, None, None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("option", ["images", "labels", "participants"])
def test_a_path_that_does_not_exist_is_refused_by_its_option(tmp_path: Path, scans: Path, option: str) -> None:
    given = {"images": scans, "labels": scans, "participants": scans, option: tmp_path / "nowhere"}
    with pytest.raises(ConfigurationError, match=rf"--{option} must exist, .*nowhere does not"):
        scaffold_study(tmp_path / "study", groups=None, **given)
    assert not (tmp_path / "study").exists()


def test_groups_need_labels(tmp_path: Path, scans: Path, groups: Path) -> None:
    with pytest.raises(ConfigurationError, match="--groups needs --labels"):
        scaffold_study(tmp_path / "study", scans, None, None, groups)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("left: [1", "--groups must be YAML"),
        ("- 1", r"--groups: label_groups: must be a valid dictionary, is \[1\]"),
        ("left: [0]", "--groups: label_groups.left.0: must be greater than or equal to 1, is 0"),
        ("left: [1]\nright: [1]", r"--groups: .*label_groups must not share values, shared is \[1\]"),
    ],
)
def test_a_file_that_holds_no_groups_is_refused_in_one_line(
    tmp_path: Path, scans: Path, groups: Path, content: str, message: str
) -> None:
    groups.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        scaffold_study(tmp_path / "study", scans, scans, None, groups)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_groups_must_be_a_file(tmp_path: Path, scans: Path) -> None:
    with pytest.raises(ConfigurationError, match="--groups must be a YAML file"):
        scaffold_study(tmp_path / "study", scans, scans, None, tmp_path)
