"""What changed from one version of a release to another: volumes, tables, settings, gates and figures.

A grown cohort keeps its volumes, voxel for voxel. Whoever trained on an earlier version must be able to rely on that,
so a new version is compared with the one before it, says in CHANGES.md what is different, and needs the version number
that its changes ask for.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.local import LocalObjects
from meddiff_core.release.bounded import one_line
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.manifest import Manifest, read_manifest
from meddiff_core.release.ome import public_contract, released_image
from meddiff_core.release.participants_table import IDENTIFIER, public_table
from meddiff_core.release.reader import Release
from meddiff_core.release.records import read_gates, read_metrics
from meddiff_core.release.templating import flat, markdown, number
from meddiff_core.types import Progress

CHANGES = "CHANGES.md"
LISTED = 10
"""Ids that are listed; of more, the number is given."""
TITLE = "# Changes\n"
Facts = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Version:
    """A version of a release, as far as two can be compared."""

    name: str
    version: str
    table: pd.DataFrame
    image: Callable[[int], NDArray[Any]]
    """Released volume (i, j, k) by row."""
    label: Callable[[int], NDArray[Any] | None]
    facts: Facts
    """What it says, by kind and name."""


@dataclass(frozen=True)
class Change:
    """Something that two versions say differently; None where one does not say it."""

    kind: str
    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Difference:
    """From one version to another."""

    old: str
    new: str
    added: Sequence[str]
    removed: Sequence[str]
    altered: Sequence[str]
    """Volumes of both whose voxels differ."""
    kept: int
    """Volumes of both, voxel for voxel the same."""
    restated: Sequence[str]
    """Volumes of both whose rows differ in a column of both."""
    changes: Sequence[Change]

    @property
    def step(self) -> str:
        """Which number of a semantic version the changes ask for."""
        if self.removed or self.altered:
            return "first"
        return "second" if self.added else "third"


def compare(old: Version, new: Version) -> Generator[Progress, None, Difference]:
    """Every volume that both have is compared voxel by voxel."""
    rows = [{str(sample): row for row, sample in enumerate(one.table[IDENTIFIER])} for one in (old, new)]
    common = [sample for sample in rows[0] if sample in rows[1]]
    altered = []
    for done, sample in enumerate(common, start=1):
        if not _same_voxels(old, rows[0][sample], new, rows[1][sample]):
            altered.append(sample)
        yield Progress(f"comparing with {old.version}", done, len(common))
    return Difference(
        old=old.version,
        new=new.version,
        added=[sample for sample in rows[1] if sample not in rows[0]],
        removed=[sample for sample in rows[0] if sample not in rows[1]],
        altered=altered,
        kept=len(common) - len(altered),
        restated=_restated(old.table, new.table, common),
        changes=_changes(old.facts, new.facts),
    )


def _same_voxels(old: Version, old_row: int, new: Version, new_row: int) -> bool:
    labels = old.label(old_row), new.label(new_row)
    if (labels[0] is None) != (labels[1] is None):
        return False
    same_label = labels[0] is None or labels[1] is None or np.array_equal(labels[0], labels[1])
    return same_label and np.array_equal(old.image(old_row), new.image(new_row))


def _restated(old: pd.DataFrame, new: pd.DataFrame, common: Sequence[str]) -> list[str]:
    columns = [name for name in old.columns if name in new.columns]
    left, right = (table.set_index(IDENTIFIER, drop=False).loc[list(common), columns] for table in (old, new))
    pairs = zip(left.itertuples(index=False), right.itertuples(index=False), strict=True)
    return [sample for sample, (before, after) in zip(common, pairs, strict=True) if not _same_row(before, after)]


def _same_row(before: Sequence[Any], after: Sequence[Any]) -> bool:
    return all(one == other or (pd.isna(one) and pd.isna(other)) for one, other in zip(before, after, strict=True))


def _changes(old: Facts, new: Facts) -> list[Change]:
    changes = []
    for kind, said in new.items():
        before = old.get(kind, {})
        names = [*before, *(name for name in said if name not in before)]
        changes += [
            Change(kind, name, before.get(name), said.get(name))
            for name in names
            if before.get(name) != said.get(name)
        ]  # fmt: skip
    return changes


def version_of_release(folder: Path) -> Version:
    """A release that lies in a folder.

    Raises:
        IntegrityError: it is none, or was withdrawn.
    """
    release = Release(folder)
    manifest = release.manifest
    said = {
        "papers": _papers(manifest),
        "settings": dict(flat(manifest.study)),
        "grid": dict(flat(release.contract)),
        "gates": {gate.metric: _gate_text(gate) for gate in read_gates(folder, manifest)},
        "metrics": {metric.name: number(metric.value) for metric in read_metrics(folder, manifest)},
        "made with": dict(manifest.versions),
    }
    return Version(folder.name, manifest.version, release.table, release.image, release.label, said)


def version_of_content(content: ReleaseContent) -> Version:
    """A release that is about to be written."""
    said = {
        "papers": {name: getattr(content, name) for name in PAPERS},
        "settings": dict(flat(dict(content.study))),
        "grid": dict(flat(public_contract(content.contract))),
        "gates": {gate.metric: _gate_text(gate) for gate in content.gates},
        "metrics": {metric.name: number(metric.value) for metric in content.metrics},
        "made with": dict(sorted(content.versions.items())),
    }
    return Version(
        content.folder,
        content.version,
        public_table(content.table),
        lambda row: released_image(content.volumes.image(row), content.contract).T,
        lambda row: content.volumes.label(row) if content.contract.labels else None,
        said,
    )


PAPERS = ("title", "licence", "preset")


def _papers(manifest: Manifest) -> dict[str, str]:
    return {name: getattr(manifest, name) for name in PAPERS}


def _gate_text(gate: Any) -> str:
    sign = {"max": "at most", "min": "at least"}[gate.direction]
    waived = ", waived" if gate.waiver else ""
    return f"{number(gate.bound)}, must be {sign} {number(gate.threshold)}: {gate.verdict}{waived}"


def version_before(content: ReleaseContent, releases: Path) -> Path | None:
    """The highest lower version of the same cohort that can still be read."""
    pattern = re.compile(rf"{re.escape(content.name)}-(\d+\.\d+\.\d+)")
    found = [(_numbers(match[1]), path) for path in releases.glob("*") if (match := pattern.fullmatch(path.name))]
    for numbers, path in sorted(found, reverse=True):
        if numbers < _numbers(content.version) and _is_readable(path):
            return path
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _is_readable(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except IntegrityError:
        return False
    return True


def changes_of(content: ReleaseContent, releases: Path) -> Generator[Progress, None, str | None]:
    """CHANGES.md of a release that is about to be written; None for the first version.

    Raises:
        ConfigurationError: the version's number is too low for what changed.
        IntegrityError: the version before it is not what its manifest says.
    """
    before = version_before(content, releases)
    if before is None:
        return None
    difference = yield from compare(version_of_release(before), version_of_content(content))
    check_version(difference)
    return f"{TITLE}{_as_markdown(difference)}{_history(before)}"


def _history(folder: Path) -> str:
    """What a release says of the versions before it."""
    files = read_manifest(folder).files
    text = (
        CheckedObjects(LocalObjects(folder), files).read(CHANGES).decode(errors="replace") if CHANGES in files else ""
    )
    return text.removeprefix(TITLE)


def check_version(difference: Difference) -> None:
    """Refuse a version whose number promises more than it keeps.

    Raises:
        ConfigurationError: says which number must grow, and why.
    """
    old, new = _numbers(difference.old), _numbers(difference.new)
    place = {"first": 0, "second": 1, "third": 2}[difference.step]
    if new[: place + 1] > old[: place + 1]:
        return
    why = {
        "first": f"{len(difference.removed)} volumes of {difference.old} are left out and {len(difference.altered)} "
        "have other voxels",
        "second": f"{len(difference.added)} volumes are added to {difference.old}",
        "third": f"{difference.old} exists",
    }[difference.step]
    raise ConfigurationError(
        f"release.version: its {difference.step} number must grow, since {why}; is {difference.new}"
    )


def describe_difference(difference: Difference) -> list[str]:
    """A line for each thing, for a person."""
    lines = [
        f"{'added':<10}{_listed(difference.added)}",
        f"{'removed':<10}{_listed(difference.removed)}",
        f"{'altered':<10}{_listed(difference.altered)}",
        f"{'kept':<10}{difference.kept}, voxel for voxel the same",
        f"{'rows':<10}{_listed(difference.restated)} with other values in the table",
    ]
    lines += [f"{one.kind:<10}{one.name}: {_said(one.old)} -> {_said(one.new)}" for one in difference.changes]
    return [one_line(line) for line in lines]  # what a stranger wrote is no command to a terminal


def _as_markdown(difference: Difference) -> str:
    lines = [
        f"- added: {_listed(difference.added)}",
        f"- left out: {_listed(difference.removed)}",
        f"- with other voxels: {_listed(difference.altered)}",
        f"- kept, voxel for voxel the same: {difference.kept}",
        f"- with other values in the table: {_listed(difference.restated)}",
    ]
    changed = [(one.kind, one.name, _said(one.old), _said(one.new)) for one in difference.changes]
    table = [f"| {' | '.join(map(markdown, row))} |" for row in changed]
    head = [f"| | | {difference.old} | {difference.new} |", "|---|---|---|---|"] if table else []
    return "\n".join(["", f"## {difference.new}, after {difference.old}", "", *lines, "", *head, *table]) + "\n"


def _listed(samples: Sequence[str]) -> str:
    shown = ", ".join(samples[:LISTED]) + (", ..." if len(samples) > LISTED else "")
    return f"{len(samples)}" + (f" ({shown})" if samples else "")


def _said(text: str | None) -> str:
    return "not said" if text is None else text
