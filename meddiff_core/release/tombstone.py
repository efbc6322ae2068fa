"""Withdrawing a release: its data go, its manifest and the reason stay.

A name that simply vanishes makes a reader look for a copy, and may be given to something else. Where the tombstone
stands, `verify` and `open_release` say that the release was withdrawn, and its version is not used again.
"""

import html
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from meddiff_core.artefacts import write_text
from meddiff_core.errors import ConfigurationError
from meddiff_core.release.bounded import one_line, read_bounded
from meddiff_core.release.guard import count_names
from meddiff_core.release.manifest import (
    MANIFEST,
    MOST_TOMBSTONE,
    SIGNATURE,
    TOMBSTONE,
    is_withdrawn,
    read_any_manifest,
    read_manifest,
)
from meddiff_core.release.templating import markdown

TEXT = """# {title} {version} was withdrawn

{reason}

Its volumes, tables and reports were removed. `{manifest}` still says what they were, and what they were made from. Do
not use copies of it any more.
"""


LONGEST = 500
"""Characters of a reason."""
KEPT = (MANIFEST, SIGNATURE, TOMBSTONE)


def yank_release(folder: Path, reason: str, identifiers: Iterable[str] = ()) -> None:
    """Remove the data of a release and leave TOMBSTONE.md with the reason beside its manifest.

    A command that was killed half way leaves the tombstone. When it is repeated, the rest is removed and the first
    reason stays.

    Raises:
        ConfigurationError: no reason is given, or it is no line of text, or it names one of the `identifiers` of real
            scans.
        IntegrityError: the folder is no release, or was withdrawn before.
    """
    said = check_reason(reason, identifiers)
    manifest = read_any_manifest(folder)
    if not is_withdrawn(folder):
        title = markdown(one_line(manifest.title))
        text = TEXT.format(title=title, version=manifest.version, reason=markdown(said), manifest=MANIFEST)
        write_text(folder / TOMBSTONE, text)
    elif not _data(folder):
        read_manifest(folder)  # says that it was withdrawn
    remove_data(folder)


def read_reason(folder: Path) -> str:
    """Why a release was withdrawn: the paragraph below the title of its tombstone."""
    text = read_bounded(folder / TOMBSTONE, MOST_TOMBSTONE).decode("utf-8", "replace")
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    said = next((part for part in paragraphs if not part.startswith("#")), "")
    return one_line(html.unescape(said)) or f"its {TOMBSTONE} gives no reason"


def check_reason(reason: str, identifiers: Iterable[str]) -> str:
    """The reason as one line.

    Raises:
        ConfigurationError: it cannot stand where the release was.
    """
    said = " ".join(reason.split())
    if not said:
        raise ConfigurationError("reason must say why the release is withdrawn, is empty")
    if len(said) > LONGEST:
        raise ConfigurationError(f"reason must have at most {LONGEST} characters, has {len(said)}")
    if not said.isprintable():
        raise ConfigurationError(f"reason must be a line of printable text, is {one_line(said)}")
    if count_names(said, identifiers):
        raise ConfigurationError("reason must name no real subject, scan or folder: it stays where the release was")
    return said


def _data(folder: Path) -> list[Path]:
    """All but the manifest, what signs it, and the tombstone."""
    return sorted(path for path in folder.iterdir() if path.name not in KEPT)


def remove_data(folder: Path) -> None:
    """Remove all but the manifest, what signs it, and the tombstone."""
    for path in _data(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
