"""Tables of subjects and scans: CSV or TSV, every cell a string until its column's kind is known.

A cell that does not fit the declared kind names its column and value, so that one typing error refuses one
case and never turns a whole column of ages into categories unseen.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from meddiff_core.contract import ConditionValue
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig
from meddiff_core.types import Refusal

MISSING = frozenset({"", "n/a", "na", "nan"})
"""Cells, in small letters, that say nothing."""
MOST_CATEGORIES = 20
ID_COLUMNS = ("subject", "image", "label", "participant_id")
TABLE_OF_CASES = frozenset(
    {"row", "case", "subject", "side", "image_sha256", "source", "voxels_sha256", "label_voxels_sha256"}
)
"""Columns that cases.parquet has of its own."""


def is_table(path: Path) -> bool:
    """Whether the name is that of a CSV or TSV file."""
    return path.suffix.lower() in (".csv", ".tsv")


def read_table(path: Path, key: str) -> pd.DataFrame:
    """A table with every cell a stripped string; `key` is the setting that names it, for errors."""
    if not path.is_file():
        raise ConfigurationError(f"{key}: must exist, {path} does not")
    try:
        table = pd.read_csv(
            path, sep=_separator(path), dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
        )
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise ConfigurationError(f"{key}: {path.name} must be a table in UTF-8: {error}") from error
    table = table.fillna("").rename(columns=str.strip)
    return pd.DataFrame({name: column.str.strip() for name, column in table.items()}, dtype=str)


def _separator(path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    return ";" if header.count(";") > header.count(",") else ","


def id_column(table: pd.DataFrame, key: str) -> str:
    """The column that holds subject ids: participant_id, or subject."""
    for name in ("participant_id", "subject"):
        if name in table.columns:
            return name
    raise ConfigurationError(f"{key}: must have a column participant_id or subject, has {', '.join(table.columns)}")


def covariate_kinds(config: DataConfig, table: pd.DataFrame) -> dict[str, str]:
    """Kind per covariate, as declared or, when nothing is declared, from the cells of each column.

    Raises:
        ConfigurationError: a declared column that the table lacks, or that is named like one of cases.parquet.
    """
    if config.covariates is None:
        return {name: kind for name in _value_columns(table) if (kind := _inferred(table[name])[0])}
    for name, kind in config.covariates.items():
        if name in TABLE_OF_CASES:
            raise ConfigurationError(
                f"data.covariates.{name}: must have another name, {name} is a column of cases.parquet"
            )
        if not kind.startswith("volume of ") and name not in table.columns:
            known = ", ".join(_value_columns(table)) or "none"
            raise ConfigurationError(f"data.covariates.{name}: must be a column of the table, which has {known}")
    return dict(config.covariates)


def ignored_columns(config: DataConfig, table: pd.DataFrame) -> list[Refusal]:
    """Columns that could not become conditions, when their kinds are inferred."""
    if config.covariates is not None:
        return []
    reasons = {name: _inferred(table[name]) for name in _value_columns(table)}
    return [Refusal(name, f"column is ignored: it {reason}") for name, (kind, reason) in reasons.items() if not kind]


def _value_columns(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if name not in ID_COLUMNS]


def _inferred(column: "pd.Series[str]") -> tuple[str | None, str]:
    """Kind of a column and, where there is none, why."""
    known = [cell for cell in column if not is_missing(cell)]
    other = [cell for cell in known if _number(cell) is None]
    if column.name in TABLE_OF_CASES:
        return None, "is named like a column of cases.parquet"
    if not known:
        return None, "is empty"
    if not other:
        return "continuous", ""
    if len(set(known)) <= MOST_CATEGORIES:
        return "categorical", ""
    return None, f"is not all numbers ({other[0]!r}) and has more than {MOST_CATEGORIES} values"


def is_missing(cell: str) -> bool:
    """Whether a cell says nothing."""
    return cell.lower() in MISSING


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def covariates_of(row: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, ConditionValue]:
    """Values of one row by the kinds of its columns, None where missing; measured volumes are left out.

    Raises:
        ValueError: a cell of a continuous column is no number.
    """
    columns = [name for name, kind in kinds.items() if not kind.startswith("volume of ")]
    return {name: _value(name, row.get(name, ""), kinds[name]) for name in columns}


def _value(name: str, cell: str, kind: str) -> ConditionValue:
    if is_missing(cell):
        return None
    if kind == "categorical":
        return cell
    if (number := _number(cell)) is None:
        raise ValueError(f"participants row: {name} must be a number, is {cell!r}")
    return number
