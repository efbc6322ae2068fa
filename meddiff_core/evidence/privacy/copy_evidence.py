"""Everything that the audit says of copies, from every way of looking at once.

Each view gives nearest real volumes for the synthetic, the real and the planted volumes; one combined score per
volume decides, so that the false alarm rate stays exact. Then the test itself is tested: on copies that were
planted for this audit, and on real volumes in place of synthetic ones.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.data.split.limits import FEWEST_COMPARED
from meddiff_core.errors import DataRefused
from meddiff_core.evidence.gates import Metric, metric_of
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Estimate, Matrix, from_count
from meddiff_core.evidence.privacy.copies import (
    ALPHA,
    CopyResult,
    closer_to_train,
    combined_score,
    copy_test,
    expected_share,
    false_alarms,
    keys_of,
)
from meddiff_core.evidence.privacy.copy_views import CopySets, Known, Query, View, copy_sets, copy_views
from meddiff_core.evidence.privacy.oracle import Oracle, oracle_findings
from meddiff_core.evidence.privacy.planting import PlantedCopies, caught_by_disguise, plant_copies
from meddiff_core.evidence.privacy.power import (
    Planted,
    copy_gate,
    disguise_table,
    excess_metric,
    power_curve,
    power_metrics,
    power_table,
)
from meddiff_core.evidence.quality.comparison import Drawing
from meddiff_core.evidence.screening.bounds import smallest_distance
from meddiff_core.evidence.screening.duplicates import near_duplicates
from meddiff_core.evidence.section import Section
from meddiff_core.evidence.subjects import numbered, one_of_each
from meddiff_core.study import AuditConfig
from meddiff_core.types import Progress, Volumes

Scores = dict[Query, Matrix]
Rows = dict[Query, NDArray[np.int64]]
MOST_PLANTED = 180
"""Planted copies, 20 of each disguise; of 100 subjects, all of them caught puts the lower bound at 0.96."""


def distinct_metric(
    accepted: Volumes, train: Volumes, holdout: Volumes, subjects: Sequence[str], contract: Contract, drawing: Drawing
) -> Metric:
    """Share of volumes that no earlier one is nearer to than two training subjects ever are."""
    keys = keys_of(train, contract)
    centre = keys.mean(0)
    threshold = smallest_distance(keys, centre, subjects)
    repeated = [len(near_duplicates(keys_of(side, contract), centre, threshold)) for side in (accepted, holdout)]
    share = from_count(len(accepted) - repeated[0], len(accepted), drawing.confidence)
    return metric_of(
        "distinct_share", share, "higher is better, up to the floor", floor=1 - repeated[1] / len(holdout),
        explanation="Share of synthetic volumes that do not repeat another one.",
    )  # fmt: skip


@dataclass(frozen=True)
class CopyEvidence:
    """What was found, and the scores behind it; lower is more like a training volume."""

    section: Section
    result: CopyResult
    """Of the cohort as drawn."""
    flagged: NDArray[np.int64]
    """Rows of the final cohort below the same threshold."""
    synthetic: Matrix
    rows: NDArray[np.int64]
    """The training volume that each synthetic one resembles most."""
    holdout: Matrix
    planted: Matrix
    power_by_disguise: dict[str, float]
    """Share of planted copies caught."""


def find_copies(audit: AuditInput, known: Known, drawing: Drawing) -> Generator[Progress, None, CopyEvidence]:
    """Plant copies, look for them and for real ones in every way there is, and judge; `known` saves extracting."""
    train = audit.dataset.volumes("train")
    planted = plant_copies(train, MOST_PLANTED, audit.contract, audit.seed, audit.as_drawn)
    sets = copy_sets(audit, planted)
    views = yield from copy_views(audit, sets, known)
    return copy_evidence(views, sets, planted, audit.config, drawing)


def copy_evidence(
    views: Sequence[View], sets: CopySets, planted: PlantedCopies, config: AuditConfig, drawing: Drawing
) -> CopyEvidence:
    """The copy test, its power and its false alarms, and on which side the cohort lies.

    Raises:
        DataRefused: the holdout has fewer than 2 subjects.
    """
    scores, rows = copy_scores(views, sets)
    oracle = Oracle(null_scores(scores, sets, drawing.seed), _one_score_each("validation", scores, sets, drawing.seed))
    result = copy_test(scores["synthetic"], oracle.holdout, ALPHA, drawing.confidence, drawing.seed)
    final = scores.get("final", scores["synthetic"])
    caught = scores["planted"] < result.threshold
    subjects = [sets.subjects[row] for row in planted.rows]
    section = _section(result, Planted(caught, planted.disguises, subjects), oracle, config, drawing)
    sides = [found for view in views if (found := _side_metric(view, sets, drawing)) is not None]
    return CopyEvidence(
        section=replace(section, metrics=[*section.metrics, *sides]),
        result=result,
        flagged=np.flatnonzero(final < result.threshold),
        synthetic=scores["synthetic"],
        rows=rows["synthetic"],
        holdout=scores["holdout"],
        planted=scores["planted"],
        power_by_disguise=caught_by_disguise(planted, caught),
    )


def copy_scores(views: Sequence[View], sets: CopySets) -> tuple[Scores, Rows]:
    """The combined score of each volume of each set, and the training volume that it names.

    A volume's score looks at no other volume of its set: dropping some of a cohort leaves those of the others.
    """
    typical = [float(np.median(view.train.score)) for view in views]
    found = {name: combined_score([view.found[name] for view in views], typical) for name in sets.queries}
    return {name: scores for name, (scores, _) in found.items()}, {name: rows for name, (_, rows) in found.items()}


def null_scores(scores: Scores, sets: CopySets, seed: int) -> Matrix:
    """(n,) what scores below which are flagged is read from: one holdout volume per subject.

    Raises:
        DataRefused: the holdout has fewer than 2 subjects.
    """
    null = _one_score_each("holdout", scores, sets, seed)
    if len(null) < FEWEST_COMPARED:
        raise DataRefused(f"the copy test needs at least {FEWEST_COMPARED} holdout subjects, has {len(null)}")
    return null


def _one_score_each(name: Query, scores: Scores, sets: CopySets, seed: int) -> Matrix:
    """(n,) scores of one volume per subject; none where there is no such set."""
    if name not in scores:
        return np.zeros(0)
    return scores[name][one_of_each(sets.subjects_of[name], len(scores[name]), seed)]


def _section(result: CopyResult, planted: Planted, oracle: Oracle, config: AuditConfig, drawing: Drawing) -> Section:
    """The verdict on the cohort, and the verdict on the test."""
    size, null_size = result.share.n, len(oracle.holdout)
    gate = copy_gate(size, len(result.flagged), null_size, config, drawing)
    caught = planted.share(drawing.confidence)
    honest = oracle_findings(oracle, size, config, drawing)
    alarms = false_alarms(oracle.holdout, ALPHA, drawing.repeats, drawing.confidence, drawing.seed)
    return Section(
        metrics=[*_copy_metrics(result, caught, alarms), *power_metrics(gate, caught), honest.metric],
        tables=[
            power_table(gate, caught), disguise_table(gate, planted, drawing.confidence), honest.table,
        ],
        curves=[power_curve(gate, caught)],
        statements=honest.statements,
    )  # fmt: skip


def _copy_metrics(result: CopyResult, caught: Estimate, alarms: Estimate) -> list[Metric]:
    lower = "lower is better"
    return [
        metric_of(
            "copies_share", result.share, lower, floor=result.expected,
            explanation="Share of synthetic volumes flagged as suspected copies; fresh real volumes show the floor.",
        ),
        excess_metric(result.excess),
        metric_of(
            "copy_power", caught, "higher is better, up to 1",
            "Share of disguised copies, planted for this audit, that the copy test catches.",
        ),
        metric_of(
            "copy_false_alarms", alarms, lower, floor=expected_share(alarms.n // 2, ALPHA),
            explanation="Flagged share when one half of the holdout is judged by the other half.",
        ),
    ]  # fmt: skip


def _side_metric(view: View, sets: CopySets, drawing: Drawing) -> Metric | None:
    if view.to_holdout is None:
        return None
    share = closer_to_train(
        view.found["synthetic"], view.to_holdout,
        numbered(sets.subjects, len(sets.train)), numbered(sets.subjects_of["holdout"], len(sets.queries["holdout"])),
        drawing.confidence, drawing.repeats, drawing.seed,
    )  # fmt: skip
    return metric_of(
        f"closer_to_train:{view.name}", share, "0.5 is best", floor=0.5,
        explanation="How much more a training volume attracts synthetic ones than a holdout volume does: 0.5 is equal, "
        "1 means that none is nearest to the holdout.",
    )  # fmt: skip
