"""Rejections are records: what is written comes back, and what leaves the study holds no figure."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meddiff_core.evidence.rejections import (
    IN_WORDS,
    REJECTIONS,
    Rejection,
    count_kinds,
    count_rejections,
    reject,
    rejections_of,
    stored,
)
from meddiff_core.parquet import write_parquet

FIGURE = st.none() | st.floats(allow_nan=False)
NAME = st.sampled_from([*IN_WORDS, "mean", "volume_mm3:left lung", "copy_score", "features"]) | st.text(min_size=1)
RECORD = st.builds(
    Rejection, measurement=NAME, side=st.sampled_from(["below", "above", "missing"]), value=FIGURE, bound=FIGURE
)
LOW = Rejection(measurement="mean", value=0.2, bound=0.3, side="below")
HIGH = Rejection(measurement="mean", value=0.9, bound=0.8, side="above")


def table_of(*cells: list[Rejection]) -> pd.DataFrame:
    return pd.DataFrame({"accepted": [not cell for cell in cells], REJECTIONS: [stored(cell) for cell in cells]})


@given(cells=st.lists(st.lists(RECORD, max_size=4), min_size=1, max_size=5))
def test_every_record_comes_back_from_a_table(tmp_path_factory: pytest.TempPathFactory, cells: list) -> None:
    path: Path = tmp_path_factory.mktemp("verdicts") / "verdicts.parquet"
    write_parquet(path, table_of(*cells))
    assert [rejections_of(cell) for cell in pd.read_parquet(path)[REJECTIONS]] == [tuple(cell) for cell in cells]


def test_a_table_that_was_read_may_be_rejected_from_and_written_again(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", table_of([], [LOW, HIGH], []))
    table = reject(pd.read_parquet(tmp_path / "a.parquet"), {2: HIGH})
    assert table["accepted"].tolist() == [True, False, False]
    write_parquet(tmp_path / "b.parquet", table)
    assert [rejections_of(cell) for cell in pd.read_parquet(tmp_path / "b.parquet")[REJECTIONS]] == [
        (), (LOW, HIGH), (HIGH,),
    ]  # fmt: skip


@given(record=RECORD, other=FIGURE)
def test_what_is_counted_does_not_depend_on_the_figures(record: Rejection, other: float | None) -> None:
    changed = record.model_copy(update={"value": other, "bound": other})
    (found,) = count_kinds([[record], [changed]])
    assert (found.kind, found.count, found.summary) == (record.kind, 2, changed.summary)


def test_the_text_names_the_value_the_side_and_the_bound() -> None:
    assert (LOW.text, LOW.summary) == ("mean 0.2 is below 0.3", "mean below the accepted range")
    assert Rejection(measurement="p50", side="missing").text == "p50 was not measured"
    assert Rejection(measurement="copy_score", value=0.1, bound=0.2, side="below").text == "copy score 0.1 is below 0.2"


def test_rejections_are_counted_by_kind_most_frequent_first() -> None:
    counts = count_rejections(table_of([LOW], [HIGH, LOW], []))
    assert [(one.kind, one.count) for one in counts] == [(LOW.kind, 2), (HIGH.kind, 1)]
    assert count_rejections(table_of([], [])) == ()
