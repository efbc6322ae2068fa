"""Who is meant: a subject by its name in the study, by another name of the same person, or by one of its scans.

A name that is nearly right is never taken for it: the wrong patient would be left out, and the right one kept.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meddiff_core.data.dataset import sides_of_dataset
from meddiff_core.data.fingerprint import Fingerprint
from meddiff_core.data.identity.subjects import names_of_one_person
from meddiff_core.data.layouts.listing import plain
from meddiff_core.data.recalled import RECALLED
from meddiff_core.data.split.sides import Side, read_split
from meddiff_core.errors import ConfigurationError
from meddiff_core.lineage.graph import sources_of
from meddiff_core.stages.inventory import read_inventory
from meddiff_core.types import CaseRef
from meddiff_core.workspace import Workspace

MOST_NEAR = 3


@dataclass(frozen=True)
class Person:
    """A subject of a study."""

    subject: str
    """As the split has it."""
    side: Side | None
    """None of one whose scans were all refused, so that it never got a side."""
    listed: bool
    """Whether the last look at the scans found one of it."""
    scans: int
    """Of it in the current data set."""
    names: tuple[str, ...]
    """Of its scans and their files, and others that it has."""
    voxels: tuple[str, ...]
    """Digests of the voxels of its scans."""


def find_person(workspace: Workspace, named: str) -> Person:
    """The subject that a name, or a scan's file or name, is of.

    Raises:
        ConfigurationError: nobody is called so, or several are.
    """
    subjects, cases = _subjects(workspace), _cases(workspace)
    meant = _by_name(workspace, named, subjects) or _by_scan(named, cases, workspace.folder)
    if len(meant) != 1:
        raise ConfigurationError(_unknown(named, sorted(subjects)) if not meant else _several(named, meant))
    subject = meant[0]
    own = [case for case in cases if case.subject == subject]
    recalled = [name for recall in workspace.recalls if recall.subject == subject for name in recall.names]
    names = {name for case in own for name in (case.case, case.image.name)} | _aliases(workspace, subject)
    return Person(
        subject=subject,
        side=_sides(workspace).get(subject),
        listed=bool(own),
        scans=sum(source.subject == subject for source in sources_of(workspace.folder)),
        names=tuple(sorted({*names, *recalled} - {subject})),
        voxels=_voxels(workspace, subject),
    )


def _subjects(workspace: Workspace) -> set[str]:
    """Everybody who ever was in the study."""
    recalled = {recall.subject for recall in workspace.recalls}
    return recalled | {*_sides(workspace)} | {case.subject for case in _cases(workspace)}


def _sides(workspace: Workspace) -> dict[str, Side]:
    path = workspace.path("split")
    return dict(read_split(path).sides) if path.exists() else sides_of_dataset(workspace.folder)


def _cases(workspace: Workspace) -> Sequence[CaseRef]:
    return read_inventory(workspace).cases if workspace.path("inventory").exists() else ()


def _by_name(workspace: Workspace, named: str, subjects: set[str]) -> list[str]:
    spelled = {plain(subject): subject for subject in subjects}
    if plain(named) in spelled:
        return [spelled[plain(named)]]
    return sorted(_aliases(workspace, plain(named)) & subjects)[:1]


def _aliases(workspace: Workspace, name: str) -> set[str]:
    """Other names of the person, as `data.same_subject` says."""
    lists = names_of_one_person(workspace.study.data.same_subject, workspace.folder, {name})
    return {other for names in lists if name in names for other in names} - {name}


def _by_scan(named: str, cases: Sequence[CaseRef], folder: Path) -> list[str]:
    """By the path of a scan, or by its name where only one subject has such a scan."""
    path = Path(named).absolute()
    by_path = {case.subject for case in cases if path in {(folder / file) for file in (case.image, *case.slices)}}
    by_name = {case.subject for case in cases if named in (case.case, case.image.name)}
    return sorted(by_path or by_name)


def _voxels(workspace: Workspace, subject: str) -> tuple[str, ...]:
    path = workspace.path("fingerprint")
    if not path.exists():
        return ()
    cases = Fingerprint.model_validate_json(path.read_bytes()).cases
    return tuple(sorted(case.voxels_sha256 for case in cases if case.subject == subject))


def _unknown(named: str, known: Sequence[str]) -> str:
    inside = [name for name in known if plain(named).casefold() in name.casefold()]
    near = list(dict.fromkeys([*inside, *difflib.get_close_matches(named, known, n=MOST_NEAR)]))[:MOST_NEAR]
    advice = f"nearest: {', '.join(near)}" if near else f"the study has {len(known)} subjects, see split.json"
    return f"subject must be one of the study, or one of its scans, is {named!r}; {advice}; {RECALLED} is as it was"


def _several(named: str, meant: Sequence[str]) -> str:
    return f"scan must be of one subject, {named!r} is of {', '.join(meant)}; give its path, or the subject"
