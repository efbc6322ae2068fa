"""How far one figure of synthetic volumes is from that of real ones: effect size and Wasserstein distance.

An effect is in deviations between volumes, so that a shift of the ventricles and one of the sharpness read alike.
Real volumes are resampled by subject: two scans of one person are not two people.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.evidence.gates import Metric, metric_of
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_resamples, magnitude, resample_weights
from meddiff_core.evidence.quality.comparison import LARGEST_SAMPLE
from meddiff_core.evidence.quality.distances import Statistic, estimate
from meddiff_core.evidence.section import Cell

RESOLUTION = 1e-3
"""Share of the mean that counts as a deviation at least: where nothing varies, any shift would be endless."""


@dataclass(frozen=True)
class Sample:
    """One figure of the volumes of a set."""

    values: Matrix
    """(n,)."""
    subjects: NDArray[np.intp]
    """(n,) whose volume each is, from 0."""


@dataclass(frozen=True)
class Comparison:
    """One figure of the cohort beside that of the real sets."""

    real: float
    """Mean over the training volumes."""
    synthetic: float
    effect: Estimate
    """Synthetic minus training mean, in pooled deviations (Cohen's d)."""
    effect_floor: Estimate
    """The same of the holdout."""
    distance: Estimate
    """Wasserstein distance to the holdout at equal sizes, in training deviations."""
    distance_floor: Estimate
    """The same of the training volumes."""


def compare(synthetic: Sample, train: Sample, holdout: Sample, bootstrap: Bootstrap) -> Comparison:
    """Everything of one figure."""
    sets = [sample.values[:, None] for sample in (synthetic, train, holdout)]
    size = min(*(len(values) // 2 for values in sets), LARGEST_SAMPLE)
    statistic = wasserstein(_unit(synthetic.values, train.values))
    return Comparison(
        real=float(train.values.mean()),
        synthetic=float(synthetic.values.mean()),
        effect=effect(synthetic, train, bootstrap),
        effect_floor=effect(holdout, train, bootstrap),
        distance=estimate(statistic, sets[0], sets[2], size, bootstrap),
        distance_floor=estimate(statistic, sets[1], sets[2], size, bootstrap),
    )


def wasserstein(unit: float) -> Statistic:
    """Distance of two sets of one figure (n, 1), over `unit`."""

    def statistic(query: Matrix, reference: Matrix) -> float:
        return float(stats.wasserstein_distance(query[:, 0], reference[:, 0])) / unit

    return statistic


def _unit(synthetic: Matrix, train: Matrix) -> float:
    """The training deviation; where there is none, the pooled one: a count of 1, 1, 1 beside 1, 1, 2."""
    deviation = float(train.std())
    if deviation <= RESOLUTION * abs(float(train.mean())):
        deviation = float(np.sqrt((synthetic.var() + train.var()) / 2))
    return _at_least(deviation, train)


def _at_least(deviation: float, values: Matrix) -> float:
    return max(deviation, RESOLUTION * abs(float(values.mean())), 1e-12)


def effect(query: Sample, reference: Sample, bootstrap: Bootstrap) -> Estimate:
    """Difference of means over the pooled deviation; both are drawn again for the interval.

    Deviations of drawn sets scatter, which moves draws away from 0: they are put back around the value.
    """
    sides = ((query, bootstrap.seed), (reference, bootstrap.seed + 1))
    first, second = (_moments(one, resample_weights(_people(one), bootstrap.repeats, seed)) for one, seed in sides)
    draws = _cohens_d(first, second, reference.values)
    first, second = (_moments(one, np.ones((1, _people(one)))) for one, _ in sides)
    value = _cohens_d(first, second, reference.values)
    around = value[0] + draws - np.median(draws)
    return from_resamples(float(value[0]), around, bootstrap.confidence, min(_people(query), _people(reference)))


def _people(sample: Sample) -> int:
    return int(sample.subjects.max()) + 1


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


def effect_metric(name: str, what: str, found: Comparison) -> Metric:
    """Size of the effect, whichever way it goes."""
    return metric_of(
        name, magnitude(found.effect), "lower is better", floor=magnitude(found.effect_floor).value,
        explanation=f"Shift of the mean {what} from the training set's, in pooled deviations (Cohen's d); the floor is "
        "that of the holdout.",
    )  # fmt: skip


COLUMNS = (
    "Real mean", "Synthetic mean", "Effect", "Interval", "Floor of effect", "Its interval",
    "Wasserstein", "Interval of it", "Floor of it",
)  # fmt: skip
"""Headings of `cells`."""
READING = (
    "Effect: synthetic minus training mean in pooled deviations (Cohen's d); its floor is that of the holdout. "
    "Wasserstein: distance to the holdout at equal sizes, in training deviations; its floor is that of the training "
    "volumes."
)


def cells(found: Comparison) -> tuple[Cell, ...]:
    """A comparison as cells of a table."""
    return (
        short(found.real), short(found.synthetic),
        short(found.effect.value), span(found.effect), short(found.effect_floor.value), span(found.effect_floor),
        short(found.distance.value), span(found.distance), short(found.distance_floor.value),
    )  # fmt: skip


def short(value: float, digits: int = 3) -> float:
    """A figure as a table shows it."""
    return float(f"{value:.{digits}g}")


def span(found: Estimate, digits: int = 3) -> str:
    """An interval as a table shows it."""
    return f"{short(found.low, digits):g} to {short(found.high, digits):g}"
