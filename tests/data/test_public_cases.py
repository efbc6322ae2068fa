"""Small inputs that users reported to fail in tools like this one: each must be read for what it is.

The makers of the inputs are not part of the project: set MEDDIFF_TEST_CASES to their folder.
"""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.data.contract_inference import infer_contract
from meddiff_core.data.fingerprint import Fingerprint, take_fingerprint
from meddiff_core.data.grid import latent_strides
from meddiff_core.data.ingest import Inventory, discover, load_image, require_answers
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.study import DataConfig, Study
from meddiff_core.types import serial_map

Made = Callable[..., Any]


@pytest.fixture(scope="session")
def makers() -> Path:
    folder = Path(os.environ.get("MEDDIFF_TEST_CASES", Path(__file__).parents[3] / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"needs the makers of the cases: set MEDDIFF_TEST_CASES, {folder} does not exist")
    return folder


@pytest.fixture
def made(makers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """(name) -> the folder that its maker wrote."""

    def make(name: str) -> Path:
        script = makers / name / "make.py"
        monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, "common", raising=False)
        runpy.run_path(str(script), run_name="__main__")
        return tmp_path

    return make


def subjects(inventory: Inventory) -> int:
    return len({case.subject for case in inventory.cases})


def take(finish: Made, config: DataConfig, folder: Path) -> Fingerprint:
    return finish(take_fingerprint(discover(config, folder), config, serial_map))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "settings", "scans", "count"),
    [
        ("one_first_word", {"images": "images", "labels": "labels"}, 12, 12),
        ("nnunet_layout", {"images": "."}, 12, 12),
        ("nnunet_layout", {"images": "imagesTr", "labels": "labelsTr"}, 12, 12),
        ("folder_per_subject", {"images": "in"}, 200, 200),
        ("longitudinal_table", {"images": "scans.csv"}, 24, 12),
        ("series_in_two_folders", {"images": "in"}, 10, 10),
        ("dicom_copies", {"images": "in"}, 12, 12),
        ("no_preamble", {"images": "in"}, 12, 12),
        ("uid_per_slice", {"images": "in"}, 12, 12),
        ("part_phase", {"images": "bids"}, 12, 12),
        ("unit1_only", {"images": "bids"}, 12, 12),
        ("symlink_farm", {"images": "images", "follow_links": True}, 12, 12),
    ],
)
def test_scans_and_subjects_are_distinguished(
    made: Made, name: str, settings: dict[str, Any], scans: int, count: int
) -> None:
    inventory = discover(DataConfig(**settings), made(name))
    require_answers(inventory)
    assert (len(inventory.cases), subjects(inventory), inventory.refused) == (scans, count, ())
    if "label" in name or "labels" in settings or name == "nnunet_layout":
        assert all(case.label for case in inventory.cases)


@pytest.mark.parametrize("name", ["series_in_two_folders", "dicom_copies", "no_preamble", "uid_per_slice"])
def test_series_are_whole(made: Made, name: str) -> None:
    cases = discover(DataConfig(images="in"), made(name)).cases
    assert {len(case.slices) for case in cases} == {24}
    assert load_image(cases[0]).array.shape == (28, 32, 24)


def test_magnitude_is_used_and_phase_is_left_out(made: Made) -> None:
    inventory = discover(DataConfig(images="bids"), made("part_phase"))
    assert all("part-mag" in case.image.name for case in inventory.cases)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("one_t1w_rest_t2w", {"images": "bids"}, r"data\.kinds.*1 scan.*12 scans|data\.kinds.*12 scans.*1 scan"),
        ("missing_as_999", {"images": "images", "participants": "participants.tsv"}, r"data\.missing.*-999"),
    ],
)
def test_what_is_open_is_asked(made: Made, name: str, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        require_answers(discover(DataConfig(**settings), made(name)))


@pytest.mark.parametrize(
    ("folder", "said"), [("images", r"12 links lead out of the folder"), ("annex", r"12 files were not fetched")]
)
def test_links_are_named_for_what_they_are(made: Made, folder: str, said: str) -> None:
    with pytest.raises(DataRefused, match=said):
        discover(DataConfig(images=folder), made("symlink_farm"))


def test_a_decimal_comma_among_commas_is_refused(made: Made) -> None:
    config = DataConfig(images="images", participants="participants.csv")
    with pytest.raises(ConfigurationError, match=r"line 2 .*4 .*3|line 2.*3.*4"):
        discover(config, made("decimal_comma_csv"))


def test_pooled_ages_are_missing_and_the_rest_stay_numbers(made: Made) -> None:
    inventory = discover(DataConfig(images="images", participants="participants.tsv"), made("age_90_plus"))
    assert inventory.kinds["age"] == "continuous"
    assert sum(case.covariates["age"] is None for case in inventory.cases) == 2
    assert any("age" in note.case + note.reason for note in inventory.notes)


def test_codes_are_categories_and_keep_their_zeros(made: Made) -> None:
    inventory = discover(DataConfig(images="images", participants="participants.tsv"), made("sex_coded_1_2"))
    assert inventory.kinds == {"age": "continuous", "sex": "categorical", "site": "categorical"}
    assert {case.covariates["site"] for case in inventory.cases} == {"01", "02", "03"}


def test_a_stated_code_is_missing(made: Made) -> None:
    config = DataConfig(images="images", participants="participants.tsv", missing=[-999])
    inventory = discover(config, made("missing_as_999"))
    require_answers(inventory)
    assert [case.covariates["age"] for case in inventory.cases].count(None) == 1


def test_ids_match_up_to_prefix_and_zeros(made: Made) -> None:
    inventory = discover(DataConfig(images="bids"), made("ids_unlike_folders"))
    assert all(case.covariates["age"] is not None for case in inventory.cases)


def test_label_values_are_rounded_with_a_note(made: Made, finish: Made) -> None:
    found = take(finish, DataConfig(images="images", labels="labels"), made("label_slope"))
    assert (len(found.cases), found.refused) == (12, ())
    assert {note.case for note in found.notes if "round" in note.reason} == {"s01_T1", "s02_T1"}
    assert {value for case in found.cases for value in case.label_values} == {1, 2}


@pytest.mark.parametrize(("name", "modality"), [("mr_below_zero", "MR"), ("ct_clipped", "CT")])
def test_the_modality_is_found_from_all_voxels(made: Made, finish: Made, name: str, modality: str) -> None:
    config = DataConfig(images="images")
    found = take(finish, config, made(name))
    contract, _ = infer_contract(found, Study(name="heads", data=config), "cpu")
    assert (len(found.cases), contract.intensity.modality) == (12, modality)


def test_a_header_that_contradicts_itself_is_noted(made: Made, finish: Made) -> None:
    found = take(finish, DataConfig(images="images"), made("sform_against_qform"))
    noted = [note for note in found.notes if "qform" in note.reason]
    assert [note.case for note in noted] == ["s01_T1"]


def test_a_side_of_eight_voxels_can_be_planned(made: Made, finish: Made) -> None:
    study = Study.model_validate({"name": "heads", "data": {"images": "images"}, "plan": {"size": [8, 16, 16]}})
    contract, _ = infer_contract(take(finish, study.data, made("eight_voxel_side")), study, "cpu")
    assert contract.size == (8, 16, 16)
    assert latent_strides(contract.size, contract.spacing_mm, study)
