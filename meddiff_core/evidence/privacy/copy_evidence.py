"""Everything that the audit says of copies, from every way of looking at once.

Each view (voxels at low resolution, one per feature extractor) gives nearest real volumes for the synthetic, the
holdout and the planted copies; one combined score per volume decides, so that the false alarm rate stays exact.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.evidence.gates import Metric, metric_of
from meddiff_core.evidence.intervals import Estimate, Matrix, from_count
from meddiff_core.evidence.privacy.copies import (
    CopyResult,
    Neighbours,
    closer_to_train,
    combined_score,
    copy_test,
    expected_share,
    false_alarms,
    keys_of,
    match_voxels,
    nearest,
    nearest_voxels,
)
from meddiff_core.evidence.privacy.planting import PlantedCopies
from meddiff_core.evidence.quality.comparison import Drawing
from meddiff_core.evidence.screening.bounds import near_duplicates, smallest_distance
from meddiff_core.types import Progress, Volumes

ALPHA = 0.05
"""Share of fresh volumes that the copy test may flag."""


@dataclass(frozen=True)
class View:
    """One way to look for copies: nearest real volumes of every set."""

    name: str
    synthetic: Neighbours
    synthetic_to_holdout: Neighbours
    holdout: Neighbours
    planted: Neighbours
    train: Neighbours
    """Of each training volume among the others."""


def voxel_view(
    accepted: Volumes, train: Volumes, holdout: Volumes, planted: PlantedCopies, contract: Contract
) -> Generator[Progress, None, View]:
    """By keys of voxels, through flips and shifts."""
    keys = keys_of(train, contract)
    centre = keys.mean(0)
    return View(
        name="voxels",
        synthetic=(yield from match_voxels(accepted, keys, centre, contract)),
        synthetic_to_holdout=(yield from match_voxels(accepted, keys_of(holdout, contract), centre, contract)),
        holdout=(yield from match_voxels(holdout, keys, centre, contract)),
        planted=(yield from match_voxels(planted, keys, centre, contract)),
        train=nearest_voxels(keys[:, None], keys, centre, exclude_self=True),
    )


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


def feature_view(name: str, synthetic: Matrix, train: Matrix, holdout: Matrix, planted: Matrix) -> View:
    """By features, standardised by the training set's deviations."""
    return View(
        name=name,
        synthetic=nearest(synthetic, train),
        synthetic_to_holdout=nearest(synthetic, holdout),
        holdout=nearest(holdout, train),
        planted=nearest(planted, train),
        train=nearest(train, train, exclude_self=True),
    )


@dataclass(frozen=True)
class CopyEvidence:
    """Metrics, and the scores behind them; lower is more like a training volume."""

    metrics: list[Metric]
    result: CopyResult
    synthetic: Matrix
    rows: NDArray[np.int64]
    """The training volume that each synthetic one resembles most."""
    holdout: Matrix
    planted: Matrix


def copy_evidence(views: Sequence[View], sizes: Mapping[str, int], drawing: Drawing) -> CopyEvidence:
    """The copy test, its power and its false alarms, and on which side the cohort lies."""
    typical = [float(np.median(view.train.score)) for view in views]
    synthetic, rows = combined_score([view.synthetic for view in views], typical)
    holdout, _ = combined_score([view.holdout for view in views], typical)
    planted, _ = combined_score([view.planted for view in views], typical)
    result = copy_test(synthetic, holdout, ALPHA, drawing.confidence, drawing.seed)
    alarms = false_alarms(holdout, ALPHA, drawing.repeats, drawing.confidence, drawing.seed)
    caught = from_count(int((planted < result.threshold).sum()), len(planted), drawing.confidence)
    metrics = _copy_metrics(result, caught, alarms) + [_side_metric(view, sizes, drawing) for view in views]
    return CopyEvidence(metrics, result, synthetic, rows, holdout, planted)


def _copy_metrics(result: CopyResult, caught: Estimate, alarms: Estimate) -> list[Metric]:
    lower = "lower is better"
    return [
        metric_of(
            "copies_share", result.share, lower, floor=result.expected,
            explanation="Share of synthetic volumes flagged as suspected copies; fresh real volumes show the floor.",
        ),
        metric_of(
            "copies_excess", result.excess, lower, floor=0.0,
            explanation="Flagged share beyond that of fresh real volumes, which the holdout stands for.",
        ),
        metric_of(
            "copy_power", caught, "higher is better, up to 1",
            "Share of disguised copies, planted for this audit, that the copy test catches.",
        ),
        metric_of(
            "copy_false_alarms", alarms, lower, floor=expected_share(alarms.n // 2, ALPHA),
            explanation="Flagged share when one half of the holdout is judged by the other half.",
        ),
    ]  # fmt: skip


def _side_metric(view: View, sizes: Mapping[str, int], drawing: Drawing) -> Metric:
    share = closer_to_train(
        view.synthetic, view.synthetic_to_holdout, sizes["train"], sizes["holdout"],
        drawing.confidence, drawing.repeats, drawing.seed,
    )  # fmt: skip
    return metric_of(
        f"closer_to_train:{view.name}", share, "0.5 is best", floor=0.5,
        explanation="How much more a training volume attracts synthetic ones than a holdout volume does: 0.5 is equal, "
        "1 means that none is nearest to the holdout.",
    )  # fmt: skip
