"""The last check before publication: does any file name a real subject, scan or folder?

Identifiers reach a release in ways that nobody planned (an error text in the methods, a path in a setting), so every
text in it is searched for all of them. A finding says where and how long the name is, never the name: findings end in
logs.

The rule keeps chance out. A name counts as a whole word, also inside a longer cell, and without its file's
ending, `sub-` and leading zeros. Plain digits (`50772`) also turn up as sizes and counts: with four or five they
count only in text cells, category names and settings, unless they begin with 0 (`0012`); never as a number of a
table or of JSON. Years, and very short names (`A7`, `or`), count only as a whole cell. One character and three
digits name nobody: 101 is a site as well.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
ABSOLUTE = re.compile(
    r"file://|(?<![\w.:</~-])/(?:home|users|mnt|media|srv|root|tmp|var|opt|data|work|scratch|volumes|nfs|gpfs)/[\w.-]|\b[a-z]:\\\w"
)
YEAR = re.compile(r"(19|20)\d\d")
ENDING = re.compile(r"\.(nii|dcm|ima|mgz|mgh|mha|mhd|nrrd|img|hdr)(\.gz)?$")


def find_leaks(folder: Path, identifiers: Iterable[str]) -> list[str]:
    """Where a release holds an identifier (id, case or file name, path) or an absolute path; empty is good."""
    names = {part for identifier in identifiers for part in _spellings(identifier.strip().lower())}
    wanted = sorted(name for name in names if len(name) > (3 if name.isdigit() else 1))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [leak for path in files for leak in _search(path, path.relative_to(folder).as_posix(), wanted)]


def _spellings(identifier: str) -> set[str]:
    """A name, and what still identifies a subject in it: without a file's ending, `sub-` and leading zeros."""
    stem = ENDING.sub("", identifier)
    short = stem.removeprefix("sub-")
    bare = short.lstrip("0") if short.isdigit() else short
    return {identifier, *(part for part in (stem, short, bare) if _digits(part) > 1 and _is_telling(part))}


def _search(path: Path, name: str, identifiers: list[str]) -> Iterator[str]:
    lines, cells = _read(path, name)
    text, words = "\n".join([name, *lines]).lower(), {cell.lower() for cell in cells}
    inside = "\n".join(words)
    for identifier in identifiers:
        if identifier in words or _occurs(identifier, text if _is_rare(identifier) else inside):
            yield f"{name}: a real name or id of {len(identifier)} characters"
    if ABSOLUTE.search(text):
        yield f"{name}: an absolute path"


def _occurs(identifier: str, text: str) -> bool:
    return _is_telling(identifier) and identifier in text and _whole(identifier).search(text) is not None


def _is_telling(name: str) -> bool:
    """Whether it does not turn up inside a cell by chance."""
    return (len(name) > 3 and not YEAR.fullmatch(name)) or (len(name) == 3 and not name.isdigit() and _digits(name) > 1)


def _is_rare(name: str) -> bool:
    """Whether it does not turn up in any text by chance either."""
    return not name.isdigit() or len(name) > 5 or name.startswith("0")


def _digits(name: str) -> int:
    return sum(character.isdigit() for character in name)


def _whole(identifier: str) -> re.Pattern[str]:
    left, right = (r"(?<!\d[.,])", r"(?![.,]\d)") if identifier.isdigit() else ("(?<!#)", "")
    return re.compile(rf"(?<![^\W_]){left}{re.escape(identifier)}(?![^\W_]){right}")


def _read(path: Path, name: str) -> tuple[list[str], list[str]]:
    """Texts of a file, and those that hold no prose: cells, categories, settings.

    Chunks of arrays hold volumes and table again: not read.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if ".zarr/" in name and path.suffix != ".json":
        return [], []
    text = path.read_bytes().decode(errors="replace")
    if path.suffix == ".json":
        content = json.loads(text)
        return list(_strings(content)), list(_short_texts(content))
    if path.suffix in (".tsv", ".csv"):
        cells = [cell for cell in re.split(r"[\t\n]", text) if not _is_number(cell)]
        return cells, cells
    return [html.unescape(EMBEDDED.sub("", text))], []


def _read_parquet(path: Path) -> tuple[list[str], list[str]]:
    table = pq.read_table(path)
    values = [value for column in table.columns for value in column.to_pylist()]
    cells = [value for value in [*table.column_names, *values] if isinstance(value, str)]
    metadata = [part.decode(errors="replace") for pair in (table.schema.metadata or {}).items() for part in pair]
    return cells + metadata, cells


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _short_texts(content: Any) -> Iterator[str]:
    """What the manifest holds of a person's words, and category names, which a sidecar lists as `Levels` (BIDS)."""
    if isinstance(content, dict):
        yield from _strings([content.get(name) for name in ("title", "licence", "study")])
        columns = [column for column in content.values() if isinstance(column, dict)]
        yield from _strings([column.get("Levels") for column in columns])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
