"""Calling back a subject's data: what saw them, which releases descend from them, and what has to be made again.

A recall is written down before anything is made again, so that it cannot be lost with a retraining that is put off.
Where no list says whether an older data set held the subject, it is taken to have held it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meddiff_core.artefacts import STATE
from meddiff_core.data.dataset import remembered_subjects, sides_of_dataset
from meddiff_core.data.recalled import Recall, read_recalls, write_recall
from meddiff_core.data.split.sides import SIDES, Side, read_split
from meddiff_core.errors import MeddiffError
from meddiff_core.lineage.graph import DATASET, RELEASE, Key, Lineage, Node, lineage_of, sources_of
from meddiff_core.lineage.person import Person, find_person
from meddiff_core.lineage.seen import BEFORE, seen_by
from meddiff_core.release.tombstone import check_reason
from meddiff_core.stages.lock import locked
from meddiff_core.workspace import CHAIN, SPLIT_FILE, Workspace

REASON = "The data of a source subject were withdrawn."
LEFT = ("figures", "report.html", "mlruns", f"{STATE}/features", f"{STATE}/resume", "applications")
"""What may show or hold a subject beside the chain."""


@dataclass(frozen=True)
class Called:
    """What a recall found."""

    person: Person
    recall: Recall
    again: bool
    """Whether the subject was recalled before."""
    lineage: Lineage
    seen: Mapping[Key, str]
    """What its data are in, and how."""
    minutes: Mapping[str, float]
    """What is made anew without it, with the time that each took the last time; nothing where it was in nothing."""
    remaining: Mapping[Side, int]
    """Scans on each side without it."""
    left: tuple[str, ...]
    """Files and folders that may show it until they are deleted."""
    beside: tuple[str, ...]
    """Studies beside this one that have a subject of its name."""

    @property
    def releases(self) -> list[Node]:
        """Releases that descend from it."""
        return [self.lineage.nodes[key] for key in self.seen if key.kind == RELEASE]

    def surely(self, key: Key) -> bool:
        """Whether a list says that the subject was there; otherwise it may have been."""
        dataset = self.lineage.dataset_of(key)
        return dataset is None or self.recall.datasets.get(dataset, True)


def recall_subject(workspace: Workspace, named: str, reason: str = REASON, write: bool = True) -> Called:
    """Recall a subject of a study, given by its name or by one of its scans.

    Raises:
        ConfigurationError: nobody is called so; the reason names the subject or is no line of text; another process
            works on the study.
    """
    with locked(workspace.folder):
        person = find_person(workspace, named)
        said = check_reason(reason, (person.subject, *person.names))
        before = [known for known in workspace.recalls if known.subject == person.subject]
        lineage = lineage_of(workspace)
        held = {digest: known for digest in _datasets(lineage) if (known := _held(workspace, person, digest)) != "no"}
        recall = Recall(
            subject=person.subject,
            names=person.names,
            reason=said,
            datasets={digest: known == "yes" for digest, known in sorted(held.items())},
            voxels=person.voxels,
        )
        recall = write_recall(workspace.folder, recall) if write else recall
    return Called(
        person=person,
        recall=recall,
        again=bool(before),
        lineage=lineage,
        seen=_seen(lineage, person.side, recall, person.listed),
        minutes=_again(workspace) if person.listed else {},
        remaining=_remaining(workspace, person.subject),
        left=tuple(name for name in LEFT if (workspace.folder / name).exists()),
        beside=_beside(workspace.folder, person.subject),
    )


def with_recalls(workspace: Workspace, lineage: Lineage) -> Lineage:
    """A lineage in which whatever has a recalled subject is marked."""
    found = set[Key]()
    sides = read_split(workspace.path("split")).sides if workspace.path("split").exists() else {}
    for recall in read_recalls(workspace.folder):
        found |= _seen(lineage, sides.get(recall.subject), recall, False).keys()
    return lineage.marked(found)


def _seen(lineage: Lineage, side: Side | None, recall: Recall, listed: bool) -> Mapping[Key, str]:
    def held(key: Key) -> bool:
        return listed if key.kind in BEFORE else key.digest in recall.datasets

    return {} if side is None else seen_by(lineage, side, held)


def _datasets(lineage: Lineage) -> list[str]:
    return [key.digest for key in lineage.nodes if key.kind == DATASET]


def _held(workspace: Workspace, person: Person, digest: str) -> str:
    """yes, no, or unknown."""
    record = workspace.ledger.read(DATASET)
    current = record is not None and record.digest == digest
    subjects = sides_of_dataset(workspace.folder) if current else remembered_subjects(workspace.folder, digest)
    if subjects is None:
        return "no" if person.side is None else "unknown"
    return "yes" if person.subject in subjects else "no"


def _again(workspace: Workspace) -> dict[str, float]:
    records = workspace.records()
    return {
        name: float(records[name].summary.get("minutes", 0))
        for name in CHAIN
        if name in records and name != "inventory"
    }


def _remaining(workspace: Workspace, subject: str) -> dict[Side, int]:
    others = [source.side for source in sources_of(workspace.folder) if source.subject != subject]
    return {side: others.count(side) for side in SIDES}


def _beside(folder: Path, subject: str) -> tuple[str, ...]:
    """Other studies in the same folder whose split has a subject of that name."""
    paths = sorted(folder.parent.glob(f"*/{SPLIT_FILE}"))
    return tuple(path.parent.name for path in paths if path.parent != folder and subject in _names_in(path))


def _names_in(path: Path) -> Iterable[str]:
    try:
        return read_split(path).sides
    except (MeddiffError, OSError):  # what lies there is no study that could be named
        return ()
