"""Kinds of covariates and their values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from meddiff_core.data.tables.cells import is_missing
from meddiff_core.data.tables.covariates import (
    covariate_kinds,
    covariates_of,
    ignored_columns,
    read_table,
    table_questions,
)
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig

INFER = DataConfig(images="x")


def test_a_column_of_numbers_is_continuous_and_any_other_short_one_categorical() -> None:
    table = pd.DataFrame({"age": ["1.5", "n/a", "-2e1"], "sex": ["M", "F", ""]}, dtype=str)
    assert covariate_kinds(INFER, table) == {"age": "continuous", "sex": "categorical"}


def test_a_column_of_many_words_is_ignored_and_says_so() -> None:
    table = pd.DataFrame({"remark": [f"word {n}" for n in range(21)], "none": ["n/a"] * 21}, dtype=str)
    assert covariate_kinds(INFER, table) == {}
    assert [note.case for note in ignored_columns(INFER, table)] == ["remark", "none"]


def test_no_covariates_means_none() -> None:
    config = DataConfig(images="x", covariates={})
    assert covariate_kinds(config, pd.DataFrame({"age": ["1"]}, dtype=str)) == {}


def test_a_declared_column_that_is_not_there_is_named() -> None:
    config = DataConfig(images="x", covariates={"weight": "continuous"})
    with pytest.raises(ConfigurationError, match=r"covariates\.weight: must be a column of the table, which has age"):
        covariate_kinds(config, pd.DataFrame({"age": ["1"]}, dtype=str))


def test_a_name_that_cases_parquet_has_is_ignored_or_refused() -> None:
    table = pd.DataFrame({"side": ["left", "right"]}, dtype=str)
    assert covariate_kinds(INFER, table) == {}
    with pytest.raises(ConfigurationError, match="another name"):
        covariate_kinds(DataConfig(images="x", covariates={"side": "categorical"}), table)


@pytest.mark.parametrize("name", ["seed", "participant_id", "sampling_batch", "extrapolated", "a\tb", "a" * 101])
def test_a_name_that_no_release_can_hold_is_ignored_or_refused(name: str) -> None:
    """Before anything is trained, and with what to do."""
    table = pd.DataFrame({name: ["1", "2", "3"] * 20}, dtype=str)
    assert covariate_kinds(INFER, table) == {}
    if name != "participant_id":  # whose cells are ids, never covariates
        (note,) = ignored_columns(INFER, table)
        assert "another name in the table makes it a covariate" in note.reason
    with pytest.raises(ConfigurationError, match=r"must have another name, .*; rename it in the table"):
        covariate_kinds(DataConfig(images="x", covariates={name: "continuous"}), table)


@pytest.mark.parametrize("name", ["年齢", "a b", "image of the day", "labels", "Größe", "x", "c"])
def test_a_name_in_any_script_is_a_covariate(name: str) -> None:
    table = pd.DataFrame({name: ["1.5", "2.5", "3.5"] * 20}, dtype=str)
    assert covariate_kinds(INFER, table) == {name: "continuous"}


def test_missing_cells_are_none_and_a_word_in_a_number_is_named() -> None:
    kinds = {"age": "continuous", "sex": "categorical", "v": "volume of left"}
    assert covariates_of({"age": "NaN", "sex": "n/a"}, kinds) == {"age": None, "sex": None}
    assert covariates_of({"age": "41", "sex": "1"}, kinds) == {"age": 41.0, "sex": "1"}
    for cell in ("old", "inf", "38,5"):
        with pytest.raises(ValueError, match=f"age must be a number, is '{cell}'"):
            covariates_of({"age": cell}, kinds)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "subject,age\n s1 , 3\n"),
        ("a.csv", "\ufeffsubject;age\ns1;3\n"),
        ("a.tsv", "subject\tage\r\ns1\t3\r\n"),
    ],
)
def test_commas_semicolons_tabs_and_byte_order_marks_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_table(tmp_path / name, "data.participants").to_dict("records") == [{"subject": "s1", "age": "3"}]


def test_a_table_that_is_none_or_not_there_is_a_fault_of_the_study(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00subjec")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(ConfigurationError, match=r"data\.participants: "):
            read_table(tmp_path / name, "data.participants")


def _table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=str)


def _notes(table: pd.DataFrame, config: DataConfig = INFER) -> dict[str, str]:
    return {note.case: note.reason for note in ignored_columns(config, table)}


@pytest.mark.parametrize("word", ["n/a", "NA", "NaN", "NULL", "None", "missing", "Unknown", "?", ".", "-", "#N/A"])
def test_words_of_the_field_for_missing_are_no_category(word: str) -> None:
    table = _table(age=["30.5", word, "41"], sex=["M", word, "F"])
    assert covariate_kinds(INFER, table) == {"age": "continuous", "sex": "categorical"}
    assert covariates_of({"age": word, "sex": word}, covariate_kinds(INFER, table)) == {"age": None, "sex": None}


def test_a_word_that_could_be_a_category_is_counted_in_a_note() -> None:
    table = _table(drug=["None", "x", "None"], sex=["M", "n/a", "F"])
    assert _notes(table) == {"drug": "column has 2 cells 'None', taken as not known"}


def test_words_of_the_study_for_missing_are_met_in_any_case_and_numbers_in_any_writing() -> None:
    also = ["refused", -999, "-1"]
    assert all(is_missing(cell, also) for cell in ("Refused", "-999", "-999.0", "-1.00", "", "NA"))
    assert not any(is_missing(cell, also) for cell in ("999", "refuse", "-99", "M"))


@pytest.mark.parametrize("bound", ["90+", ">89", "> 89", ">=90", "≥90", "<18"])
def test_a_bound_is_not_known_and_leaves_ages_numbers(bound: str) -> None:
    table = _table(age=[*map(str, range(62, 76)), bound, bound])
    assert covariate_kinds(INFER, table) == {"age": "continuous"}
    assert f"2 cells that are no numbers, taken as not known: {bound!r} x 2" in _notes(table)["age"]
    assert covariates_of({"age": bound}, {"age": "continuous"}) == {"age": None}
    declared = DataConfig(images="x", covariates={"age": "continuous"})
    assert "2 cells" in _notes(table, declared)["age"]


def test_ages_never_become_categories_for_stray_words() -> None:
    few = _table(age=[*map(str, range(40, 55)), "old", "38,5"])
    assert covariate_kinds(INFER, few) == {"age": "continuous"}
    assert "'old' x 1" in _notes(few)["age"]
    assert covariates_of({"age": "old"}, {"age": "continuous"}, declared=False) == {"age": None}
    many = _table(age=[*map(str, range(40, 52)), *["n.b."] * 6])
    assert covariate_kinds(INFER, many) == {}
    assert "name in data.missing what means `not known`" in _notes(many)["age"]


@pytest.mark.parametrize(
    "cells",
    [
        ["1", "2"] * 8,
        ["1.0", "2.0"] * 8,
        ["01", "02", "03", "10"] * 2,
        [f"{n:02d}" for n in range(1, 13)],
        ["101", "102", "103"] * 5,
        ["1.5", "3"] * 6,
        ["0", "1", "2", "3+"] * 4,
    ],
)
def test_few_whole_values_and_leading_zeros_are_categories_as_written(cells: list[str]) -> None:
    table = _table(code=cells)
    assert covariate_kinds(INFER, table) == {"code": "categorical"}
    assert f"{len(set(cells))} values in {len(cells)} rows" in _notes(table)["code"]
    assert covariates_of({"code": cells[0]}, {"code": "categorical"}) == {"code": cells[0]}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("age", ["37", "38", "39", "40", "41"] * 40),
        ("scan_age", ["1", "2"] * 40),
        ("years", ["20", "21", "22", "23", "24"] * 3),
        ("children", ["0", "1", "2", "3"]),
        ("score", ["0", "0.5", "1", "2"] * 9),
        ("days", [*map(str, range(0, 40)), "007"]),
        ("volume", ["1e5", "2.5e4", ".5", "3."]),
    ],
)
def test_quantities_stay_numbers(name: str, cells: list[str]) -> None:
    assert covariate_kinds(INFER, _table(**{name: cells})) == {name: "continuous"}


def test_a_declared_kind_wins() -> None:
    table = _table(sex=["1", "2"] * 8, age=[str(n) for n in range(16)])
    config = DataConfig(images="x", covariates={"sex": "continuous", "age": "categorical"})
    assert covariate_kinds(config, table) == {"sex": "continuous", "age": "categorical"}
    assert _notes(table, config) == {}


@pytest.mark.parametrize("cell", ["x" * 65, "F\ns07\t37\tM", "F\x1f"])
def test_a_cell_that_cannot_be_a_category_is_none(cell: str) -> None:
    table = _table(sex=["M", "F", cell])
    assert covariate_kinds(INFER, table) == {}
    with pytest.raises(ConfigurationError, match=r"data\.covariates\.sex: must be a column of categories"):
        covariate_kinds(DataConfig(images="x", covariates={"sex": "categorical"}), table)


def test_categories_that_are_declared_are_bounded() -> None:
    table = _table(site=[f"site {n}" for n in range(101)])
    with pytest.raises(ConfigurationError, match="more than 100 values"):
        covariate_kinds(DataConfig(images="x", covariates={"site": "categorical"}), table)


@pytest.mark.parametrize(
    ("cells", "codes"),
    [
        ([*range(30, 45), -999], "-999 in 1 row,"),
        ([*range(30, 45), 999, 999], "999 in 2 rows,"),
        ([*range(30, 90), -9, -1], "-9 in 1 row, -1 in 1 row,"),
        ([*range(20, 81), 1234], "1234 in 1 row,"),
        ([*range(20, 81), 14610, 20454, 9131], "9131 in 1 row, 14610 in 1 row, 20454 in 1 row,"),
        ([*[1, 2] * 8, 9], "9 in 1 row,"),
        ([-2.1, -0.5, 0.3, 1.4, 2.2, -999], "-999 in 1 row,"),
    ],
)
def test_a_number_far_outside_all_others_is_asked_about(cells: list[float], codes: str) -> None:
    table = _table(x=[f"{cell:g}" for cell in cells])
    (question,) = table_questions(INFER, table)
    assert question.key == "data.missing"
    assert question.text.startswith(f"column x: {codes}")
    assert table_questions(DataConfig(images="x", missing=[]), table) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tail", ["income", "volumes", "days", "scores"])
def test_an_honest_long_tail_is_not_asked_about(tail: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    numbers = {
        "income": 30_000 * random.lognormal(0, 1, 60),
        "volumes": random.lognormal(0, 2, 60) * (random.random(60) < 0.6),
        "days": np.rint(random.exponential(300, 60)),
        "scores": random.standard_normal(60),
    }[tail]
    assert table_questions(INFER, _table(x=[f"{number:g}" for number in numbers])) == []


@pytest.mark.parametrize("cells", [range(60, 100), [*range(2015, 2020), 2024], [36.5, 36.7, 37, 41], [-1, 1] * 9])
def test_an_age_of_99_a_late_year_and_a_fever_are_not_asked_about(cells: list[float]) -> None:
    assert table_questions(INFER, _table(x=[f"{cell:g}" for cell in cells])) == []
