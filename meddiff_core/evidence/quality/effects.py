"""How far one figure of synthetic volumes is from that of real ones: effect size and Wasserstein distance.

An effect is in standard deviations between volumes, so that a shift of the ventricles and one of the sharpness read
alike. Real volumes are resampled by subject: two scans of one subject are not two subjects.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_resamples, magnitude, resample_weights
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.quality.comparison import LARGEST_SAMPLE
from meddiff_core.evidence.quality.distances import Sides, Statistic, beside_real
from meddiff_core.evidence.section import Cell

RESOLUTION = 1e-3
"""Share of the mean that a standard deviation is at least: where nothing varies, any shift would be endless."""


@dataclass(frozen=True)
class Sample:
    """One figure of the volumes of a set."""

    values: Matrix
    """(n,)."""
    subjects: NDArray[np.intp]
    """(n,) whose volume each is, from 0."""

    @property
    def count(self) -> int:
        """Subjects."""
        return int(self.subjects.max()) + 1


@dataclass(frozen=True)
class Comparison:
    """One figure of the cohort beside that of the real sets."""

    real: float
    """Mean over the training volumes."""
    synthetic: float
    effect: Estimate
    """Synthetic minus training mean, in pooled standard deviations (Cohen's d)."""
    effect_reference: Estimate
    """The same of the holdout."""
    distance: Estimate
    """Wasserstein distance to the holdout at equal sizes, in standard deviations of the training set."""
    distance_reference: Estimate
    """The same of the training volumes."""


def compare(sides: Sides[Sample], bootstrap: Bootstrap) -> Comparison:
    """Everything of one figure."""
    synthetic, train, holdout = sides
    values = sides.each(lambda sample: sample.values[:, None])
    size = min(min(map(len, values)) // 2, LARGEST_SAMPLE)
    distance, reference = beside_real(wasserstein(_unit(synthetic.values, train.values)), values, size, bootstrap)
    return Comparison(
        real=float(train.values.mean()),
        synthetic=float(synthetic.values.mean()),
        effect=effect(synthetic, train, bootstrap),
        effect_reference=effect(holdout, train, bootstrap),
        distance=distance,
        distance_reference=reference,
    )


def wasserstein(unit: float) -> Statistic:
    """Distance of two sets of one figure (n, 1), over `unit`."""

    def statistic(query: Matrix, reference: Matrix) -> float:
        return float(stats.wasserstein_distance(query[:, 0], reference[:, 0])) / unit

    return statistic


def _unit(synthetic: Matrix, train: Matrix) -> float:
    """The standard deviation of training; where it is 0, the pooled one: a count of 1, 1, 1 beside 1, 1, 2."""
    std = float(train.std())
    if std <= RESOLUTION * abs(float(train.mean())):
        std = float(np.sqrt((synthetic.var() + train.var()) / 2))
    return _at_least(std, train)


def _at_least(std: float, values: Matrix) -> float:
    return max(std, RESOLUTION * abs(float(values.mean())), 1e-12)


def effect(query: Sample, reference: Sample, bootstrap: Bootstrap) -> Estimate:
    """Difference of means over the pooled standard deviation, with a bootstrap interval over both sets.

    Standard deviations of resampled sets scatter, which moves resamples away from 0: they are put back around the
    value.
    """
    counts = query.count, reference.count
    first, second = (
        # the first row is the sample itself
        _moments(one, np.concatenate([np.ones((1, n)), resample_weights(n, bootstrap.repeats, bootstrap.seed + side)]))
        for side, (one, n) in enumerate(zip((query, reference), counts, strict=True))
    )
    value, *resamples = _cohens_d(first, second, reference.values)
    around = value + np.array(resamples) - np.median(resamples)
    return from_resamples(value, around, bootstrap.confidence, min(counts))


def _moments(sample: Sample, weights: Matrix) -> tuple[Matrix, Matrix]:
    """Means and unbiased variances (repeats,) under weights per subject (repeats, subjects)."""
    of_volumes = weights[:, sample.subjects]
    total = of_volumes.sum(1)
    means = of_volumes @ sample.values / total
    squares = (of_volumes * np.square(sample.values - means[:, None])).sum(1)
    return means, squares / np.maximum(total - 1, 1)


def _cohens_d(query: tuple[Matrix, Matrix], reference: tuple[Matrix, Matrix], values: Matrix) -> Matrix:
    pooled = np.sqrt((query[1] + reference[1]) / 2)
    return (query[0] - reference[0]) / np.maximum(pooled, _at_least(0.0, values))


def effect_metric(spec: MetricSpec, what: str, found: Comparison, detail: str = "") -> Metric:
    """Size of the effect, whichever way it goes."""
    words = f"Shift of the mean {what} from the training set's, in pooled standard deviations (Cohen's d)."
    return metric_of(spec, magnitude(found.effect), words, detail, magnitude(found.effect_reference).value)


COLUMNS = (
    "Real mean", "Synthetic mean", "Effect", "Interval", "Reference of effect", "Its interval",
    "Wasserstein", "Interval of it", "Reference of it",
)  # fmt: skip
"""Headings of `cells`."""
READING = (
    "Effect: synthetic minus training mean in pooled standard deviations (Cohen's d); its reference is that of the "
    "holdout. Wasserstein: distance to the holdout at equal sizes, in standard deviations of training; its reference "
    "is that of the training volumes."
)


def cells(found: Comparison) -> tuple[Cell, ...]:
    """A comparison as cells of a table."""
    return (
        short(found.real), short(found.synthetic),
        short(found.effect.value), span(found.effect),
        short(found.effect_reference.value), span(found.effect_reference),
        short(found.distance.value), span(found.distance), short(found.distance_reference.value),
    )  # fmt: skip


def short(value: float, digits: int = 3) -> float:
    """A figure as a table shows it."""
    return float(f"{value:.{digits}g}")


def span(found: Estimate, digits: int = 3) -> str:
    """An interval as a table shows it."""
    return f"{short(found.low, digits):g} to {short(found.high, digits):g}"
