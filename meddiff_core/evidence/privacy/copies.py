"""Whether synthetic volumes are copies of training volumes.

A distance by itself says nothing, so each is compared with what fresh real volumes, of holdout and validation, show
against the same training set, and with what planted copies show. (Taking the null the other way round, from training to
holdout, flags 18% of volumes where 5% are meant.) Passing is necessary for a release, not a proof of anonymity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_count, from_resamples, resample_weights
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.neighbours import Neighbours

COPIES_SHARE = MetricSpec(
    name="copies_share", part="privacy", privacy=True, better="lower", reference="the most that fresh real volumes show"
)
COPIES_EXCESS = MetricSpec(
    name="copies_excess",
    part="privacy",
    privacy=True,
    better="lower",
    reference="that of fresh real volumes",
    failure="more volumes resemble training volumes than chance explains, or too few were looked at to tell",
)
COPY_FALSE_ALARMS = MetricSpec(
    name="copy_false_alarms", part="privacy", privacy=True, better="lower", reference="the share that is expected"
)
CLOSER_TO_TRAIN = MetricSpec(
    name="closer_to_train",
    part="privacy",
    privacy=True,
    better="nearer",
    reference="no difference",
    detail="feature space",
)
METRICS = (COPIES_SHARE, COPIES_EXCESS, COPY_FALSE_ALARMS, CLOSER_TO_TRAIN)
ALPHA = 0.05
"""Share of fresh volumes that the copy test may flag."""
ABOVE_COPIES = 1 / 3
"""Where a threshold lies on the way from the highest score of planted copies up to the lowest of fresh volumes."""
SAMPLES = 20_000
"""Of the distributions of both shares."""


def combined_score(views: Sequence[Neighbours], typical: Sequence[float]) -> tuple[Matrix, NDArray[np.int64]]:
    """(n,) the lowest score of any view and (n,) the reference row it names.

    Scores are taken relative to `typical`, the median of each view between training volumes, which no query has
    influenced. One score per volume keeps one exact false alarm rate, however many views there are.
    """
    scores = np.stack([view.score / max(median, 1e-12) for view, median in zip(views, typical, strict=True)])
    winner = scores.argmin(0)
    columns = np.arange(scores.shape[1])
    return scores[winner, columns], np.stack([view.index for view in views])[winner, columns]


@dataclass(frozen=True)
class NullRank:
    """Where a threshold lies among n null scores, which tells what share of fresh volumes is below it."""

    size: int
    """Null scores."""
    rank: int
    """Of the null score that the threshold does not exceed; 1 is the lowest."""
    fraction: float = 1.0
    """Threshold over that score. At 1 the share of fresh volumes follows Beta(rank, size + 1 - rank) exactly, whatever
    the distribution of scores (conformal prediction, Vovk et al. 2005); below 1 it is smaller.
    """

    @property
    def is_exact(self) -> bool:
        """Whether the threshold is the null score itself."""
        return self.fraction == 1

    @property
    def highest_share(self) -> float:
        """Mean share of fresh volumes below the null score: k / (n + 1)."""
        return self.rank / (self.size + 1)

    @property
    def counted_share(self) -> float:
        """Share of fresh volumes that is taken off the flagged share: none where it is not known exactly."""
        return self.highest_share if self.is_exact else 0.0

    def shares(self, seed: int) -> Matrix:
        """(SAMPLES,) from the distribution of the share of fresh volumes below the null score."""
        rng = np.random.default_rng([seed, 0])
        return np.asarray(rng.beta(self.rank, self.size + 1 - self.rank, SAMPLES))


@dataclass(frozen=True)
class CopyThreshold:
    """Below which score a volume is flagged."""

    value: float
    null: NullRank


@dataclass(frozen=True)
class CopyResult:
    """What the copy test found."""

    threshold: CopyThreshold
    flagged: NDArray[np.int64]
    """Rows below the threshold."""
    share: Estimate
    """Flagged share."""
    excess: Estimate
    """Flagged share beyond the expected one."""


def rank_of(null_size: int, alpha: float) -> int:
    """k = floor(alpha (n + 1)), at least 1."""
    return max(1, int(alpha * (null_size + 1) + 1e-9))


def copy_threshold(null: Matrix, planted: Matrix, alpha: float = ALPHA) -> CopyThreshold:
    """Between the scores of planted copies and of fresh volumes (the null) where that loses no copy; else on the null.

    On the null it is the k-th lowest of n scores, k = floor(alpha (n + 1)), at least 1: with few volumes the share of
    fresh ones below it varies so much that one honest cohort in five is blocked. Where all planted copies that it
    catches score below every fresh volume, a lower one catches them as well.
    """
    fresh, level = np.sort(null), level_of(len(null), alpha)
    on_null = float(fresh[level.rank - 1])
    highest, lowest = float(highest_caught(planted, np.array([on_null]))[0]), float(fresh[0])
    if highest >= lowest:
        return CopyThreshold(on_null, level)
    value = highest + ABOVE_COPIES * (lowest - highest)
    return CopyThreshold(value, NullRank(len(null), 1, value / lowest))


def highest_caught(planted: Matrix, thresholds: Matrix) -> Matrix:
    """(t,) the highest score of planted copies (m,) below each threshold; infinite where there is none."""
    scores = np.concatenate([[np.inf], np.sort(planted)])
    return np.asarray(scores[np.searchsorted(scores[1:], thresholds)])


def level_of(null_size: int, alpha: float = ALPHA) -> NullRank:
    """Of a threshold that is a null score itself."""
    return NullRank(null_size, rank_of(null_size, alpha))


def copy_test(query: Matrix, threshold: CopyThreshold, bootstrap: Bootstrap) -> CopyResult:
    """Flag queries (n,) whose scores, or distances, against the training set are below a threshold."""
    flagged = np.flatnonzero(query < threshold.value)
    share = from_count(len(flagged), len(query), bootstrap.confidence)
    return CopyResult(threshold, flagged, share, excess_of(len(flagged), len(query), threshold.null, bootstrap))


def excess_of(count: int, n: int, null: NullRank, bootstrap: Bootstrap) -> Estimate:
    """Flagged share of `count` in n beyond that of fresh volumes.

    The interval holds both uncertainties: the flagged count is binomial, and the share of fresh volumes is that of
    `NullRank`. Where that is an upper limit alone, the low bound takes off as much and the high bound nothing: both
    hold whatever the distribution. A bootstrap would give a width of 0 to 0 flags.
    """
    low, high = _excess_bounds(count, n, null, bootstrap)
    return Estimate(count / n - null.counted_share, low, high, n)


def excess_metric(excess: Estimate) -> Metric:
    """The metric that the gate on copies reads."""
    words = "Flagged share beyond that of fresh real volumes, for which holdout and validation stand."
    return metric_of(COPIES_EXCESS, excess, words, reference=0.0)


def _excess_bounds(count: int, n: int, null: NullRank, bootstrap: Bootstrap) -> tuple[float, float]:
    """Interval of (flagged share) - (share of fresh volumes), from the exact distributions of both."""
    rng, fresh = np.random.default_rng([bootstrap.seed, 1]), null.shares(bootstrap.seed)
    lowest = rng.beta(count, n - count + 1, SAMPLES) if count > 0 else 0.0
    highest = rng.beta(count + 1, n - count, SAMPLES) if count < n else 1.0
    low = np.quantile(lowest - fresh, (1 - bootstrap.confidence) / 2)
    high = np.quantile(highest - (fresh if null.is_exact else np.zeros(SAMPLES)), (1 + bootstrap.confidence) / 2)
    return float(low), float(high)


def closer_to_train(
    to_train: Neighbours,
    to_holdout: Neighbours,
    train: NDArray[np.int64],
    holdout: NDArray[np.int64],
    bootstrap: Bootstrap,
) -> Estimate:
    """How much more a training volume attracts synthetic volumes than a holdout volume does.

    t / (t + h) of the mean number of synthetic volumes that have a training (t) or a holdout (h) volume as their
    nearest real one: 0.5 if there is no difference, 1 if nothing is nearest to the holdout, whatever the sizes.
    (Comparing with training subsets of the holdout's size misses the copied volume mostly: a generator of pure
    copies would reach only 0.5 + holdout / (2 train).) Ties count half. The interval resamples real subjects:
    `train` and `holdout` number the subject of each volume, as by `numbered`.
    """
    nearer = np.sign(to_holdout.distance - to_train.distance) / 2 + 0.5
    attracted_by_train = np.asarray(np.bincount(to_train.index, weights=nearer, minlength=len(train)), np.float64)
    attracted_by_holdout = np.asarray(
        np.bincount(to_holdout.index, weights=1 - nearer, minlength=len(holdout)), np.float64
    )
    t = _means_by_subject(attracted_by_train, train, bootstrap.repeats, bootstrap.seed)
    h = _means_by_subject(attracted_by_holdout, holdout, bootstrap.repeats, bootstrap.seed + 1)
    share = attracted_by_train.mean() / (attracted_by_train.mean() + attracted_by_holdout.mean())
    return from_resamples(share, t / np.maximum(t + h, 1e-12), bootstrap.confidence, len(nearer))


def _means_by_subject(values: Matrix, subjects: NDArray[np.int64], repeats: int, seed: int) -> Matrix:
    """(repeats,) bootstrap means of values (n,) when whole subjects are resampled."""
    sums, counts = np.bincount(subjects, weights=values), np.bincount(subjects)
    weights = resample_weights(len(counts), repeats, seed)
    return np.asarray(weights @ sums / np.maximum(weights @ counts, 1e-12))


def false_alarms(scores: Matrix, planted: Matrix, bootstrap: Bootstrap) -> Estimate:
    """Flagged share when real volumes play the synthetic ones: one random half tested against the other."""
    half = len(scores) // 2
    rng = np.random.default_rng(bootstrap.seed)
    shares = []
    for _ in range(bootstrap.repeats):
        order = rng.permutation(scores)
        shares.append(float((order[half:] < copy_threshold(order[:half], planted).value).mean()))
    return from_resamples(float(np.mean(shares)), np.array(shares), bootstrap.confidence, len(scores))
