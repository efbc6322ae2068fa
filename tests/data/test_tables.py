"""Kinds of covariates and their values."""

from pathlib import Path

import pandas as pd
import pytest

from meddiff_core.data.tables import covariate_kinds, covariates_of, ignored_columns, read_table
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
