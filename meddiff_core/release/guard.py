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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from meddiff_core.artefacts import files_below

EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
ABSOLUTE = re.compile(
    r"file://|(?<![\w.:</~-])/(?:home|users|mnt|media|srv|root|tmp|var|opt|data|work|scratch|volumes|nfs|gpfs)/[\w.-]|\b[a-z]:\\\w"
)
WORD = re.compile(r"[^\W_]+")
YEAR = re.compile(r"(19|20)\d\d")
ENDING = re.compile(r"\.(nii|dcm|ima|mgz|mgh|mha|mhd|nrrd|img|hdr)(\.gz)?$")


def find_leaks(folder: Path, identifiers: Iterable[str]) -> list[str]:
    """Where a release holds an identifier (id, case or file name, path) or an absolute path; empty is good."""
    names = {part for identifier in identifiers for part in _spellings(identifier.strip().lower())}
    wanted = _Names.of(name for name in names if len(name) > (3 if name.isdigit() else 1))
    return [leak for name in files_below(folder) for leak in _search(folder / name, name, wanted)]


def count_names(text: str, identifiers: Iterable[str]) -> int:
    """How many identifiers a sentence names."""
    names = {part for identifier in identifiers for part in _spellings(identifier.strip().lower())}
    return len(_Index.of(name for name in names if _is_telling(name)).found_in(text.lower()))


def _spellings(identifier: str) -> set[str]:
    """A name, and what still identifies a subject in it: without a file's ending, `sub-` and leading zeros."""
    stem = ENDING.sub("", identifier)
    short = stem.removeprefix("sub-")
    bare = short.lstrip("0") if short.isdigit() else short
    return {identifier, *(part for part in (stem, short, bare) if _digits(part) > 1 and _is_telling(part))}


@dataclass(frozen=True)
class _Index:
    """Names by the word in them that fewest of them share, so that a text is read once for all of them.

    A name is searched as whole words. So its words are words of the text, and only where that one word stands is
    the name itself compared.
    """

    by_word: Mapping[str, Sequence[tuple[str, int]]]
    """Names with a word, and how many characters stand before it."""
    wordless: Sequence[str]
    """Names without a letter or a digit."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "_Index":
        words = {name: list(WORD.finditer(name)) for name in sorted(names)}
        shared = Counter(word[0] for found in words.values() for word in found)
        by_word: dict[str, list[tuple[str, int]]] = {}
        for name, found in words.items():
            if found:
                rarest = min(found, key=lambda word: shared[word[0]])
                by_word.setdefault(rarest[0], []).append((name, rarest.start()))
        return cls(by_word, [name for name, found in words.items() if not found])

    def found_in(self, text: str) -> set[str]:
        """Those that stand in a text as whole words."""
        found = {name for name in self.wordless if name in text and _whole(name).search(text)}
        for word in WORD.finditer(text):
            for name, before in self.by_word.get(word[0], ()):
                start = word.start() - before
                if start >= 0 and text.startswith(name, start) and _whole(name).match(text, start):
                    found.add(name)
        return found


@dataclass(frozen=True)
class _Names:
    """Names by where they count."""

    all: frozenset[str]
    """As a whole cell."""
    anywhere: _Index
    """In any text."""
    in_cells: _Index
    """Inside a cell, a category name or a setting."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "_Names":
        wanted = frozenset(names)
        telling = [name for name in wanted if _is_telling(name)]
        rare = [name for name in telling if _is_rare(name)]
        return cls(wanted, _Index.of(rare), _Index.of(set(telling).difference(rare)))


def _search(path: Path, name: str, wanted: _Names) -> Iterator[str]:
    lines, cells = _read(path, name)
    text, words = "\n".join([name, *lines]).lower(), {cell.lower() for cell in cells}
    found = wanted.all & words | wanted.anywhere.found_in(text) | wanted.in_cells.found_in("\n".join(words))
    for identifier in sorted(found):
        yield f"{name}: a real name or id of {len(identifier)} characters"
    if ABSOLUTE.search(text):
        yield f"{name}: an absolute path"


def _is_telling(name: str) -> bool:
    """Whether it does not turn up inside a cell by chance."""
    return (len(name) > 3 and not YEAR.fullmatch(name)) or (len(name) == 3 and not name.isdigit() and _digits(name) > 1)


def _is_rare(name: str) -> bool:
    """Whether it does not turn up in any text by chance either."""
    return not name.isdigit() or len(name) > 5 or name.startswith("0")


def _digits(name: str) -> int:
    return sum(character.isdigit() for character in name)


@lru_cache
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
