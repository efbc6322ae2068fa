"""A filter keeps the rows that it says, knows what is unknown, and does nothing else."""

import time
from typing import Any

import pandas as pd
import pytest
import rule_engine  # noqa: F401 (its tables are built on import, which is nobody's time)

from meddiff_core.distribution.where import explain_names, filter_names, select_rows
from meddiff_core.errors import ConfigurationError

TABLE = pd.DataFrame(
    {
        "participant_id": list("abcdef"),
        "seed": [2**62 + 1, 2, 3, 4, 5, 6],
        "age": [61.23, None, 60, 0.1 + 0.2, 80, 45],
        "sex": ["F", None, "M", "M", "F", "F"],
        "größe": [1.0, 2, 3, 4, 5, 6],
        "a b": [1.0, 2, 3, 4, 5, 6],
        "a_b": [9.0, 2, 3, 4, 5, 6],
        "and": [1] * 6,
        "extrapolated": [True, False] * 3,
    }
)
HOSTILE = (
    "__import__('os').system('touch /tmp/x') == 0",
    "age.__class__ == 1",
    "$now > 1",
    "[x for x in [1, 2]] == age",
    "sex =~ '(F+)+$'",
    "9**9**9 > age",
    "age if age else true",
    "{1, 2} == age",
    "-" * 900 + "1 > 0",
    "(" * 290 + "age > 1",
    "age > 1; drop table participants",
    "age > 1 # and more",
    "d'2020-01-01' < age",
    "'\\x41' == sex",
    "age > 1" + "0" * 5000,
    "1e999999999 > age",
    "age > \x00",
    "age > 60 \u202e and true",
    "lambda: 1",
    "'unclosed",
    "1/0 > age",
    "1" * 19 + "/3 > 'x'",
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("age > 60 and sex == 'F'", [0, 4]),
        ("age == 61.23 or age == 0.30000000000000004", [0, 3]),
        ("sex in ['F', \"X\"] and not extrapolated", [5]),
        ("60 <= age", [0, 2, 4]),
        ("age * 2 - 20 == 100", [2]),
        ("-age < -60", [0, 4]),
        (f"seed == {2**62 + 1}", [0]),
        ("größe > 5", [5]),
        ("gro\u0308ße > 5", [5]),
        ("a_b > 5", [0, 5]),
        ("a_b_2 > 5 and and_2 == 1", [5]),
        ("(age > 60) == true", [0, 4]),
        ("not not not (age > 60)", [2, 3, 5]),
        ("true", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_filter_keeps_the_rows_that_it_says(text: str, rows: list[int]) -> None:
    assert select_rows(TABLE, text) == rows


@pytest.mark.parametrize("text", ["age > 60", "not (age > 60)", "age != 60", "age < 60 or age >= 60", "sex != 'F'"])
def test_a_row_of_which_it_is_not_known_is_not_kept(text: str) -> None:
    assert 1 not in select_rows(TABLE, text)


def test_what_is_missing_is_found_and_does_not_hide_what_is_known() -> None:
    assert select_rows(TABLE, "age == null") == [1]
    assert select_rows(TABLE, "sex != null") == [0, 2, 3, 4, 5]
    assert select_rows(TABLE, "age in [45, null]") == [1, 5]
    assert select_rows(TABLE, "age > 60 or größe == 2") == [0, 1, 4]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_a_line_and_costs_no_time(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigurationError) as caught:
        select_rows(TABLE, text)
    assert str(caught.value).startswith("--where: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agee > 60", "agee is none, perhaps age; they are participant_id, seed, age"),
        ("a b > 5", r"a_b_2 \(for 'a b'\), a_b, and_2 \(for 'and'\)"),
        ("age > '60'", "must compare like with like: age is a number, '60' is a word"),
        ("sex == 5", "sex is a word, 5 is a number"),
        ("age", "must be true or false of a volume, age is a number"),
        ("age = 60", "to compare is =="),
        ("20 < age < 30", "a range is `20 < age and age < 30`"),
        ("age > null", "null is only equal or unequal"),
        (
            "age > 200 and sex == 'F'",
            r"keeps none of 6 volumes.*age: 0\.3 to 80 \(1 missing\); sex: 'F' \(3\), 'M' \(2\)",
        ),
    ],
)
def test_an_error_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        select_rows(TABLE, text)


def test_every_column_has_a_name_of_its_own() -> None:
    columns = ["a b", "a-b", "a_b", "a_b_2", "1st", "", "in", "in_2", "mm³", "größe"]
    names = filter_names(columns)
    assert list(names.values()) == columns
    assert len(names) == len(columns)
    assert "1st" not in explain_names(columns).split(", ")


def test_a_table_without_values_has_no_such_volume() -> None:
    empty: Any = pd.DataFrame({"age": [None, None], "n": [1, 2]})
    with pytest.raises(ConfigurationError, match="age: nothing known"):
        select_rows(empty, "age == 'x'")
