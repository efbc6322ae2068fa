"""What a user points at: `STUDY/denoiser`, a path of an artefact, a release's folder, a scan, or a digest."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from meddiff_core.artefacts import digest_file
from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.lineage.graph import (
    DATASET,
    LEDGER,
    RELEASE,
    SCAN,
    Key,
    Lineage,
    Node,
    lineage_of,
    lineage_of_release,
    release_key,
    sources_of,
)
from meddiff_core.lineage.recall import with_recalls
from meddiff_core.lineage.seen import seen_by
from meddiff_core.release.manifest import MANIFEST
from meddiff_core.workspace import CHAIN, STUDY_FILE, Workspace

DIGEST = re.compile(r"[0-9a-f]{8,64}")
MOST_STUDIES = 1000
"""That are looked into for a digest."""


def resolve(what: str, near: Path) -> tuple[Lineage, Key]:
    """What is meant, and the lineage that it is part of; a digest is looked for in `near` and the studies in it.

    Raises:
        ConfigurationError: nothing is called so.
    """
    path = Path(what)
    if (release := _release_around(path)) is not None:
        return _of_release(release)
    if (study := _study_around(path)) is not None:
        lineage = open_lineage(study)
        if (key := _artefact_at(path.absolute().relative_to(study), lineage)) is not None:
            return lineage, key
    digest = digest_file(path) if path.is_file() else what
    if DIGEST.fullmatch(digest):
        return _by_digest(digest, near)
    raise ConfigurationError(
        f"artefact must be STUDY/NAME, a path in a study, a release, a scan or a digest (8 or more of its letters), is "
        f"{what!r}; names are {', '.join(CHAIN)}"
    )


def open_lineage(study: Path) -> Lineage:
    """The lineage of a study by its folder, with what was recalled."""
    workspace = Workspace.open(study)
    return with_recalls(workspace, lineage_of(workspace))


def _release_around(path: Path) -> Path | None:
    folders = [path.absolute(), *path.absolute().parents]
    return next((folder for folder in folders if (folder / MANIFEST).is_file()), None)


def _study_around(path: Path) -> Path | None:
    folders = [path.absolute(), *path.absolute().parents]
    return next((folder for folder in folders if (folder / STUDY_FILE).is_file()), None)


def _of_release(folder: Path) -> tuple[Lineage, Key]:
    key, study = release_key(folder), folder.parent.parent
    if (study / STUDY_FILE).is_file() and key in (lineage := open_lineage(study)).nodes:
        return lineage, key
    return lineage_of_release(folder), key


def _artefact_at(inside: Path, lineage: Lineage) -> Key | None:
    """The artefact that a path in a study is, or is a part of; the study itself is its last one."""
    name = inside.as_posix()
    if name in (".", STUDY_FILE):
        return _newest(lineage, reversed(CHAIN))
    found = [
        kind
        for kind, artefact in CHAIN.items()
        if name in (kind, artefact.path) or name.startswith(f"{artefact.path}/")
    ]
    if not found:
        return None
    if (key := _newest(lineage, found)) is None:
        raise ConfigurationError(f"{found[0]}: must have been made, there is no record of it")
    return key


def _newest(lineage: Lineage, kinds: Iterable[str]) -> Key | None:
    """What the records of the study know under the first of some names that they know."""
    current = {node.key.kind: node.key for node in lineage.nodes.values() if node.status in ("done", "stale")}
    releases = [key for key in lineage.nodes if key.kind == RELEASE]
    if releases:
        current[LEDGER] = releases[-1]
    return next((current[kind] for kind in kinds if kind in current), None)


def _by_digest(digest: str, near: Path) -> tuple[Lineage, Key]:
    found: list[tuple[Lineage, Key]] = []
    for study in _studies(near):
        try:
            lineage = open_lineage(study)
        except MeddiffError:  # one that cannot be read hides no other
            continue
        matching = [key for key in lineage.nodes if key.digest.startswith(digest)]
        found += [(lineage, key) for key in matching] or _scan(study, lineage, digest)
    if len({key for _, key in found}) > 1:
        names = ", ".join(f"{key.kind} {key.digest[:12]}" for _, key in found)
        raise ConfigurationError(f"digest must be of one artefact, {digest!r} is that of {names}: give more letters")
    if not found:
        raise ConfigurationError(
            f"digest must be one that a study in {near} knows, {digest[:12]!r} is none; name others with --study"
        )
    return found[0]


def _scan(study: Path, lineage: Lineage, digest: str) -> list[tuple[Lineage, Key]]:
    """A scan of the current data set, by the digest of its file, and what saw it: not all that came after."""
    dataset, found = _newest(lineage, [DATASET]), []
    for source in sources_of(study) if dataset is not None else ():
        if source.digest.startswith(digest) and dataset is not None:
            scan = Node(Key(SCAN, source.digest), "read", note=f"{source.side} side")
            seen = seen_by(lineage, source.side, lambda key: key in (dataset, *lineage.above(dataset)))
            nodes = [replace(lineage.nodes[key], note=how) for key, how in seen.items()]
            nodes = [
                replace(node, parents=(*node.parents, scan.key)) if node.key == dataset else node for node in nodes
            ]
            found.append((Lineage([scan, *nodes], lineage.folder), scan.key))
    return found


def _studies(near: Path) -> list[Path]:
    inside = [path.parent for path in sorted(near.glob(f"*/{STUDY_FILE}"))[:MOST_STUDIES]]
    around = _study_around(near)
    return [*([around] if around else []), *inside]
