"""Whether synthetic volumes are copies of training volumes.

A distance by itself says nothing, so each is compared with what fresh real volumes of the holdout show
against the same training set: same roles, same sizes. (Taking the null the other way round, from training to
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
    name="copies_share", part="privacy", privacy=True, better="lower", reference="the share of fresh real volumes"
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
class CopyResult:
    """What the copy test found."""

    threshold: float
    """Scores below it are flagged."""
    expected: float
    """Share that is flagged among fresh volumes of the real distribution."""
    flagged: NDArray[np.int64]
    """Rows below the threshold."""
    share: Estimate
    """Flagged share."""
    excess: Estimate
    """Flagged share beyond the expected one."""


def rank_of(null_size: int, alpha: float) -> int:
    """k = floor(alpha (n + 1)), at least 1."""
    return max(1, int(alpha * (null_size + 1) + 1e-9))


def expected_share(null_size: int, alpha: float) -> float:
    """Mean share of fresh volumes below the threshold: k / (n + 1)."""
    return rank_of(null_size, alpha) / (null_size + 1)


def copy_threshold(null: Matrix, alpha: float) -> float:
    """The k-th lowest of n null scores, k = floor(alpha (n + 1)), at least 1.

    Fresh volumes fall below it with exactly the probability k / (n + 1), whatever the distribution (conformal
    prediction, Vovk et al. 2005). With 20 volumes an alpha of 0.05 is met by the lowest score; less cannot be
    tested.
    """
    return float(np.sort(null)[rank_of(len(null), alpha) - 1])


def copy_test(query: Matrix, null: Matrix, alpha: float, bootstrap: Bootstrap) -> CopyResult:
    """Flag queries that are nearer to the training set than fresh volumes are.

    `query` and `null` (holdout, one volume per subject) are scores, or distances, against the same training set.
    """
    threshold = copy_threshold(null, alpha)
    flagged = np.flatnonzero(query < threshold)
    share = from_count(len(flagged), len(query), bootstrap.confidence)
    excess = excess_of(len(flagged), len(query), len(null), alpha, bootstrap)
    return CopyResult(threshold, expected_share(len(null), alpha), flagged, share, excess)


def excess_of(count: int, n: int, null_size: int, alpha: float, bootstrap: Bootstrap) -> Estimate:
    """Flagged share of `count` in n beyond the expected one.

    The interval holds both uncertainties exactly: the flagged count is binomial, and the share of fresh volumes
    below the k-th of the null scores follows Beta(k, null_size + 1 - k). A bootstrap would give a width of 0 to 0
    flags.
    """
    rank = rank_of(null_size, alpha)
    fresh = np.random.default_rng([bootstrap.seed, 0]).beta(rank, null_size + 1 - rank, SAMPLES)
    low, high = _excess_bounds(count, n, fresh, bootstrap)
    return Estimate(count / n - expected_share(null_size, alpha), low, high, n)


def excess_metric(excess: Estimate) -> Metric:
    """The metric that the gate on copies reads."""
    words = "Flagged share beyond that of fresh real volumes, which the holdout stands for."
    return metric_of(COPIES_EXCESS, excess, words, reference=0.0)


def _excess_bounds(count: int, n: int, fresh: Matrix, bootstrap: Bootstrap) -> tuple[float, float]:
    """Interval of (flagged share) - (share of fresh volumes), from the exact distributions of both."""
    rng = np.random.default_rng([bootstrap.seed, 1])
    lowest = rng.beta(count, n - count + 1, SAMPLES) if count > 0 else 0.0
    highest = rng.beta(count + 1, n - count, SAMPLES) if count < n else 1.0
    low = np.quantile(lowest - fresh, (1 - bootstrap.confidence) / 2)
    high = np.quantile(highest - fresh, (1 + bootstrap.confidence) / 2)
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


def false_alarms(scores: Matrix, alpha: float, bootstrap: Bootstrap) -> Estimate:
    """Flagged share when real holdout volumes play the synthetic ones: one random half tested against the other."""
    half = len(scores) // 2
    rng = np.random.default_rng(bootstrap.seed)
    shares = []
    for _ in range(bootstrap.repeats):
        order = rng.permutation(scores)
        shares.append(float((order[half:] < copy_threshold(order[:half], alpha)).mean()))
    return from_resamples(float(np.mean(shares)), np.array(shares), bootstrap.confidence, len(scores))
