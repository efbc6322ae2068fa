"""Every file below a folder, once, and what becomes of links.

A link may lead to files that nobody meant to give away, or to nothing: neither is used unasked, and each says
what would help (`data.follow_links`, `datalad get`), for whole studies are folders of links.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meddiff_core.types import Refusal

LEADS_OUT = "is a link that leads out of the folder, which data.follow_links: true would allow"
NOT_FETCHED = (
    "stands for content that was not fetched (git-annex, DataLad, Git LFS): `datalad get` or `git lfs pull` does"
)
TO_NOTHING = "is a link to nothing"
TO_A_FOLDER = "is a link to a folder, which data.follow_links: true would follow"
NOT_UTF8 = "name must be UTF-8"
NO_IMAGE = "is no image that can be read"
POINTERS = (b"/annex/objects/", b"version https://git-lfs")
"""How files begin that stand for content elsewhere."""
POINTER_BYTES = 1024
MOST_NAMED = 20
"""Files without use that are named one by one; more are counted by the ending of their names."""

COUNTED = {
    LEADS_OUT: ("link leads out of the folder", "links lead out of the folder", "set data.follow_links: true"),
    TO_A_FOLDER: ("link leads to a folder", "links lead to folders", "set data.follow_links: true"),
    NOT_FETCHED: ("file was not fetched", "files were not fetched", "`datalad get` or `git lfs pull` does"),
    TO_NOTHING: ("link leads to nothing", "links lead to nothing", ""),
}
"""Each reason in the singular and the plural, and what helps."""


@dataclass(frozen=True)
class Walk:
    """What lies below a folder."""

    root: Path
    files: tuple[Path, ...] = ()
    """In order of their paths."""
    unread: tuple[Refusal, ...] = ()
    """Links and names that cannot be used."""


@dataclass
class _Rules:
    """What a walk may do, and the folders it has been to: links can lead in a circle."""

    home: Path
    follow_links: bool
    been: set[Path] = field(default_factory=set)


def walk(root: Path, without: Path | None = None, follow_links: bool = False) -> Walk:
    """Files below a folder, without hidden ones and what lies below `without`."""
    rules = _Rules(root.resolve(), follow_links)
    files: list[Path] = []
    unread: list[Refusal] = []
    for entry in _entries(root, without, rules):
        if isinstance(entry, tuple):
            unread.append(Refusal(relative(entry[0], root), entry[1]))
        else:
            files.append(entry)
    return Walk(root, tuple(sorted(files)), tuple(unread))


def below(found: Walk, root: Path) -> Walk:
    """What a walk found below one of its folders."""
    return Walk(root, tuple(path for path in found.files if path.is_relative_to(root)), found.unread)


def _entries(folder: Path, without: Path | None, rules: _Rules) -> Iterator[Path | tuple[Path, str]]:
    """Files that can be used, and those that cannot with the reason."""
    rules.been.add(folder.resolve())
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        path = folder / entry.name
        if reason := unusable(path, rules.home, rules.follow_links):
            yield path, reason
        elif not entry.is_dir():
            yield path
        elif entry.is_symlink() and not rules.follow_links:
            yield path, TO_A_FOLDER
        elif (real := path.resolve()) != without and real not in rules.been:
            yield from _entries(path, without, rules)


def unusable(path: Path, home: Path, follow_links: bool = False) -> str | None:
    """Why a file or folder cannot be used, or None."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return NOT_UTF8
    if not path.is_symlink():
        if path.is_file():
            return NOT_FETCHED if _is_pointer(path) else None
        return None if path.is_dir() else "is not a file"
    if not path.exists():
        return NOT_FETCHED if ".git/annex/" in os.readlink(path).replace("\\", "/") else TO_NOTHING
    if not follow_links and not path.is_dir() and not path.resolve().is_relative_to(home):
        return LEADS_OUT
    return None


def _is_pointer(path: Path) -> bool:
    """Whether a small file holds where its content would be."""
    try:
        return path.stat().st_size < POINTER_BYTES and path.read_bytes().startswith(POINTERS)
    except OSError:
        return False


def relative(path: Path, root: Path) -> str:
    """A path below `root` in printable form, for messages."""
    return path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()


def without_use(files: Sequence[Path], root: Path) -> list[Refusal]:
    """Files that are no images."""
    return [Refusal(relative(path, root), NO_IMAGE) for path in files]


def grouped(unread: Sequence[Refusal]) -> list[Refusal]:
    """Files that are no images, where they are many, as one line for each ending of their names."""
    foreign = [refusal for refusal in unread if refusal.reason == NO_IMAGE]
    if len(foreign) <= MOST_NAMED:
        return list(unread)
    endings = Counter(Path(refusal.case).suffix for refusal in foreign)
    lines = [
        Refusal(f"*{ending}", f"{counted(number, 'file')} {'is' if number == 1 else 'are'} no image that can be read")
        for ending, number in sorted(endings.items())
    ]
    return [refusal for refusal in unread if refusal.reason != NO_IMAGE] + lines


def counted(number: int, what: str, several: str | None = None) -> str:
    """A number and its noun: `1 file`, `2 files`."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def summarise(unread: Sequence[Refusal]) -> str:
    """What was found instead of scans, in a few words: counts by reason, with what helps."""
    endings = Counter("".join(Path(one.case).suffixes[-1:]) for one in unread if one.reason not in COUNTED)
    other = ("other file", "other files", ", ".join(ending for ending, _ in endings.most_common(3) if ending))
    reasons = Counter(COUNTED.get(refusal.reason, other) for refusal in unread)
    return "; ".join(
        counted(number, one, several) + (f" ({help_})" if help_ else "")
        for (one, several, help_), number in reasons.most_common()
    )
