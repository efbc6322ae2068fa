"""Everything that the audit says of copies, from every way of looking at once.

Each view gives nearest real volumes for the synthetic volumes, the real ones and the canaries; one combined score per
volume decides, so that the false alarm rate stays exact. Then the test itself is tested: on canaries that were
planted for this audit, and on real volumes in place of synthetic ones.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.data.split.limits import FEWEST_COMPARED
from meddiff_core.errors import DataRefused
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix
from meddiff_core.evidence.metrics import Metric, metric_of
from meddiff_core.evidence.privacy.canaries import Canaries, SearchedCanaries, copy_power, plant_canaries
from meddiff_core.evidence.privacy.copies import (
    CLOSER_TO_TRAIN,
    COPIES_SHARE,
    COPY_FALSE_ALARMS,
    CopyResult,
    CopyThreshold,
    closer_to_train,
    combined_score,
    copy_test,
    copy_threshold,
    excess_metric,
    false_alarms,
    level_of,
)
from meddiff_core.evidence.privacy.copy_views import CopySets, Known, Query, View, copy_sets, copy_views
from meddiff_core.evidence.privacy.negative_control import NegativeControl, control_section
from meddiff_core.evidence.privacy.power import copy_gate, power_section
from meddiff_core.evidence.section import Section
from meddiff_core.evidence.subjects import numbered, one_of_each
from meddiff_core.study import AuditConfig
from meddiff_core.types import Progress

Scores = dict[Query, Matrix]
Rows = dict[Query, NDArray[np.int64]]
NULL: tuple[Query, Query] = ("holdout", "validation")
"""Real sets that no gradient has seen. The models may have been chosen by the validation side, but its scores compare
real volumes with real ones; no model appears in them but as a way to look, and the split is random."""
MOST_CANARIES = 180
"""20 of each transformation; of 100 subjects, all of them caught puts the lower bound at 0.96."""


@dataclass(frozen=True)
class CopyEvidence:
    """What was found, and the scores behind it; lower is more like a training volume."""

    section: Section
    result: CopyResult
    """Of the cohort as generated."""
    flagged: NDArray[np.int64]
    """Rows of the final cohort below the same threshold."""
    synthetic: Matrix
    rows: NDArray[np.int64]
    """The training volume that each synthetic one resembles most."""


def find_copies(audit: AuditInput, known: Known, bootstrap: Bootstrap) -> Generator[Progress, None, CopyEvidence]:
    """Plant canaries, look for them and for real copies in every way there is, and test; `known` saves extracting."""
    canaries = plant_copies(audit)
    sets = copy_sets(audit, canaries)
    views = yield from copy_views(audit, sets, known)
    return copy_evidence(views, sets, canaries, audit.config, bootstrap)


def copy_evidence(
    views: Sequence[View], sets: CopySets, canaries: Canaries, config: AuditConfig, bootstrap: Bootstrap
) -> CopyEvidence:
    """The copy test, its power and its false alarms, and on which side the cohort lies.

    Raises:
        DataRefused: the holdout has fewer than 2 subjects.
    """
    scores, rows = copy_scores(views, sets)
    planted = scores["canaries"][list(canaries.whole)]
    threshold = threshold_of(scores, sets, planted, bootstrap.seed)
    holdout, validation = (_one_score_each(side, scores, sets, bootstrap.seed) for side in NULL)
    control = NegativeControl(holdout, validation, planted, threshold.null)
    result = copy_test(scores["synthetic"], threshold, bootstrap)
    subjects = [sets.subjects[row] for row in canaries.rows]
    searched = SearchedCanaries(scores["canaries"] < threshold.value, canaries.transformations, subjects)
    gate = copy_gate(result.share.n, len(result.flagged), threshold.null, config, bootstrap)
    sections = [
        Section(_copy_metrics(result, searched.share(bootstrap.confidence), control, bootstrap)),
        power_section(gate, searched, bootstrap.confidence),
        control_section(control, result.share.n, config, bootstrap),
        Section([found for view in views if (found := _side_metric(view, sets, bootstrap)) is not None]),
    ]
    return CopyEvidence(
        section=Section.merge(sections),
        result=result,
        flagged=np.flatnonzero(scores.get("final", scores["synthetic"]) < threshold.value),
        synthetic=scores["synthetic"],
        rows=rows["synthetic"],
    )


def copy_scores(views: Sequence[View], sets: CopySets) -> tuple[Scores, Rows]:
    """The combined score of each volume of each set, and the training volume that it names.

    A volume's score looks at no other volume of its set: dropping some of a cohort leaves those of the others.
    """
    typical = [float(np.median(view.train.score)) for view in views]
    found = {name: combined_score([view.found[name] for view in views], typical) for name in sets.queries}
    return {name: scores for name, (scores, _) in found.items()}, {name: rows for name, (_, rows) in found.items()}


def plant_copies(audit: AuditInput) -> Canaries:
    """Transformed copies of the training volumes of an audit."""
    train = audit.dataset.volumes("train")
    return plant_canaries(train, MOST_CANARIES, audit.contract, audit.seed, audit.as_generated)


def threshold_of(scores: Scores, sets: CopySets, planted: Matrix, seed: int) -> CopyThreshold:
    """From planted copies of whole volumes, which no cohort has a part in, and one real volume per subject.

    Raises:
        DataRefused: the holdout has fewer than 2 subjects.
    """
    null = [_one_score_each(side, scores, sets, seed) for side in NULL]
    if len(null[0]) < FEWEST_COMPARED:
        raise DataRefused(f"the copy test needs at least {FEWEST_COMPARED} holdout subjects, has {len(null[0])}")
    return copy_threshold(np.concatenate(null), planted)


def _one_score_each(name: Query, scores: Scores, sets: CopySets, seed: int) -> Matrix:
    """(n,) scores of one volume per subject; none where there is no such set."""
    if name not in scores:
        return np.zeros(0)
    return scores[name][one_of_each(sets.subjects_of[name], len(scores[name]), seed)]


def _copy_metrics(result: CopyResult, caught: Estimate, control: NegativeControl, bootstrap: Bootstrap) -> list[Metric]:
    alarms = false_alarms(control.scores, control.planted, bootstrap)
    flagged = "Share of synthetic volumes flagged as suspected copies."
    halves = "Flagged share when one half of the held-out and validation subjects is tested against the other half."
    return [
        metric_of(COPIES_SHARE, result.share, flagged, reference=result.threshold.null.highest_share),
        excess_metric(result.excess),
        copy_power(caught),
        metric_of(COPY_FALSE_ALARMS, alarms, halves, reference=level_of(alarms.n // 2).highest_share),
    ]


def _side_metric(view: View, sets: CopySets, bootstrap: Bootstrap) -> Metric | None:
    if view.to_holdout is None:
        return None
    train = numbered(sets.subjects, len(sets.train))
    holdout = numbered(sets.subjects_of["holdout"], len(sets.queries["holdout"]))
    share = closer_to_train(view.found["synthetic"], view.to_holdout, train, holdout, bootstrap)
    words = (
        "How much more a training volume attracts synthetic ones than a holdout volume does: 0.5 is equal, 1 means "
        "that none is nearest to the holdout."
    )
    return metric_of(CLOSER_TO_TRAIN, share, words, view.name, reference=0.5)
