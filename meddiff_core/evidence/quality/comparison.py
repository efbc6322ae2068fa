"""Metrics of the audit that compare sets of volumes: features, diversity, structures, conditions.

Each takes what was extracted or measured before and gives finished metrics, with the real-against-real floor
at the same sizes; nothing here reads a volume.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from meddiff_core.contract import Condition, ContinuousCondition, Contract
from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.gates import Metric, metric_of
from meddiff_core.evidence.intervals import Estimate, Matrix, from_draws, magnitude, resample_weights
from meddiff_core.evidence.measurements import MEASURED_VOLUME
from meddiff_core.evidence.quality.distances import (
    Statistic,
    estimate,
    fit_projection,
    frechet_distance,
    kernel_distance,
    ratio_to_floor,
    real_floor,
)
from meddiff_core.evidence.quality.fidelity import fidelity
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_size, neighbourhood_statistic
from meddiff_core.evidence.quality.similarity import PairSimilarity, mean_similarity, similarity_gap

LARGEST_SAMPLE = 500
"""Volumes per side of one comparison; more makes it slower, not clearer."""


APPEARANCE = ("mean", "std", "foreground_share", "p50", "sharpness")
"""Measurements whose shift is reported."""


@dataclass(frozen=True)
class Sides:
    """The same thing of the three sets that the audit compares."""

    synthetic: Features
    train: Features
    holdout: Features

    @property
    def smallest(self) -> int:
        """Volumes of the smallest set."""
        return min(len(self.synthetic), len(self.train), len(self.holdout))


@dataclass(frozen=True)
class Drawing:
    """How intervals are drawn."""

    repeats: int
    confidence: float
    seed: int


def feature_metrics(sides: Sides, drawing: Drawing) -> list[Metric]:
    """Fréchet and kernel distance, precision, recall, density and coverage, to the holdout at equal sizes."""
    half = min(sides.smallest // 2, LARGEST_SAMPLE)
    whole = min(sides.smallest, LARGEST_SAMPLE)
    projection = fit_projection(sides.train, min(16, half // 2))
    coordinates = [projection(side) for side in (sides.synthetic, sides.train, sides.holdout)]
    standardised = [projection.standardise(side) for side in (sides.synthetic, sides.train, sides.holdout)]
    name = sides.train.extractor
    return [
        *_frechet_metrics(name, coordinates, half, drawing),
        _against_floor(f"kernel:{name}", kernel_distance, standardised, half, drawing, "lower is better", KERNEL),
        *_neighbourhood_metrics(name, coordinates, whole, drawing),
    ]


KERNEL = "Unbiased kernel distance of synthetic volumes to the holdout: about 0 for equal distributions."
FRECHET = "Fréchet distance of synthetic volumes to the holdout, to be read beside that of the training volumes."
RATIO = "Fréchet distance to the holdout, in units of what training volumes show: 1 is as near as reality."
NEIGHBOURHOODS = {
    "precision": "Share of synthetic volumes that lie among real ones.",
    "recall": "Share of real volumes that lie among synthetic ones.",
    "density": "How densely real volumes surround the synthetic ones; outliers count little.",
    "coverage": "Share of real volumes with a synthetic one nearby.",
}


def _against_floor(
    name: str,
    statistic: Statistic,
    sets: Sequence[Matrix],
    size: int,
    drawing: Drawing,
    direction: str,
    explanation: str,
) -> Metric:
    synthetic, train, holdout = sets
    how = (size, drawing.repeats, drawing.confidence, drawing.seed)
    floor = real_floor(statistic, train, holdout, *how)
    found = estimate(statistic, synthetic, holdout, *how)
    return metric_of(name, found, direction, explanation, floor=floor.value)


def _frechet_metrics(name: str, sets: Sequence[Matrix], size: int, drawing: Drawing) -> list[Metric]:
    synthetic, train, holdout = sets
    how = (size, drawing.repeats, drawing.confidence, drawing.seed)
    ratio = ratio_to_floor(frechet_distance, synthetic, train, holdout, *how)
    return [
        _against_floor(f"frechet:{name}", frechet_distance, sets, size, drawing, "lower is better", FRECHET),
        metric_of(
            f"frechet_ratio:{name}", ratio, "1 is as good as real; far below 1 hints at copies", RATIO, floor=1.0
        ),
    ]


def _neighbourhood_metrics(name: str, sets: Sequence[Matrix], size: int, drawing: Drawing) -> list[Metric]:
    k = neighbourhood_size(size)
    return [
        _against_floor(
            f"{figure}:{name}",
            neighbourhood_statistic(figure, k),
            sets,
            size,
            drawing,
            "higher is better, up to the floor",
            f"{explanation} (k = {k})",
        )
        for figure, explanation in NEIGHBOURHOODS.items()
    ]


def similarity_metrics(
    synthetic: PairSimilarity, train: PairSimilarity, holdout: PairSimilarity, drawing: Drawing
) -> list[Metric]:
    """Mean MS-SSIM of synthetic pairs, and its distance from that of real pairs."""
    how = (drawing.confidence, drawing.repeats, drawing.seed)
    real_gap = magnitude(similarity_gap(holdout, train, *how))
    return [
        metric_of(
            "ms_ssim", mean_similarity(synthetic, *how), "as near to the floor as can be",
            "Mean similarity of two synthetic volumes; the floor is that of two real ones.",
            floor=float(train.values.mean()),
        ),
        metric_of(
            "ms_ssim_gap", magnitude(similarity_gap(synthetic, train, *how)), "lower is better",
            "How far the similarity of two synthetic volumes is from that of two real ones.",
            floor=real_gap.value,
        ),
    ]  # fmt: skip


def volume_metrics(
    synthetic: Sequence[Mapping[str, float]],
    train: Sequence[Mapping[str, float]],
    holdout: Sequence[Mapping[str, float]],
    contract: Contract,
    drawing: Drawing,
) -> list[Metric]:
    """Per structure: Wasserstein distance of its volumes to the holdout's, and the shift of their mean."""
    metrics = []
    for group in contract.labels:
        sets = [volumes_of(figures, group) for figures in (synthetic, train, holdout)]
        size = min(*(len(values) // 2 for values in sets), LARGEST_SAMPLE)
        metrics.append(
            _against_floor(
                f"volume_distance:{group}", _wasserstein(sets[1].std()), [values[:, None] for values in sets], size,
                drawing, "lower is better",
                f"Wasserstein distance of the volumes of {group} to the holdout's, in training deviations.",
            )
        )  # fmt: skip
        metrics.append(_effect_metric(f"volume_effect:{group}", f"volume of {group}", sets, drawing))
    return metrics


def volumes_of(figures: Sequence[Mapping[str, float]], group: str) -> Matrix:
    """(n,) measured volumes of a group, in mm3."""
    return _column(figures, f"{MEASURED_VOLUME}{group}")


def _wasserstein(unit: float) -> Statistic:
    def statistic(query: Matrix, reference: Matrix) -> float:
        return float(stats.wasserstein_distance(query[:, 0], reference[:, 0])) / max(unit, 1e-12)

    return statistic


def appearance_metrics(
    synthetic: Sequence[Mapping[str, float]],
    train: Sequence[Mapping[str, float]],
    holdout: Sequence[Mapping[str, float]],
    drawing: Drawing,
) -> list[Metric]:
    """Shifts of intensities and sharpness, which feature distances can miss in a blurred cohort."""
    return [
        _effect_metric(
            f"effect:{name}", name, [_column(figures, name) for figures in (synthetic, train, holdout)], drawing
        )
        for name in APPEARANCE
    ]


def _column(figures: Sequence[Mapping[str, float]], name: str) -> Matrix:
    return np.array([one[name] for one in figures], dtype=np.float64)


def _effect_metric(metric: str, what: str, sets: Sequence[Matrix], drawing: Drawing) -> Metric:
    synthetic, train, holdout = sets
    real = magnitude(_effect(holdout, train, drawing))
    return metric_of(
        metric, magnitude(_effect(synthetic, train, drawing)), "lower is better", floor=real.value,
        explanation=f"Shift of the mean {what} from the training set's, in pooled deviations (Cohen's d).",
    )  # fmt: skip


def _effect(query: Matrix, reference: Matrix, drawing: Drawing) -> Estimate:
    """Difference of means over the pooled deviation; the deviation is kept over the bootstrap."""
    pooled = np.sqrt((query.var(ddof=1) + reference.var(ddof=1)) / 2)
    unit = max(float(pooled), 1e-9 * max(1.0, float(np.abs(reference).max())))
    first = resample_weights(len(query), drawing.repeats, drawing.seed) @ query / len(query)
    second = resample_weights(len(reference), drawing.repeats, drawing.seed + 1) @ reference / len(reference)
    value = (query.mean() - reference.mean()) / unit
    return from_draws(value, (first - second) / unit, drawing.confidence, min(len(query), len(reference)))


def fidelity_metrics(
    requested: Sequence[Condition], measured: Sequence[Mapping[str, float]], contract: Contract, drawing: Drawing
) -> list[Metric]:
    """Requested against measured, for every condition that is the volume of a structure."""
    metrics = []
    for condition in contract.conditions:
        if not isinstance(condition, ContinuousCondition) or condition.group is None:
            continue
        asked = [request.get(condition.name) for request in requested]
        rows = [row for row, value in enumerate(asked) if isinstance(value, int | float)]
        found = volumes_of([measured[row] for row in rows], condition.group)
        wanted = np.array([asked[row] for row in rows], dtype=np.float64)
        result = fidelity(wanted, found, drawing.confidence, drawing.repeats, drawing.seed)
        metrics.append(
            metric_of(
                f"fidelity_r:{condition.name}", Estimate(result.r, result.low, result.high, result.n),
                "higher is better, up to 1",
                f"Correlation of requested and measured {condition.name} (slope {result.slope:.2f}, "
                f"mean error {result.mean_error:.4g} mm3).",
            )
        )  # fmt: skip
    return metrics
