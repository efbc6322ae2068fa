"""Subjects whose data were called back, as a study keeps them: who, why, and which data sets held their scans.

From then on they are left out of the study, whatever its scans and its settings become; an artefact of one of those
data sets is recalled with them. The file names patients, as the split does, and stays in the study.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meddiff_core.artefacts import write_json
from meddiff_core.contract import Frozen
from meddiff_core.errors import ConfigurationError

RECALLED = "recalled.json"


class Recall(Frozen):
    """One subject."""

    subject: str
    names: tuple[str, ...] = ()
    """Of its scans and of their files, which may not occur in a release or a log either."""
    reason: str = ""
    datasets: dict[str, bool]
    """Digests of the data sets that held its scans; false where no list says whether one did, as of those that are
    older than the lists."""
    voxels: tuple[str, ...] = ()
    """SHA-256 of the voxels of its scans: under another name they are refused as well."""


class _Recalls(Frozen):
    recalls: tuple[Recall, ...]


def read_recalls(folder: Path) -> tuple[Recall, ...]:
    """The recalls of a study by its folder, none where there never was one.

    Raises:
        ConfigurationError: the file cannot be read; nothing may be made then.
    """
    path = folder / RECALLED
    if not path.exists():
        return ()
    try:
        return _Recalls.model_validate_json(path.read_bytes()).recalls
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]["msg"]
        raise ConfigurationError(
            f"{RECALLED} must say who was recalled, cannot be read ({fault}); restore it, or delete it and recall again"
        ) from error


def write_recall(folder: Path, recall: Recall) -> Recall:
    """Keep a recall; that of the same subject before is completed, and its reason stays."""
    others = {known.subject: known for known in read_recalls(folder)}
    if (known := others.get(recall.subject)) is not None:
        recall = _completed(known, recall)
    kept = others | {recall.subject: recall}
    if list(others.values()) != list(kept.values()):
        write_json(folder / RECALLED, _Recalls(recalls=tuple(kept[name] for name in sorted(kept))))
    return recall


def _completed(known: Recall, more: Recall) -> Recall:
    changes: dict[str, Any] = {
        "names": tuple(sorted({*known.names, *more.names})),
        "reason": known.reason or more.reason,
        "datasets": {**more.datasets, **{digest: held for digest, held in known.datasets.items() if held}},
        "voxels": tuple(sorted({*known.voxels, *more.voxels})),
    }
    changes["datasets"] = dict(sorted((known.datasets | changes["datasets"]).items()))
    return known.model_copy(update=changes)


def recalled_datasets(recalls: Iterable[Recall]) -> set[str]:
    """Digests of all data sets of which a subject was recalled."""
    return {digest for recall in recalls for digest in recall.datasets}


def recalled_around(release: Path) -> set[str]:
    """The same, of the study in whose folder a release lies; none where it lies elsewhere."""
    return recalled_datasets(read_recalls(release.absolute().parent.parent))
