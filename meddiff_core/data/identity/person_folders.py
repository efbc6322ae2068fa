"""Whether the folders of a tree are persons: `P01/T1.nii.gz` is of P01, `train/P01.nii.gz` is not of `train`.

Folders are taken for persons where each holds the same few names, or names that begin with the folder's own.
What could be either a person or a site, a group or a part of a split becomes a question.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import mean

from meddiff_core.data.layouts.names import NameParts, is_name_of, split_names, tells_kind, tells_visit
from meddiff_core.data.layouts.walking import counted
from meddiff_core.types import Question

FEW_A_FOLDER = 4
"""So many scans of different names in a folder could be one person's."""


@dataclass(frozen=True)
class FolderReading:
    """What the folders say of scans."""

    persons: dict[str, NameParts]
    """What the name of the subject's folder says, by the name of the scan; empty where folders are no persons."""
    questions: tuple[Question, ...] = ()


def read_folders(parts: Mapping[str, NameParts]) -> FolderReading:
    """Whether folders are persons, from relative paths and the parts of their file names."""
    persons = _person_folders(list(parts))
    bases: defaultdict[str, set[str]] = defaultdict(set)
    for name, folder in persons.items():
        bases[folder].add(parts[name].subject)
    if len(bases) < 2:
        return FolderReading({})
    if all(_names(person, base) for person, own in bases.items() for base in own):
        return FolderReading(_in_parts(persons))
    if _hold_the_same_names(bases):
        return FolderReading(_in_parts(persons), tuple(_ask_which_level(persons)))
    if mean(map(len, bases.values())) <= FEW_A_FOLDER:
        return FolderReading({}, (_ask_folder_or_file(persons),))
    return FolderReading({})


def _person_folders(names: Sequence[str]) -> dict[str, str]:
    """The first folder on each path that differs between paths and is no session, date or contrast."""
    above = {name: PurePosixPath(name).parts[:-1] for name in names}
    shared = _shared_start(list(above.values()))
    own = {name: [part for part in folders[shared:] if not tells_kind(part) and not tells_visit(part)]
           for name, folders in above.items()}  # fmt: skip
    return {name: folders[0] for name, folders in own.items() if folders}


def _names(folder: str, base: str) -> bool:
    """Whether a file's name begins with its folder's, or holds it where that has a number."""
    return is_name_of(folder, base) or (folder in base and any(map(str.isdigit, folder)))


def _pattern(example: str, folder: str, further: int = 0, with_upper: bool = False) -> str:
    """The pattern of a folder on a path, or of one so many levels further down; its names may repeat in the upper."""
    level = PurePosixPath(example).parts.index(folder) + further
    if with_upper:
        return f"'^{'[^/]+/' * (level - 1)}(?P<subject>[^/]+/[^/]+)/'"
    return f"'^{'[^/]+/' * level}(?P<subject>[^/]+)/'"


def _in_parts(persons: Mapping[str, str]) -> dict[str, NameParts]:
    """`P01_ses-1` and `P01_ses-2` are one person's folders."""
    folders = sorted(set(persons.values()))
    parts = dict(zip(folders, split_names(folders), strict=True))
    return {name: parts[folder] if parts[folder].subject else NameParts(folder, "") for name, folder in persons.items()}


def _shared_start(paths: Sequence[tuple[str, ...]]) -> int:
    """Folders that all paths begin with."""
    columns = list(zip(*paths, strict=False))
    return next((place for place, parts in enumerate(columns) if len(set(parts)) > 1), len(columns))


def _hold_the_same_names(bases: Mapping[str, set[str]]) -> bool:
    """Whether each folder holds one name, or many folders the same few, or names without a number in them."""
    if all(len(own) == 1 for own in bases.values()):
        return True
    folders_with = Counter(base for own in bases.values() for base in own)
    repeated = [base for base, count in folders_with.items() if count > 1]
    unnumbered = not any(re.search(r"\d", base) for base in folders_with)
    return 2 * len(repeated) >= len(folders_with) and (unnumbered or len(folders_with) < len(bases))


def _ask_which_level(persons: Mapping[str, str]) -> list[Question]:
    """A question where a folder holds several others that are no sessions: it may be a site, and they the persons."""
    below: defaultdict[str, set[str]] = defaultdict(set)
    for name, folder in persons.items():
        parts = PurePosixPath(name).parts[:-1]
        inner = [part for part in parts[parts.index(folder) + 1 :] if not tells_kind(part) and not tells_visit(part)]
        below[folder].update(inner[:1])
    folder, children = max(below.items(), key=lambda item: len(item[1]))
    if len(children) < 2:
        return []
    counted_anew = max(Counter(child for own in below.values() for child in own).values()) > 1
    example = next(name for name, own in persons.items() if own == folder)
    return [
        Question(
            "data.subject",
            f"subjects may be the upper folders or those in them: {folder!r} holds {counted(len(children), 'folder')}, "
            f"such as {_some(children)}, and a scan is {example}. Give the pattern of the folder that is a person: "
            f"{_pattern(example, folder)} for the upper ones, "
            f"{_pattern(example, folder, 1, counted_anew)} for those in them",
        )
    ]


def _ask_folder_or_file(persons: Mapping[str, str]) -> Question:
    example, folder = min(persons.items())
    folders = counted(len(set(persons.values())), "folder")
    return Question(
        "data.subject",
        f"{counted(len(persons), 'scan')} lie in {folders} under names that differ, such as {_some(persons)}. Give the "
        f"pattern of a subject: {_pattern(example, folder)} where a folder is a person, "
        "'(?P<subject>[^/.]+)[^/]*$' where a file is",
    )


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])
