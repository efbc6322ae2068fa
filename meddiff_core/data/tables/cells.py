"""What one cell of a table says: nothing, a number, or a bound of one."""

import math
import re
from collections.abc import Iterable, Sequence

BLANK = frozenset({"", "n/a", "na", "nan", "null", "#n/a", "#null!", "#na", "<na>", "nil"})
MISSING = BLANK | frozenset(
    {"none", "missing", "unknown", "unk", "not known", "not available", "not applicable", "undefined", "?", ".", "-"}
)
"""Cells, in small letters, that say nothing. Those not in BLANK can mean something in some table, so they are noted."""
Words = Sequence[str | float]
"""Cells that mean `not known` besides MISSING: words, or numbers however they are written."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_BOUND = re.compile(r"([<>≤≥]=?\s*\d+(\.\d+)?)|(\d+(\.\d+)?\s*\+)", re.ASCII)


def known_cells(column: Iterable[str]) -> list[str]:
    """The cells that say something."""
    return [cell for cell in column if not is_missing(cell)]


def is_missing(cell: str, also: Words = ()) -> bool:
    """Whether a cell says nothing, by the words of the field or one of `also`."""
    return cell.lower() in MISSING or (bool(also) and any(_is_same(cell, word) for word in also))


def _is_same(cell: str, word: str | float) -> bool:
    number = number_of(str(word))
    return cell.lower() == str(word).lower() or (number is not None and number_of(cell) == number)


def number_of(cell: str) -> float | None:
    """The finite number that a cell holds, if it holds nothing else."""
    number = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    return number if math.isfinite(number) else None


def is_bound(cell: str) -> bool:
    """Whether only a bound of a number is known, as ages above 89 must be given: 90+, >89, <18."""
    return _BOUND.fullmatch(cell) is not None
