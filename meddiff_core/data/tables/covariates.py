"""Tables of subjects and scans: every cell a string until its column's kind is known.

A kind that a person declares is kept to: a cell that does not fit names its column and value and refuses one
case. A kind that is inferred from the cells leaves out a typing error, with a note. So neither turns a whole column
of ages into categories unseen.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from meddiff_core.contract import ConditionValue
from meddiff_core.data.tables.cells import BLANK, MISSING, is_bound, is_missing, known_cells, number_of
from meddiff_core.data.tables.column_kinds import (
    MOSTLY,
    describe_rejected,
    fault_of_categories,
    fault_of_name,
    infer_kind,
)
from meddiff_core.data.tables.delimited import SPREADSHEETS, read_delimited
from meddiff_core.data.tables.missing_codes import doubtful_numbers
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig
from meddiff_core.types import Note, Question

ID_COLUMNS = ("subject", "image", "label", "participant_id", "session_id")
SCAN_COLUMNS = frozenset({"image", "label"})
"""Of them, those that only a table of scans has."""
ID_NAMES = (
    "id", "participant", "participantid", "subject", "subjectid", "subid", "patient", "patientid", "eid", "imageid",
)  # fmt: skip
"""Columns of ids as other tables name them, in small letters alone."""
MOST_DECLARED_CATEGORIES = 100
MOST_SHOWN = 5
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_POINT_AND_COMMA = re.compile(r"[+-]?\d[\d.,]*([.]\d+,|,\d+[.])\d*", re.ASCII)
_NUMBER_LIKE = re.compile(r"[+-]?[\d.,]+", re.ASCII)
_PERHAPS_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


@dataclass(frozen=True)
class Table:
    """A table and what was taken in another way than it stands."""

    rows: pd.DataFrame
    notes: tuple[str, ...] = ()


def is_table(path: Path) -> bool:
    """Whether the name is that of a table: CSV, TSV, or a spreadsheet, which is refused when it is read."""
    return path.suffix.lower() in (".csv", ".tsv", *SPREADSHEETS)


def read_table(path: Path, key: str) -> pd.DataFrame:
    """The rows of `open_table`."""
    return open_table(path, key).rows


def open_table(path: Path, key: str) -> Table:
    """A table with every cell a stripped string; `key` is the setting that names it, for errors.

    Raises:
        ConfigurationError: it is none, is not even, or has numbers that can be read in two ways.
    """
    if not path.is_file():
        raise ConfigurationError(f"{key}: must exist, {path} does not")
    try:
        text = read_delimited(path)
        rows = pd.DataFrame(list(text.rows), columns=list(text.names), dtype=str)
        commas = [name for name in text.names if _has_decimal_commas(rows[name], text.separator)]
    except ValueError as error:
        raise ConfigurationError(f"{key}: {path.name} {error}") from error
    for name in commas:
        rows[name] = rows[name].str.replace(",", ".", regex=False)
    return Table(rows, (*text.notes, *(f"column {name}: decimal commas were read as points" for name in commas)))


def _has_decimal_commas(column: "pd.Series[str]", separator: str) -> bool:
    """Whether a column of numbers is written with decimal commas.

    Raises:
        ValueError: its numbers have both marks, or can be thousands as well as decimals.
    """
    if not any("," in cell for cell in column):
        return False
    cells = known_cells(column)
    like = [cell for cell in cells if _NUMBER_LIKE.fullmatch(cell)]
    commas = [cell for cell in like if _COMMA.fullmatch(cell)]
    both = [cell for cell in like if _POINT_AND_COMMA.fullmatch(cell)]
    lists = any(cell.count(",") > 1 and "." not in cell for cell in like)
    if not (commas or both) or lists or len(like) <= MOSTLY * len(cells):
        return False
    if both or any("." in cell for cell in like):
        raise ValueError(f"column {column.name}: must write its numbers in one way, has commas and points")
    if separator != ";" and all(_PERHAPS_THOUSANDS.fullmatch(cell) for cell in commas):
        raise ValueError(
            f"column {column.name}: a comma may stand for thousands or for decimals, write the numbers without it"
        )
    return True


def id_column(table: pd.DataFrame, key: str) -> str:
    """The column that holds subject ids: participant_id, or subject, or the only one that is named like them.

    Raises:
        ConfigurationError: there is none, or there are several.
    """
    for name in ("participant_id", "subject"):
        if name in table.columns:
            return name
    like = [str(name) for name in table.columns if re.sub(r"[^a-z]", "", str(name).casefold()) in ID_NAMES]
    if len(like) == 1:
        return like[0]
    names = ", ".join([*table.columns[:8], *(["..."] if len(table.columns) > 8 else [])])
    raise ConfigurationError(f"{key}: must have a column participant_id or subject, has {names}")


def covariate_kinds(config: DataConfig, table: pd.DataFrame) -> dict[str, str]:
    """Kind per covariate, as declared or, when nothing is declared, from the cells of each column.

    Raises:
        ConfigurationError: a declared column that the table lacks, that is named like one of cases.parquet, or
            whose cells cannot be categories.
    """
    if config.covariates is None:
        return {name: kind for name in _value_columns(table) if (kind := infer_kind(table[name]).kind)}
    for name, kind in config.covariates.items():
        _check_declared(name, kind, table)
    return dict(config.covariates)


def _check_declared(name: str, kind: str, table: pd.DataFrame) -> None:
    if fault := fault_of_name(name):
        raise ConfigurationError(f"data.covariates.{name}: must have another name, {fault}; rename it in the table")
    if kind.startswith("volume of "):
        return
    if name not in table.columns:
        known = ", ".join(_value_columns(table)) or "none"
        raise ConfigurationError(f"data.covariates.{name}: must be a column of the table, which has {known}")
    if kind == "categorical" and (fault := fault_of_categories(known_cells(table[name]), MOST_DECLARED_CATEGORIES)):
        raise ConfigurationError(f"data.covariates.{name}: must be a column of categories, it {fault}")


def ignored_columns(config: DataConfig, table: pd.DataFrame) -> list[Note]:
    """What of the table is not taken as it stands: columns, cells that are no numbers, numbers that are categories."""
    kinds = {name: infer_kind(table[name]) for name in _value_columns(table)} if config.covariates is None else {}
    notes = [Note(name, f"column {reading.note}") for name, reading in kinds.items() if reading.note]
    if not is_table(Path(config.images)) and config.covariates is None:
        lost = [str(name) for name in table.columns if name in SCAN_COLUMNS]
        notes += [
            Note(name, "column is ignored: one of this name would list scans; rename it to use it") for name in lost
        ]
    declared = [name for name, kind in (config.covariates or {}).items() if kind == "continuous"]
    for name in declared:
        if bounds := [cell for cell in known_cells(table[name]) if is_bound(cell)]:
            notes.append(Note(name, f"column has {describe_rejected(bounds)}"))
    used = [name for name, reading in kinds.items() if reading.kind] if config.covariates is None else declared
    words = {name: Counter(cell for cell in table[name] if cell.lower() in MISSING - BLANK) for name in used}
    notes += [Note(name, f"column has {_unknowns(counts)}") for name, counts in words.items() if counts]
    return notes


def _unknowns(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} cells {cell!r}" for cell, count in sorted(counts.items())) + ", taken as not known"


def table_questions(config: DataConfig, table: pd.DataFrame) -> list[Question]:
    """Numbers far outside all others of their column, until `data.missing` says what they are."""
    if config.missing is not None:
        return []
    kinds = covariate_kinds(config, table)
    questions = []
    for name in (name for name, kind in kinds.items() if not kind.startswith("volume of ")):
        numbers = [number for cell in known_cells(table[name]) if (number := number_of(cell)) is not None]
        doubtful = doubtful_numbers(numbers, measured=kinds[name] == "continuous")
        if doubtful:
            questions.append(_ask(name, doubtful, numbers))
    return questions


def _ask(name: str, doubtful: Mapping[float, int], numbers: Iterable[float]) -> Question:
    others = [number for number in numbers if number not in doubtful]
    rows = [f"{number:g} in {count} {'row' if count == 1 else 'rows'}" for number, count in doubtful.items()]
    shown = ", ".join([*rows[:MOST_SHOWN], *["..."][: len(rows) > MOST_SHOWN]])
    codes = ", ".join([*(f"{number:g}" for number in doubtful)][:MOST_SHOWN])
    return Question(
        "data.missing",
        f"column {name}: {shown}, where all others lie within {min(others):g} to {max(others):g}. Does it mean `not "
        f"known`? Then data.missing: [{codes}]. If not, data.missing: [] takes every number as it is.",
    )


def _value_columns(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if name not in ID_COLUMNS]


def covariates_of(row: Mapping[str, str], kinds: Mapping[str, str], declared: bool = True) -> dict[str, ConditionValue]:
    """Values of one row by the kinds of its columns, None where missing; measured volumes are left out.

    `declared`: whether a person named the kinds, not `covariate_kinds`.

    Raises:
        ValueError: a cell of a column that was declared continuous is neither a number nor a bound such as 90+.
    """
    columns = [name for name, kind in kinds.items() if not kind.startswith("volume of ")]
    return {name: _value(name, row.get(name, ""), kinds[name], declared) for name in columns}


def _value(name: str, cell: str, kind: str, declared: bool) -> ConditionValue:
    if is_missing(cell):
        return None
    if kind == "categorical":
        return cell
    number = number_of(cell)
    if number is None and declared and not is_bound(cell):
        raise ValueError(f"participants row: {name} must be a number, is {cell!r}")
    return number
