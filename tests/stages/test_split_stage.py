"""Where a split comes from, and when none is written down."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from meddiff_core.artefacts import write_json
from meddiff_core.data.fingerprint import CaseFingerprint, Fingerprint
from meddiff_core.data.split.sides import read_split
from meddiff_core.errors import ConfigurationError
from meddiff_core.parquet import write_parquet
from meddiff_core.stages.making import Resources
from meddiff_core.stages.prepare import split_subjects
from meddiff_core.workspace import Workspace

Made = Callable[..., Workspace]
Split = Callable[[Workspace], Any]


def case(number: int) -> CaseFingerprint:
    return CaseFingerprint.model_construct(case=f"s{number:02d}_T1", subject=f"s{number:02d}", covariates={})


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """(count, **study settings) -> a study with so many subjects in its fingerprint."""

    def _workspace(count: int, **settings: Any) -> Workspace:
        content = {"name": "heads", "data": {"images": "scans"}} | settings
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        cases = tuple(map(case, range(count)))
        found = Fingerprint.model_construct(cases=cases, refused=(), notes=(), kinds={})
        monkeypatch.setattr("meddiff_core.stages.prepare._read_fingerprint", lambda _: found)
        monkeypatch.setattr("meddiff_core.stages.prepare._show_decisions", lambda *_: iter(()))
        return Workspace.open(tmp_path)

    return _workspace


@pytest.fixture
def split(finish: Callable[..., Any]) -> Split:
    """Puts the subjects of a study on sides; gives how many are on each."""
    return lambda workspace: finish(split_subjects(workspace, Resources("cpu")))


def test_a_split_is_written_down_and_grows(workspace: Made, split: Split) -> None:
    first = split(workspace(60))
    assert first.summary == {"train": 42, "validation": 9, "holdout": 9}
    sides = read_split(workspace(60).path("split")).sides
    assert split(workspace(60, seed=5, split={"train": 0.5})) == first
    assert split(workspace(80)).summary == {"train": 56, "validation": 12, "holdout": 12}
    assert sides.items() <= read_split(workspace(80).path("split")).sides.items()


def test_a_split_that_is_refused_is_not_written_down_so_that_other_shares_still_help(
    workspace: Made, split: Split
) -> None:
    with pytest.raises(ConfigurationError, match=r"what would do is `split\.train: 0\.6`"):
        split(workspace(30))
    assert not workspace(30).path("split").exists()
    assert split(workspace(30, split={"train": 0.6})).summary["holdout"] >= 8


def old_data_set(workspace: Workspace, inputs: dict[str, str]) -> None:
    sides = ["holdout"] * 20 + ["validation"] * 5 + ["train"] * 35
    table = pa.table({"subject": [f"s{n:02d}" for n in range(60)], "side": sides})
    write_parquet(workspace.folder / "cases.parquet", table)
    workspace.record("dataset", "digest", inputs, {})


def test_a_data_set_from_before_splits_were_written_down_keeps_everybody_where_they_are(
    workspace: Made, split: Split
) -> None:
    made = workspace(62)
    old_data_set(made, {"study.split": "digest"})
    split(made)
    sides = read_split(made.path("split")).sides
    assert [sides[f"s{n:02d}"] for n in (0, 19, 20, 59)] == ["holdout", "holdout", "validation", "train"]
    assert len(sides) == 62


def test_a_split_that_was_deleted_is_made_anew(workspace: Made, split: Split) -> None:
    made = workspace(60)
    old_data_set(made, {"split": "digest"})
    assert split(made).summary["holdout"] == 9


@pytest.mark.parametrize("form", ["lists", "table"])
def test_one_person_on_two_sides_stops_the_plan_with_both_names(workspace: Made, split: Split, form: str) -> None:
    made = workspace(60)
    split(made)
    sides = read_split(made.path("split")).sides
    names = sorted(next(name for name in sides if sides[name] == side) for side in ("train", "holdout"))
    (made.folder / "same.csv").write_text("subject,other\n" + ",".join(names) + "\n")
    same = [names] if form == "lists" else "same.csv"
    with pytest.raises(ConfigurationError, match=rf"{names[0]!r} .*{names[1]!r} .* are on two; delete split\.json"):
        split(workspace(60, data={"images": "scans", "same_subject": same}))


def test_a_split_is_json_that_a_person_can_read(workspace: Made, split: Split) -> None:
    made = workspace(60)
    split(made)
    write_json(made.folder / "again.json", read_split(made.path("split")))
    assert (made.folder / "again.json").read_text() == made.path("split").read_text()
    assert '"s00": "' in made.path("split").read_text()
