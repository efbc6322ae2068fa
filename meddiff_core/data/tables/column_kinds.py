"""Which kind of covariate a column holds, inferred from its cells.

Numbers may be quantities or codes: sex as 1 and 2 taken for a quantity is asked for as 1.361, and one `90+`
taken for a word turns every age into a category. Every choice that a person may want otherwise is a note.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from meddiff_core.contract import RELEASED_COLUMNS
from meddiff_core.data.tables.cells import is_bound, known_cells, number_of

MOST_CATEGORIES = 20
LONGEST_CATEGORY = 64
MOST_CODES = 5
"""Up to so many distinct whole numbers may be codes, such as 1 and 2 for sex."""
ROWS_PER_CODE = 3
ROWS_PER_LARGE_CODE = 10
"""Between 10 and 99 lie ages and scores: there each must be found in so many rows to be taken for a code."""
MOSTLY = 0.8
"""A column with more numbers than this share is one of numbers; what else it holds is an error or a bound."""
TABLE_OF_CASES = frozenset(
    {"row", "case", "subject", "side", "image_sha256", "source", "voxels_sha256", "label_voxels_sha256"}
)
"""Columns that cases.parquet has of its own."""
LONGEST_NAME = 100
FORMULA_SIGNS = frozenset("=+-@")
"""First characters that a spreadsheet takes for a formula's; a release's table has names as they are."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DATE = re.compile(
    r"(?:19|20)\d\d[-./]\d\d?[-./]\d\d?(?:[T ].*)?|\d\d?[-./]\d\d?[-./](?:\d\d){1,2}|"
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
)
_AGE = re.compile(r"(?<![a-z])age(?![a-z])(?!.*(group|class|band|categor))", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """Kind that a column's cells suggest, None to ignore it, and what a person should know of that."""

    kind: str | None
    note: str = ""


def infer_kind(column: "pd.Series[str]") -> Reading:
    """Kind of a column by its name and cells."""
    name, cells = str(column.name), known_cells(column)
    numbers = [cell for cell in cells if number_of(cell) is not None]
    rejected = [cell for cell in cells if number_of(cell) is None]
    if fault := fault_of_name(name):
        return Reading(None, f"is ignored: {fault}; another name in the table makes it a covariate")
    if not cells:
        return Reading(None, "is ignored: it is empty")
    if all(_DATE.fullmatch(cell) for cell in cells):
        return Reading(None, "is ignored: its cells are dates")
    if _are_codes(name, cells, numbers):
        return _codes(name, cells)
    bounds = [cell for cell in rejected if is_bound(cell)]
    if 2 * len(numbers) < len(cells):
        return _categories(cells, rejected)
    if not rejected:
        return Reading("continuous")
    if len(numbers) + len(bounds) > MOSTLY * len(cells):
        return Reading("continuous", f"has {describe_rejected(rejected)}")
    return Reading(
        None,
        f"is ignored: it has {len(numbers)} numbers beside {_shown(rejected)}; name in data.missing what means "
        f"`not known`, or its kind in data.covariates",
    )


def fault_of_name(name: str) -> str | None:
    """Why a column cannot be a covariate under its name, or None."""
    if name in TABLE_OF_CASES:
        return "it is named like a column of cases.parquet"
    if name in RELEASED_COLUMNS:
        return "it is named like a column that every release has of its own"
    if _CONTROL.search(name):
        return "its name has control characters"
    if name[:1] in FORMULA_SIGNS:
        return f"a spreadsheet takes a name that begins with {name[0]} for a formula"
    return f"its name has more than {LONGEST_NAME} characters" if len(name) > LONGEST_NAME else None


def _are_codes(name: str, cells: Sequence[str], numbers: Sequence[str]) -> bool:
    """Whether numbers name things: few whole values or two values, each in several rows, or leading zeros."""
    if 2 * len(numbers) < len(cells) or _AGE.search(name):
        return False
    whole = all(float(cell).is_integer() for cell in numbers)
    if whole and _are_padded(numbers):
        return True
    distinct = set(cells)
    large = any(10 <= abs(float(cell)) < 100 for cell in numbers)
    enough = (ROWS_PER_LARGE_CODE if large else ROWS_PER_CODE) * len(distinct)
    return len(cells) >= enough and (len(distinct) <= 2 or (whole and len(distinct) <= MOST_CODES))


def _are_padded(numbers: Sequence[str]) -> bool:
    """Whether all have one width, some by leading zeros: 01, 02, 10."""
    padded = any(cell.startswith("0") and len(cell) > 1 for cell in numbers)
    return padded and all(cell.isdigit() for cell in numbers) and len({len(cell) for cell in numbers}) == 1


def _codes(name: str, cells: Sequence[str]) -> Reading:
    if fault := fault_of_categories(cells, MOST_CATEGORIES):
        return Reading(None, f"is ignored: its numbers look like codes and it {fault}; data.covariates can name it")
    note = f"is taken as categorical: {len(set(cells))} values in {len(cells)} rows"
    return Reading("categorical", f"{note}; `{name}: continuous` in data.covariates takes them as quantities")


def _categories(cells: Sequence[str], rejected: Sequence[str]) -> Reading:
    if fault := fault_of_categories(cells, MOST_CATEGORIES):
        return Reading(None, f"is ignored: it is not all numbers ({_shorten(rejected[0])!r}) and {fault}")
    if (values := len(set(cells))) >= MOST_CODES and 2 * values > len(cells):
        text = f"is ignored: it has {values} values in {len(cells)} rows, which identify subjects rather than groups"
        return Reading(None, f"{text}; data.covariates can name it")
    return Reading("categorical")


def fault_of_categories(cells: Iterable[str], most: int) -> str | None:
    """Why the cells of a column cannot be categories: too many, too long, or no plain text."""
    distinct = set(cells)
    if len(distinct) > most:
        return f"has more than {most} values"
    if longest := max((len(cell) for cell in distinct if len(cell) > LONGEST_CATEGORY), default=0):
        return f"has a cell of {longest} characters, a category has at most {LONGEST_CATEGORY}"
    if any(map(_CONTROL.search, distinct)):
        return "has a cell with control characters"
    return None


def describe_rejected(cells: Sequence[str]) -> str:
    """How many cells of a column of numbers are none, with examples."""
    which = f"{len(cells)} {'cell that is no number' if len(cells) == 1 else 'cells that are no numbers'}"
    return f"{which}, taken as not known: {_shown(cells)}"


def _shown(cells: Iterable[str]) -> str:
    common = Counter(map(_shorten, cells)).most_common(4)
    return ", ".join([*(f"{cell!r} x {count}" for cell, count in common[:3]), *["..."][: len(common) > 3]])


def _shorten(cell: str) -> str:
    return cell if len(cell) <= 20 else f"{cell[:19]}…"
