"""Figures of repeated trainings on the same test subjects, with intervals that hold both sources of chance.

A training with another seed gives another network, and other subjects another test. Each bootstrap sample resamples
both (crossed, Owen 2007); an interval over the subjects alone would call the luck of one training an improvement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_resamples, resample_weights
from meddiff_core.models.randomness import derive_seed

Score = Callable[[Matrix], Matrix]
"""From how often each test subject counts (repeats, n) to a training's figure in each bootstrap sample (repeats,).

scikit-learn has these figures for one sample at a time, which is slow for thousands.
"""
SMALLEST = 1e-9
"""What a figure is divided by at least."""


def mean_score(values: Matrix) -> Score:
    """The mean of one value per subject (n,), over those for whom it is not NaN."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def score(weights: Matrix) -> Matrix:
        return _quotient(weights @ filled, weights @ known.astype(np.float64))

    return score


def explained_score(predicted: Matrix, truth: Matrix) -> Score:
    """R2 of predictions (n,): 1 is exact, 0 no better than the mean of the test set, below 0 worse."""
    squares, errors = truth**2, (predicted - truth) ** 2

    def score(weights: Matrix) -> Matrix:
        total = weights.sum(1)
        spread = weights @ squares - (weights @ truth) ** 2 / total
        return 1 - _quotient(weights @ errors, np.where(spread > SMALLEST * total, spread, 0.0))

    return score


def accuracy_score(decisions: Matrix, belongs: NDArray[np.bool_]) -> Score:
    """Balanced accuracy of the surest class: the mean over classes of how many of it are found. As `ranking_score`."""
    hits = (decisions.argmax(1)[:, None] == np.arange(decisions.shape[1])) & belongs

    def score(weights: Matrix) -> Matrix:
        found = _quotient(weights @ hits.astype(np.float64), weights @ belongs.astype(np.float64))
        return np.asarray(found.mean(1), dtype=np.float64)

    return score


def ranking_score(decisions: Matrix, belongs: NDArray[np.bool_]) -> Score:
    """Area under the ROC curve, the mean over classes against the rest; 0.5 is chance.

    `decisions` and `belongs` are (n, classes): how sure the predictor is of a class, and whether it is the true one.
    """
    wins = [_wins(column, member) for column, member in zip(decisions.T, belongs.T, strict=True)]

    def score(weights: Matrix) -> Matrix:
        areas = []
        for won, member in zip(wins, belongs.T, strict=True):
            inside, outside = weights[:, member], weights[:, ~member]
            areas.append(_quotient(((inside @ won) * outside).sum(1), inside.sum(1) * outside.sum(1)))
        return np.asarray(np.mean(areas, axis=0), dtype=np.float64)

    return score


def _wins(decision: Matrix, member: NDArray[np.bool_]) -> Matrix:
    """(members, others): 1 where the member is ranked higher, 1/2 for a tie."""
    ahead = decision[member][:, None] - decision[~member][None, :]
    return np.asarray((np.sign(ahead) + 1) / 2, dtype=np.float64)


def _quotient(above: Matrix, below: Matrix) -> Matrix:
    """NaN where a sample holds nobody for whom the figure is defined."""
    return np.where(below > 0, above / np.maximum(below, SMALLEST), np.nan)


@dataclass(frozen=True)
class Outcome:
    """A figure, and what it is in each bootstrap sample; samples of the same subjects in every arm."""

    value: float
    resamples: Matrix
    """(repeats,)."""
    subjects: int

    def estimate(self, confidence: float) -> Estimate:
        """With its interval; samples in which it is not defined are left out."""
        known = self.resamples[np.isfinite(self.resamples)]
        return from_resamples(self.value, known if known.size else np.full(1, self.value), confidence, self.subjects)

    def minus(self, other: "Outcome") -> "Outcome":
        """The paired difference."""
        return Outcome(self.value - other.value, self.resamples - other.resamples, self.subjects)

    def over(self, other: "Outcome") -> "Outcome":
        """The paired ratio."""
        value = self.value / max(other.value, SMALLEST)
        return Outcome(value, self.resamples / np.maximum(other.resamples, SMALLEST), self.subjects)


def outcome(arm: str, scores: Sequence[Score], subjects: int, bootstrap: Bootstrap) -> Outcome:
    """The mean over trainings of an arm, one per seed, and its bootstrap samples over test subjects and seeds.

    The same `bootstrap.seed` resamples the same subjects for every arm, so that differences between arms are paired.
    """
    weights = [np.ones((1, subjects)), resample_weights(subjects, bootstrap.repeats, bootstrap.seed)]
    found = np.stack([score(np.concatenate(weights)) for score in scores], axis=1)
    seeds = _seed_weights(len(scores), bootstrap.repeats, derive_seed(bootstrap.seed, "seeds", arm))
    return Outcome(float(found[0].mean()), (found[1:] * seeds).sum(1), subjects)


def _seed_weights(count: int, repeats: int, seed: int) -> Matrix:
    """(repeats, count) that sum to 1. Plain resampling of K seeds shows only (K - 1) / K of their variance, a third
    too little for 3: differences are enlarged for that (Rao and Wu 1988). One seed shows nothing of it."""
    if count == 1:
        return np.ones((repeats, 1))
    shares = resample_weights(count, repeats, seed) / count
    return np.asarray(1 / count + (shares - 1 / count) * (count / (count - 1)) ** 0.5, dtype=np.float64)
