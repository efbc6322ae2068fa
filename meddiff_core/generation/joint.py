"""Conditions like those of the training set, everywhere or in a part of it, and never those of a subject.

Every training row stands for a small cloud around itself (a smoothed bootstrap, Silverman & Young 1987).
Within a region a row counts by the share of its cloud that lies there, and the cloud is cut at the border:
the same distribution as rejection sampling of the region, without its cost. Where too few rows lie, the clouds of one
or two subjects would be all there is; there the region is sampled evenly.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ConditionValue, ContinuousCondition
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.region import Region

CATEGORY_SMOOTHING = 0.05
"""Probability that a category comes from its marginal instead of from its row."""
FEW = 10
"""Training rows that a region must hold to be sampled like them; a range narrower than a cloud is widened to one."""
TRIES = 100
NARROWEST = 1e-3
"""Width, in bandwidths, that a narrower range is given when its share of a cloud is measured: `[60, 60]` has none."""

Numbers = NDArray[np.float64]


class SmoothedJoint:
    """The smoothed joint distribution of training rows, within a region."""

    even: bool
    """Whether the region holds too few rows: what it bounds is sampled evenly, and the rest from any row."""

    def __init__(
        self, specs: Sequence[ConditionSpec], train: Sequence[Condition], region: Region | None = None
    ) -> None:
        self._specs, self._train, self._region = specs, train, region or Region()
        self._known = {spec.name: [row[spec.name] for row in train if row.get(spec.name) is not None] for spec in specs}
        self._marginals = {spec.name: self._marginal(spec.name) for spec in specs}
        self._continuous = sum(isinstance(spec, ContinuousCondition) for spec in specs)
        self.even = bool(self._region.names) and sum(map(self._surroundings().holds, train)) < FEW
        bounded = [spec for spec in specs if spec.name in self._region.names]
        self._weights = np.prod([self._masses(spec) for spec in bounded], axis=0) if bounded else np.ones(len(train))

    @property
    def probability(self) -> float:
        """Probability of the region under the smoothed joint distribution of all rows."""
        return float(self._weights.mean()) if len(self._train) else 0.0

    def sample(self, random: np.random.Generator) -> Condition:
        """A condition of the region that is no training row, unless all conditions are categorical.

        Raises:
            ConfigurationError: every condition sampled was one.
        """
        for _ in range(TRIES):
            row = self._train[self._row(random)] if self._train else {}
            sampled = {spec.name: self._value(row.get(spec.name), spec, random) for spec in self._specs}
            if sampled not in self._train or not self._continuous:
                return sampled
        raise ConfigurationError("cohort.like: every condition sampled was an exact training row; use distributions")

    def _row(self, random: np.random.Generator) -> int:
        if self.even or not self._region.names:
            return int(random.integers(len(self._train)))
        return int(random.choice(len(self._train), p=self._weights / self._weights.sum()))

    def _value(self, value: ConditionValue, spec: ConditionSpec, random: np.random.Generator) -> ConditionValue:
        if spec.name not in self._region.names:
            return self._free(value, spec, random)
        if isinstance(spec, CategoricalCondition):
            levels = self._region.categories[spec.name]
            odds = np.ones(len(levels)) if self.even else self._category_odds(value, spec)
            return levels[int(random.choice(len(levels), p=odds / odds.sum()))]
        low, high = self._region.ranges[spec.name]
        number = random.uniform(low, high) if self.even else self._number(value, spec, random)
        return significant(float(np.clip(number, low, high)), low, high)

    def _free(self, value: ConditionValue, spec: ConditionSpec, random: np.random.Generator) -> ConditionValue:
        known = self._known[spec.name]
        anew = isinstance(spec, CategoricalCondition) and random.random() < CATEGORY_SMOOTHING
        if value is None or anew:
            value = known[random.integers(len(known))]
        if isinstance(spec, CategoricalCondition) or isinstance(value, str) or value is None:
            return value
        blurred = _reflect(value + self._bandwidth(spec) * random.standard_normal(), spec.low, spec.high)
        return significant(blurred, spec.low, spec.high)

    def _number(self, value: ConditionValue, spec: ContinuousCondition, random: np.random.Generator) -> float:
        """A number from the cloud of `value` in the region's range, or from any row's cloud if it is not known."""
        centres = self._centres(spec, self._known[spec.name] if value is None else [value])
        odds = self._number_odds(spec, centres)
        centre = centres.flat[random.choice(centres.size, p=(odds / odds.sum()).ravel())]
        low, high = (ndtr((end - centre) / self._bandwidth(spec)) for end in self._widened(spec))
        return float(centre + self._bandwidth(spec) * ndtri(random.uniform(low, high)))

    def _masses(self, spec: ConditionSpec) -> Numbers:
        """(rows,) share of each row's cloud in the region, along one condition."""
        values = [row.get(spec.name) for row in self._train]
        if isinstance(spec, CategoricalCondition):
            return np.array([self._category_odds(value, spec).sum() for value in values])
        known = np.array([value is not None for value in values], dtype=bool)
        masses = np.zeros(len(values))
        if known.any():
            masses[known] = self._number_odds(spec, self._centres(spec, self._known[spec.name])).sum(axis=1)
            masses[~known] = masses[known].mean()
        return masses

    def _category_odds(self, value: ConditionValue, spec: CategoricalCondition) -> Numbers:
        """Probability of each category of the region, for a row with `value`."""
        marginal = self._marginals[spec.name]
        if value is None:
            return marginal
        own = np.array([float(level == value) for level in self._region.categories[spec.name]])
        return (1 - CATEGORY_SMOOTHING) * own + CATEGORY_SMOOTHING * marginal

    def _marginal(self, name: str) -> Numbers:
        known, levels = self._known[name], self._region.categories.get(name, ())
        return np.array([known.count(level) / max(len(known), 1) for level in levels])

    def _number_odds(self, spec: ContinuousCondition, centres: Numbers) -> Numbers:
        low, high = (ndtr((end - centres) / self._bandwidth(spec)) for end in self._widened(spec))
        return np.asarray(high - low)

    def _centres(self, spec: ContinuousCondition, values: Sequence[ConditionValue]) -> Numbers:
        """(values, images): a cloud folded at the ends of a range is the sum of those around its mirror images."""
        ends = self._region.ranges[spec.name]
        low, high = min(spec.low, ends[0]), max(spec.high, ends[1])
        turns = 2 * (high - low) * np.arange(-2, 3)
        column = np.array(values, dtype=float)[:, None]
        return np.concatenate([column + turns, 2 * low - column + turns], axis=1)

    def _widened(self, spec: ContinuousCondition, bandwidths: float = NARROWEST) -> tuple[float, float]:
        """The region's range, made at least so wide."""
        low, high = self._region.ranges[spec.name]
        missing = max(0.0, bandwidths * self._bandwidth(spec) - (high - low))
        return low - missing / 2, high + missing / 2

    def _surroundings(self) -> Region:
        """The region with ranges no narrower than a cloud, so that rows near a single number count as well."""
        bounded = [spec for spec in self._specs if spec.name in self._region.ranges]
        numbers = [spec for spec in bounded if isinstance(spec, ContinuousCondition)]
        return Region({spec.name: self._widened(spec, 2) for spec in numbers}, self._region.categories)

    def _bandwidth(self, spec: ContinuousCondition) -> float:
        count = max(len(self._known[spec.name]), 1)
        scott = spec.std * count ** (-1 / (self._continuous + 4))  # Scott's rule
        return float(max(scott, 1e-9 * (1 + abs(spec.low))))


def _reflect(value: float, low: float, high: float) -> float:
    """Fold a value that left the range back into it, so that no mass piles up at the ends."""
    if high <= low:
        return low
    position = (value - low) % (2 * (high - low))
    return low + min(position, 2 * (high - low) - position)


def significant(value: float, low: float, high: float) -> float:
    """A value to four digits, unless that leaves the range."""
    rounded = float(f"{value:.4g}")
    return rounded if low <= rounded <= high else value
