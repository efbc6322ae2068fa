"""What was made from what, as the records of a study and the manifests of its releases say it.

An artefact that was made anew has no record any more, but the releases made from the old one name its digest: with
both, whatever left the study leads back to its sources, with no server at all.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import TABLE
from meddiff_core.data.split.sides import SIDES, Side
from meddiff_core.errors import IntegrityError
from meddiff_core.release.manifest import Manifest, digest_manifest, is_withdrawn, read_any_manifest
from meddiff_core.release.tombstone import read_reason
from meddiff_core.workspace import CHAIN, Workspace

SCANS, SCAN, DATASET, RELEASE = "scans", "scan", "dataset", "release"
LEDGER = "release"
"""The chain's last artefact is shown as the release that it made."""


class Key(NamedTuple):
    """What a node is called: `denoiser`, and the digest of what was made."""

    kind: str
    digest: str


@dataclass(frozen=True)
class Node:
    """One artefact, release or the scans, and what it was made from."""

    key: Key
    status: str
    """done, stale or missing as `meddiff status` says; replaced by a newer one; released, withdrawn."""
    place: str = ""
    """Relative to the study."""
    parents: tuple[Key, ...] = ()
    note: str = ""
    """Figures, or the reason why it was withdrawn."""
    recalled: bool = False
    """Whether a subject of it was recalled."""


class Lineage:
    """All nodes of one study, or of a release that lies elsewhere."""

    def __init__(self, nodes: Iterable[Node], folder: Path | None = None) -> None:
        self.nodes = {node.key: node for node in nodes}
        self.folder = folder

    def parents(self, key: Key) -> list[Key]:
        """What it was made from."""
        node = self.nodes.get(key)
        return [] if node is None else [parent for parent in node.parents if parent in self.nodes]

    def children(self, key: Key) -> list[Key]:
        """What was made from it, in the order of the chain."""
        return [other.key for other in self.nodes.values() if key in other.parents]

    def above(self, key: Key) -> list[Key]:
        """Everything that it was made from, the nearest first, each once."""
        return _reached(key, self.parents)

    def below(self, key: Key) -> list[Key]:
        """Everything that was made from it."""
        return _reached(key, self.children)

    def dataset_of(self, key: Key) -> str | None:
        """Digest of the data set that it was made from; None of what stands before one."""
        found = [one.digest for one in [key, *self.above(key)] if one.kind == DATASET]
        return found[0] if found else None

    def marked(self, keys: Iterable[Key]) -> "Lineage":
        """The same, with some nodes marked as recalled."""
        recalled = set(keys)
        nodes = [replace(node, recalled=node.key in recalled) for node in self.nodes.values()]
        return Lineage(nodes, self.folder)


def _reached(key: Key, step: Callable[[Key], list[Key]]) -> list[Key]:
    found, waiting = dict[Key, None](), list(step(key))
    while waiting:
        following = waiting.pop(0)
        if following not in found:
            found[following] = None
            waiting += step(following)
    return list(found)


def lineage_of(workspace: Workspace) -> Lineage:
    """Of a study: its records, and its releases with what is known of the artefacts behind them."""
    states = {state.name: state for state in workspace.states()}
    nodes: dict[Key, Node] = {}
    if (scans := _scans(workspace.folder)) is not None:
        nodes[scans.key] = scans
    for name, record in workspace.records().items():
        if name == LEDGER:
            continue
        parents = [Key(parent, record.inputs[parent]) for parent in CHAIN[name].parents if parent in record.inputs]
        if scans is not None and name == DATASET:
            parents.append(scans.key)
        minutes = record.summary.get("minutes")
        note = f"{minutes:g} minutes" if isinstance(minutes, int | float) else ""
        key = Key(name, record.digest)
        nodes[key] = Node(key, states[name].condition, CHAIN[name].path, tuple(parents), note)
    for release in releases_in(workspace.path("release")):
        _add_release(nodes, release, f"{CHAIN[LEDGER].path}/{release.name}")
    if (last := workspace.ledger.read(LEDGER)) is not None:
        behind = tuple(Key(name, last.inputs[name]) for name in CHAIN[LEDGER].parents if name in last.inputs)
        gone = Node(Key(RELEASE, last.digest), "missing", f"{CHAIN[LEDGER].path}/{last.summary['folder']}", behind)
        nodes[gone.key] = nodes.pop(gone.key, gone)  # the newest one comes last
    _add_unrecorded(nodes)
    return Lineage(nodes.values(), workspace.folder)


def lineage_of_release(folder: Path) -> Lineage:
    """Of a release that lies outside of the study it was made in."""
    nodes: dict[Key, Node] = {}
    _add_release(nodes, folder, str(folder))
    return Lineage(nodes.values())


def releases_in(folder: Path) -> Iterator[Path]:
    """Releases that lie in a folder, also withdrawn ones; what is none is passed over."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and (path / "manifest.json").is_file():
            yield path


def release_key(folder: Path) -> Key:
    """What a release is called in a lineage."""
    return Key(RELEASE, digest_manifest(folder))


def _add_release(nodes: dict[Key, Node], folder: Path, place: str) -> None:
    """A release, and those artefacts behind it that the records no longer know."""
    try:
        manifest, key = read_any_manifest(folder), release_key(folder)
        gone = is_withdrawn(folder)
        reason = read_reason(folder) if gone else _volumes(manifest)
    except IntegrityError as error:
        key = Key(RELEASE, folder.name)
        nodes[key] = Node(key, "refused", place, note=str(error))
        return
    known = {name: Key(name, digest) for name, digest in manifest.parents.items() if name in CHAIN}
    for name, artefact in known.items():
        parents = tuple(known[parent] for parent in CHAIN[name].parents if parent in known)
        nodes.setdefault(artefact, Node(artefact, "replaced", parents=parents, note=f"as {folder.name} says"))
    parents = tuple(known[name] for name in CHAIN[LEDGER].parents if name in known)
    nodes[key] = Node(key, "withdrawn" if gone else "released", place, parents, reason)


def _volumes(manifest: Manifest) -> str:
    part = f", {manifest.subset.describe()}" if manifest.subset else ""
    return f"{manifest.samples} volumes{part}"


def _add_unrecorded(nodes: dict[Key, Node]) -> None:
    """Parents that records name and that were made anew since."""
    for node in list(nodes.values()):
        for parent in node.parents:
            nodes.setdefault(parent, Node(parent, "replaced", note=f"as {node.key.kind} says"))


def _scans(folder: Path) -> Node | None:
    """All source files as one node: they are counted, since their names are those of patients."""
    found = sources_of(folder)
    if not found:
        return None
    counts = {side: sum(source.side == side for source in found) for side in SIDES}
    sides = ", ".join(f"{count} {side}" for side, count in counts.items() if count)
    key = Key(SCANS, digest_of(sorted(source.digest for source in found)))
    return Node(key, "read", note=f"{len(found)} scans: {sides}")


@dataclass(frozen=True)
class Source:
    """One scan of the current data set."""

    case: str
    subject: str
    side: Side
    file: str
    """Relative to the study."""
    digest: str
    """SHA-256 of the file, or of a series' files."""


def sources_of(folder: Path) -> list[Source]:
    """The scans of a study's data set, by its table; none where there is none."""
    try:
        columns = ["case", "subject", "side", "source", "image_sha256"]
        table = pq.read_table(folder / TABLE, columns=columns).to_pylist()
    except (OSError, ValueError):
        return []
    return [Source(row["case"], row["subject"], row["side"], row["source"], row["image_sha256"]) for row in table]
