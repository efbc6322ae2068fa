"""What was understood is said before anything is made, and what is open stops the study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from meddiff_core.data.ingest import Inventory, listing_digest
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.stages.describe import MOST_NOTES, describe_inventory
from meddiff_core.stages.inventory import REFUSED, look_at_scans, read_inventory, take_inventory
from meddiff_core.stages.making import Resources
from meddiff_core.types import Message
from meddiff_core.workspace import Workspace

Made = Callable[..., Workspace]


def take(study: Workspace, said: list[str] | None = None) -> Inventory:
    """What a study's inventory holds after a look at its scans; what was said of it is added to `said`."""
    for event in take_inventory(study, Resources("cpu")):
        assert isinstance(event, Message)
        if said is not None:
            said.append(event.text)
    return read_inventory(study)


@pytest.fixture
def workspace(tmp_path: Path) -> Made:
    """(names of scans, **settings of the data) -> a study of them."""

    def make(*names: str, **data: object) -> Workspace:
        for name in names:
            path = tmp_path / "scans" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)), path)
        content = {"name": "heads", "data": {"images": "scans", **data}}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        return Workspace.open(tmp_path)

    return make


def test_what_was_found_is_kept_for_later_stages(workspace: Made) -> None:
    study = workspace("case_001.nii.gz", "case_002.nii.gz")
    taken = take(study)
    assert [case.subject for case in taken.cases] == ["case_001", "case_002"]
    assert taken == look_at_scans(study)


def test_the_digest_of_an_inventory_is_that_of_the_files(workspace: Made, finish: Callable[..., Any]) -> None:
    study = workspace("case_001.nii.gz", "case_002.nii.gz")
    made = finish(take_inventory(study, Resources("cpu")))
    assert made.digest == listing_digest(look_at_scans(study))
    more = workspace("case_003.nii.gz")
    assert made.digest != listing_digest(look_at_scans(more))


def test_each_line_names_what_was_understood(workspace: Made) -> None:
    lines = describe_inventory(look_at_scans(workspace("a_T1.nii.gz", "b_T1.nii.gz", "c_T1.nii.gz")))
    text = "\n".join(lines)
    assert [line.split("  ")[0] for line in lines] == [
        "layout", "scans", "subjects", "kinds", "label maps", "covariates",
    ]  # fmt: skip
    assert "3 of 3 subjects, 0 refused" in text
    assert "T1 (3)" in text


def test_an_open_question_stops_the_study_before_anything_is_kept(workspace: Made) -> None:
    study = workspace("a_T1.nii.gz", "a_FLAIR.nii.gz", "b_T1.nii.gz", "b_FLAIR.nii.gz")
    with pytest.raises(ConfigurationError, match=r"data\.kinds"):
        take(study)
    assert not (study.path("inventory")).exists()
    assert len(take(workspace(kinds=["T1"])).cases) == 2


def test_reasons_are_kept_also_where_all_scans_are_refused(workspace: Made) -> None:
    study = workspace("a_T1.nii.gz", "b_T1.nii.gz", labels="labels")
    (study.folder / "labels").mkdir()
    with pytest.raises(DataRefused, match=r"all 2 were refused"):
        take(study)
    assert list(pd.read_csv(study.folder / REFUSED)["reason"]) == ["has no label map"] * 2


def test_names_that_a_release_must_not_hold_are_names(workspace: Made) -> None:
    assert look_at_scans(workspace("case_001.nii.gz", "case_002.nii.gz")).names == ("case_001", "case_002")


def test_what_a_stage_says_and_raises_names_no_subject(workspace: Made) -> None:
    said: list[str] = []
    take(workspace("vombat_1_T1.nii.gz", "vombat_2_T1.nii.gz"), said)
    assert said
    with pytest.raises(ConfigurationError) as caught:
        take(workspace("vombat_1_FLAIR.nii.gz", same_subject=[["vombat_1", "vombat_3"]]))
    assert "data.same_subject" in str(caught.value)
    assert "vombat" not in str(caught.value) + str(said)


def test_a_person_sees_examples_and_what_is_open(workspace: Made) -> None:
    study = workspace("vombat_1_T1.nii.gz", "vombat_2_T1.nii.gz")
    assert "vombat_1" in "".join(describe_inventory(look_at_scans(study), examples=True))
    with pytest.raises(ConfigurationError, match="vombat_3"):
        look_at_scans(workspace(same_subject=[["vombat_1", "vombat_3"]]))


@pytest.mark.parametrize("column", ["seed", "image", "=cmd", "+1"])
def test_a_column_that_is_left_out_is_shown_with_the_reason(workspace: Made, column: str, tmp_path: Path) -> None:
    names = ("a_T1.nii.gz", "b_T1.nii.gz", "c_T1.nii.gz")
    rows = {"participant_id": list("abc"), "age": [40.5, 50.5, 60.5], column: [1.5, 2.5, 3.5]}
    pd.DataFrame(rows).to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    inventory = look_at_scans(workspace(*names, participants="people.tsv"))
    assert list(inventory.kinds) == ["age"]
    shown = describe_inventory(inventory, examples=True)
    assert any(f"{column}: column is ignored" in line for line in shown)
    assert not any(column in line for line in describe_inventory(inventory)), "names of columns are not logged"


def test_of_many_notes_the_first_are_shown_and_the_others_counted(workspace: Made, tmp_path: Path) -> None:
    names = [f"s{number:02d}_T1.nii.gz" for number in range(MOST_NOTES + 5)]
    (tmp_path / "people.tsv").write_text("participant_id\tage\n" + "".join(f"s{n:02d}\t{n}.5\n" for n in range(2)))
    inventory = look_at_scans(workspace(*names, participants="people.tsv"))
    shown = describe_inventory(inventory, examples=True)
    assert len(inventory.notes) > MOST_NOTES
    assert shown[-1].split() == ["and", str(len(inventory.notes) - MOST_NOTES), "more"]
