"""Parts of a cohort and what lies outside training, as a reader of a release learns of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.contract import Contract
from meddiff_core.generation.cells import CellCount
from meddiff_core.release.internal import InternalContent, render_internal
from meddiff_core.release.open_release import open_release
from meddiff_core.release.participants_table import as_tsv, describe_columns
from meddiff_core.release.report import render_card, render_report
from meddiff_core.stages.release import _limit, _shortfall
from meddiff_core.study import Study

CELLS = (CellCount("sex F, age 60 to 90", 30, 27), CellCount("sex <M>", 1200, 1200, even=True))
GUESS = "1 of 3 volumes have a requested condition outside the range"


def extrapolated(content: Any) -> Any:
    return replace(content, table=content.table.assign(extrapolated=[False, True, False]))


def test_both_reports_show_wanted_beside_accepted(content: Any) -> None:
    internal = InternalContent(title="Heads", contract=content.contract, real=content.volumes)
    pairs: list[tuple[Any, Any]] = [(render_report, content), (render_internal, internal)]
    for render, plain in pairs:
        text = render(replace(plain, cells=CELLS))
        assert '<tr><td>sex F, age 60 to 90</td><td class="n">30</td><td class="n">27</td></tr>' in text
        assert "sex &lt;M&gt;<small>Sampled evenly" in text
        assert text.count("Sampled evenly") == 1
        assert "Requested parts" not in render(plain)


def test_report_and_card_say_how_many_volumes_lie_outside_training(content: Any) -> None:
    for render in (render_report, render_card):
        assert GUESS in render(extrapolated(content))
        assert "outside the range that the models" not in render(content)
        changed = replace(content, table=content.table.assign(extrapolated=False))
        assert "outside the range that the models" not in render(changed)


def test_a_release_marks_what_lies_outside_training(content: Any, build: Any, tmp_path: Path) -> None:
    release = open_release(build(extrapolated(content), tmp_path))
    assert [bool(release.covariates(row)["extrapolated"]) for row in range(3)] == [False, True, False]
    column = pd.read_csv(release.path / "participants.tsv", sep="\t", dtype=str)["extrapolated"]
    assert column.tolist() == ["false", "true", "false"]


def test_a_table_without_truths_is_written_as_it_was(content: Any) -> None:
    table = content.table
    assert as_tsv(table) == table.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def test_the_mark_is_explained(content: Any) -> None:
    contract: Contract = content.contract
    assert "outside the range" in describe_columns(["extrapolated"], contract)["extrapolated"]["Description"]


def test_a_shortfall_is_reported_by_cell() -> None:
    text = _shortfall(1230, 1227, 0, CELLS)
    assert text is not None
    assert text.endswith("The release holds 27 of 30 in “sex F, age 60 to 90”.")
    assert _shortfall(1200, 1200, 0, CELLS[1:]) is None


def test_a_shortfall_says_which_limit_was_met() -> None:
    study = Study.model_validate({"name": "heads", "data": {"images": "scans"}, "cohort": {"size": 10}})
    some = pd.DataFrame({"accepted": [True] * 9 + [False] * 3})
    text = _shortfall(10, 9, 0, [], _limit(study, some))
    assert text == "10 volumes were wanted; 9 had been accepted when all rounds of the search for copies were spent."
    spent = pd.DataFrame({"accepted": [True] * 9 + [False] * 21})
    assert _shortfall(10, 9, 0, [], _limit(study, spent)) == (
        "10 volumes were wanted; 9 had been accepted when the budget was spent."
    )
