"""Text tables, read strictly: every line has as many fields as there are names, or the table is refused.

A lenient reader shifts `s01,32,5,F` under three names and lets a lone quote swallow the rows after it; both
then pass for data. Errors name the line and the column, never a cell: they end in logs. What is taken in
another way than it stands (encoding, an empty last column) is said in a note.
"""

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 64 * 2**20
MOST_FIELDS = 10_000_000
SAMPLE = 50
"""Lines from which the separator is detected."""
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
_SPREADSHEET_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_AS_UTF8 = "save it as CSV in UTF-8"
_NOT_WESTERN = re.compile(r"[^\x00-\x7f]{3}")
"""Three letters with accents in a row: no Western European word, but any Cyrillic or Greek one."""


@dataclass(frozen=True)
class Delimited:
    """A table as text."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Stripped cells, as many in each row as there are names."""
    separator: str
    notes: tuple[str, ...] = ()


def read_delimited(path: Path) -> Delimited:
    """A table separated by commas, semicolons or tabs.

    Raises:
        ValueError: it is none, or not even; the message goes on after the name of the file.
    """
    lines, separator, notes = _open(path)
    names, rows = _rows(lines, separator)
    names, rows, more = _without_unnamed_end(names, rows)
    _check_names(names)
    return Delimited(names, rows, separator, (*notes, *more))


def read_lists(path: Path) -> list[list[str]]:
    """The cells that are not empty of every line of a table without names, whose lines may be of any length.

    Raises:
        ValueError: it is no table, as above.
    """
    lines, separator, _ = _open(path)
    return [[cell for cell in cells if cell] for _, cells in _parse(lines, separator)]


def _open(path: Path) -> tuple[list[str], str, tuple[str, ...]]:
    """Lines, separator, and notes on how they were read."""
    text, notes = _decode(_read(path))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    separator = _separator(lines, is_tsv=path.suffix.lower() == ".tsv")
    if declared := _declared(lines[0]):
        separator, lines[0] = declared, ""
    return lines, separator, notes


def _read(path: Path) -> bytes:
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"must have at most {MOST_BYTES >> 20} MiB, has {size / 2**20:.0f}")
    raw = path.read_bytes()
    if path.suffix.lower() in SPREADSHEETS or raw.startswith(_SPREADSHEET_STARTS):
        raise ValueError(f"is a spreadsheet: {_AS_UTF8} and name that file")
    return raw


def _decode(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """Text, and a note where it is not in a Unicode encoding."""
    try:
        text = raw.decode("utf-16" if raw.startswith(_UTF16_MARKS) else "utf-8-sig")
        notes: tuple[str, ...] = ()
    except UnicodeDecodeError as error:
        text = _decode_western(raw, error)
        notes = (f"is not in UTF-8 and was read as Windows-1252; {_AS_UTF8} if its accented letters come out wrong",)
    if "\0" in text:
        raise ValueError(f"must be text, holds NUL bytes: {_AS_UTF8}")
    return text, notes


def _decode_western(raw: bytes, error: UnicodeDecodeError) -> str:
    try:
        text = raw.decode("cp1252")
    except UnicodeDecodeError:
        text = None
    if text is None or raw.startswith(_UTF16_MARKS) or _NOT_WESTERN.search(text):
        raise ValueError(f"must be a table in UTF-8, is in another encoding: {_AS_UTF8}") from error
    return text


def _declared(line: str) -> str | None:
    """The separator that a first line such as `sep=;` declares, as spreadsheets write it."""
    match = re.fullmatch(r'"?sep=([,;\t])"?', line.strip(" "), re.IGNORECASE)
    return match[1] if match else None


def _separator(lines: Sequence[str], is_tsv: bool) -> str:
    """The one that gives even rows; else the one that the name of the file promises, or that the header has most."""
    sample = [line for line in lines if line.strip()][:SAMPLE]
    header = sample[0] if sample else ""
    promised = is_tsv and "\t" in header

    def evidence(separator: str) -> tuple[bool, bool, int]:
        return _is_even(sample, separator), promised and separator == "\t", header.count(separator)

    return max(",;\t", key=evidence)


def _is_even(sample: Sequence[str], separator: str) -> bool:
    try:
        widths = {len(cells) for _, cells in _parse(sample, separator)}
    except ValueError:
        return False
    return len(widths) == 1 and widths != {1}


def _parse(lines: Sequence[str], separator: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and cells of each row that is not blank; a cell lies on one line."""
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = tuple(cell.strip() for cell in next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f'line {line}: quotes must enclose a whole cell, "" is a quote in it: {error}') from error
        if reader.line_num > line:
            raise ValueError(f"line {line}: a quote opens here and is not closed on this line; a cell must lie on one")
        if any(cells) or len(cells) > 1:
            yield line, cells


def _rows(lines: Sequence[str], separator: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    parsed = _parse(lines, separator)
    _, names = next(parsed, (0, ()))
    if not names:
        raise ValueError("must be a table with a line of names, is empty")
    rows: list[tuple[str, ...]] = []
    for line, cells in parsed:
        if len(cells) != len(names):
            raise ValueError(_uneven(line, len(names), len(cells), separator))
        if len(rows) * len(names) > MOST_FIELDS:
            raise ValueError(f"must have at most {MOST_FIELDS} fields, has more")
        rows.append(cells)
    return names, tuple(rows)


def _uneven(line: int, expected: int, got: int, separator: str) -> str:
    what = f"line {line}: must have {expected} {'field' if expected == 1 else 'fields'} as the line of names, has {got}"
    if separator == "," and got > expected:
        return f"{what}; a decimal comma must be in quotes, or the table separated by semicolons or tabs"
    return f"{what}; a separator inside a cell must be in quotes, an empty cell keeps its separator"


def _without_unnamed_end(
    names: tuple[str, ...], rows: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Without last columns that have neither a name nor a cell: separators that a program left at the line's end."""
    keep = len(names)
    while keep > 1 and not names[keep - 1] and not any(row[keep - 1] for row in rows):
        keep -= 1
    if keep == len(names):
        return names, rows, ()
    note = f"ends in {len(names) - keep} empty columns without a name, which are left out"
    return names[:keep], tuple(row[:keep] for row in rows), (note,)


def _check_names(names: Sequence[str]) -> None:
    if "" in names:
        raise ValueError(f"must name every column, column {names.index('') + 1} of {len(names)} has no name")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"must name each column differently, has {twice[0]!r} twice")
