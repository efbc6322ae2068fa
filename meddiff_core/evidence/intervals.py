"""A figure and its confidence interval.

No figure of the audit travels without the interval and the number of volumes behind it: a gate reads the
bound that hurts, and a small study must not pass because its value happened to be good.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value, the bounds of its interval, and the number of independent items behind it."""

    value: float
    low: float
    high: float
    n: int

    @property
    def figures(self) -> tuple[float, float, float]:
        """Value and bounds."""
        return self.value, self.low, self.high

    @property
    def holding_value(self) -> "Estimate":
        """The same with an interval that holds the value, as that of resamples need not."""
        return Estimate(self.value, min(self.value, self.low), max(self.value, self.high), self.n)

    def through(self, rising: Callable[[float], float]) -> "Estimate":
        """The estimate of a figure that rises with this one."""
        return Estimate(rising(self.value), rising(self.low), rising(self.high), self.n)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are resampled."""

    repeats: int
    """Resamples of each figure."""
    confidence: float
    """Of every interval, also of those that are exact."""
    seed: int


def from_resamples(value: float, resamples: Matrix, confidence: float, n: int) -> Estimate:
    """An estimate whose interval is the central `confidence` share of what its resamples give."""
    low, high = np.quantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(value), float(low), float(high), n)


def from_count(count: float, n: int, confidence: float) -> Estimate:
    """A share with its exact interval (Clopper and Pearson 1934): 0 of n still leaves about 3 / n open.

    `count` may be a fraction where n counts subjects and some of them have several volumes; scipy's `binomtest` takes
    whole counts alone.
    """
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, count, n - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(1 - tail, count + 1, n - count) if count < n else 1.0
    return Estimate(count / n, float(low), float(high), n)


def from_flags(flags: NDArray[np.bool_], confidence: float) -> Estimate:
    """The share of items that are flagged, with its exact interval."""
    return from_count(int(flags.sum()), len(flags), confidence)


def magnitude(signed: Estimate) -> Estimate:
    """The estimate of |x| from that of x: its low bound is 0 where the interval of x holds 0."""
    near, far = sorted((abs(signed.low), abs(signed.high)))
    low = 0.0 if signed.low <= 0 <= signed.high else near
    return Estimate(abs(signed.value), low, far, signed.n)


def resample_weights(n: int, repeats: int, seed: int) -> Matrix:
    """(repeats, n): how often each of n items is in each bootstrap sample."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats)
    return counts.astype(np.float64)
