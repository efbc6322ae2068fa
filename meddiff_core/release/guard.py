"""The last look before publication: does any file name a real subject, scan or folder?

Real names reach a release in ways nobody planned (an error text in the methods, a path in a setting), so
every text in it is searched for all of them. A finding says where and how long the name is, never the
name: findings end in logs.

The rule keeps chance out. A name counts as a whole word, in any text. Digits alone (`0012`, `100307`) also
turn up as sizes and counts, so they count only as text, not as a number of a table or of JSON; with fewer
than six digits, and any name with fewer than four characters, only as the whole cell of a table. One
character names nobody.
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


def find_leaks(folder: Path, secrets: Iterable[str]) -> list[str]:
    """Where a release holds one of `secrets` (ids, case and file names, paths) or an absolute path; empty is good."""
    names = {secret.strip().lower() for secret in secrets}
    wanted = sorted(name for name in names if len(name) > 1)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [leak for path in files for leak in _search(path, path.relative_to(folder).as_posix(), wanted)]


def _search(path: Path, name: str, secrets: list[str]) -> Iterator[str]:
    lines, cells = _read(path, name)
    text = "\n".join([name, *lines]).lower()
    words = set(cells)
    for secret in secrets:
        if secret in words or (not _is_common(secret) and secret in text and _whole(secret).search(text)):
            yield f"{name}: a real name or id of {len(secret)} characters"
    if ABSOLUTE.search(text):
        yield f"{name}: an absolute path"


def _is_common(secret: str) -> bool:
    """Whether it may turn up anywhere by chance."""
    return len(secret) < 4 or (secret.isdigit() and len(secret) < 6)


def _whole(secret: str) -> re.Pattern[str]:
    left, right = (r"(?<!\d[.,])", r"(?![.,]\d)") if secret.isdigit() else ("", "")
    return re.compile(rf"(?<![^\W_]){left}{re.escape(secret)}(?![^\W_]){right}")


def _read(path: Path, name: str) -> tuple[list[str], list[str]]:
    """Texts of a file, and the text cells of a table. Chunks of arrays hold volumes and table again: not read."""
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if ".zarr/" in name and path.suffix != ".json":
        return [], []
    text = path.read_bytes().decode(errors="replace")
    if path.suffix == ".json":
        return list(_strings(json.loads(text))), []
    if path.suffix in (".tsv", ".csv"):
        cells = [cell for cell in re.split(r"[\t\n]", text) if not _is_number(cell)]
        return cells, [cell.lower() for cell in cells]
    return [html.unescape(EMBEDDED.sub("", text))], []


def _read_parquet(path: Path) -> tuple[list[str], list[str]]:
    table = pq.read_table(path)
    values = [value for column in table.columns for value in column.to_pylist()]
    cells = [value for value in [*table.column_names, *values] if isinstance(value, str)]
    metadata = [part.decode(errors="replace") for pair in (table.schema.metadata or {}).items() for part in pair]
    return cells + metadata, [cell.lower() for cell in cells]


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


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
