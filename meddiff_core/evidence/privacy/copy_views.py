"""Every way of looking for copies: voxels whole, smoothed and by halves, and the vectors of each copy extractor.

A further way costs one extractor in `AuditInput.copy_extractors`: the verdict is on one combined score, whose
false alarm rate stays exact however many views there are.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import Literal

from meddiff_core.contract import Contract
from meddiff_core.data.split.sides import SIDES
from meddiff_core.evidence.features.records import Extractor, Features, extract
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.neighbours import Neighbours, nearest
from meddiff_core.evidence.privacy.voxel_search import (
    HALVES,
    SMOOTHED,
    STRONG_SMOOTHING,
    WHOLE,
    fit_search,
    match_voxels,
)
from meddiff_core.evidence.quality.distances import fit_projection
from meddiff_core.evidence.voxel_keys import SMOOTHING, keys_of, lifted_keys_of, smoothed_keys_of
from meddiff_core.types import FloatArray, Progress, Volumes

Query = Literal["synthetic", "final", "holdout", "canaries", "validation"]
"""Sets that are searched for copies of training volumes. `synthetic` is the cohort as generated; `final` is that after
suspected copies were replaced, and is left out where none was. So are others that are empty."""
Known = Mapping[str, Mapping[str, Features]]
"""Features that were extracted before, by digest of the extractor and by set."""
TO_HOLDOUT = "to holdout"


@dataclass(frozen=True)
class CopySets:
    """What is searched, and for copies of what."""

    train: Volumes
    subjects: Sequence[str]
    """Whose each training volume is."""
    queries: Mapping[Query, Volumes]
    subjects_of: Mapping[str, Sequence[str]]
    """Of holdout and validation."""


@dataclass(frozen=True)
class View:
    """One way to look for copies."""

    name: str
    found: Mapping[Query, Neighbours]
    """Nearest training volumes of every set."""
    train: Neighbours
    """Of each training volume among those of other subjects."""
    to_holdout: Neighbours | None = None
    """Of each volume of the cohort as generated; None for a view that does not show on which side a cohort lies, as
    that of an encoder which was trained to set training volumes apart."""


def copy_sets(audit: AuditInput, canaries: Volumes) -> CopySets:
    """The sets of an audit."""
    real = audit.dataset
    queries: dict[Query, Volumes] = {
        "synthetic": audit.as_generated, "holdout": real.volumes("holdout"), "canaries": canaries,
    }  # fmt: skip
    if audit.first_round is not None:
        queries["final"] = audit.accepted
    if len(validation := real.volumes("validation")):
        queries["validation"] = validation
    subjects_of: dict[str, list[str]] = {side: real.subjects(side) for side in SIDES if side in queries}
    return CopySets(real.volumes("train"), real.subjects("train"), queries, subjects_of)


def copy_views(audit: AuditInput, sets: CopySets, known: Known) -> Generator[Progress, None, list[View]]:
    """All views; features that are known already are not extracted again."""
    views = yield from voxel_views(sets, audit.contract)
    views.append((yield from smoothed_view(sets, audit.contract)))
    impartial = {extractor.digest for extractor in audit.extractors}
    for extractor in audit.extractors if audit.copy_extractors is None else audit.copy_extractors:
        view = yield from feature_view(extractor, sets, known.get(extractor.digest, {}))
        views.append(view if extractor.digest in impartial else replace(view, to_holdout=None))
    return views


def voxel_views(sets: CopySets, contract: Contract) -> Generator[Progress, None, list[View]]:
    """By keys of voxels, whole and by halves, through flips, shifts and smoothing."""
    keys = keys_of(sets.train, contract)
    of_holdout = keys_of(sets.queries["holdout"], contract)
    changed = (smoothed_keys_of(sets.train, contract), lifted_keys_of(sets.train, contract))
    search = fit_search(keys, contract, sets.subjects, changed)

    def both(query: FloatArray) -> dict[str, Neighbours]:
        return search(query) | {TO_HOLDOUT: search.among_others(query, of_holdout)}

    found: dict[Query, dict[str, Neighbours]] = {}
    for name, volumes in sets.queries.items():
        found[name] = yield from match_voxels(volumes, contract, both if name == "synthetic" else search)
    among = search.among_themselves(keys)
    return [
        View(way, {name: ways[way] for name, ways in found.items()}, among[way],
             found["synthetic"][TO_HOLDOUT] if way == WHOLE else None)
        for way in (WHOLE, *HALVES)
    ]  # fmt: skip


def smoothed_view(sets: CopySets, contract: Contract) -> Generator[Progress, None, View]:
    """By keys of whole volumes that are smoothed on both sides, in which a blurred copy is near to its original.

    Fresh volumes come nearer, too, but less, and scores are taken relative to those between training volumes.
    """
    keys = smoothed_keys_of(sets.train, contract, STRONG_SMOOTHING)
    beyond = smoothed_keys_of(sets.train, contract, hypot(STRONG_SMOOTHING, SMOOTHING))
    lifted = lifted_keys_of(sets.train, contract, STRONG_SMOOTHING)
    search = fit_search(keys, contract, sets.subjects, (beyond, lifted))

    def look(query: FloatArray) -> dict[str, Neighbours]:
        return {SMOOTHED: search.find_whole(query)}

    found: dict[Query, Neighbours] = {}
    for name, volumes in sets.queries.items():
        ways = yield from match_voxels(volumes, contract, look, smoothing=STRONG_SMOOTHING)
        found[name] = ways[SMOOTHED]
    return View(SMOOTHED, found, search.find_whole(keys[:, None], search.subjects))


def feature_view(
    extractor: Extractor, sets: CopySets, known: Mapping[str, Features]
) -> Generator[Progress, None, View]:
    """By features, standardised by the training set's standard deviations."""
    rows = dict(known)
    for name, volumes in (("train", sets.train), *sets.queries.items()):
        if name not in rows:
            rows[name] = yield from extract(extractor, volumes)
    scale = fit_projection(rows["train"], 1).standardise
    train = scale(rows["train"])
    return View(
        name=extractor.name,
        found={name: nearest(scale(rows[name]), train, subjects=sets.subjects) for name in sets.queries},
        train=nearest(train, train, exclude_self=True, subjects=sets.subjects),
        to_holdout=nearest(scale(rows["synthetic"]), scale(rows["holdout"])),
    )
