"""Whether synthetic volumes are copies of training volumes.

A distance by itself says nothing, so each is compared with what fresh real volumes of the holdout show
against the same training set: same roles, same sizes. (Taking the null the other way round, from training to
holdout, flags 18% of volumes where 5% are meant.) Passing is necessary for a release, not a proof of anonymity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.evidence.features.pooling import cell_sides
from meddiff_core.evidence.intervals import Estimate, Matrix, from_count, from_draws, resample_weights
from meddiff_core.evidence.neighbours import Neighbours, to_length_one
from meddiff_core.types import FloatArray, StoredArray, Volumes

ALPHA = 0.05
"""Share of fresh volumes that the copy test may flag."""
FINE_SIDE = 48
"""Longest side in voxels of the grid on which shifts are tried."""
KEY_SIDE = 12
"""Longest side of the still coarser grid whose cells are the numbers of a key."""
DRAWS = 20_000
"""Of the distributions of both shares."""
Sides = tuple[int, int, int]
STEPS = (0, -1, 1)
"""Shifts that are tried along each axis, in voxels of that grid."""
SMOOTHING = 1.0
"""Standard deviation in voxels of that grid of the Gaussian that shows what smoothing does to a key."""


def voxel_key(image: StoredArray, contract: Contract) -> FloatArray:
    """(p,) the volume at very low resolution, with mean 0 and length 1, so that gain and offset do not matter."""
    return np.asarray(_keys_at(image, contract, STEPS[:1])[0])


def voxel_keys(image: StoredArray, contract: Contract) -> FloatArray:
    """(54, p) keys of a volume in all disguises that are looked through: left-right flip and small shifts.

    Row 0 is `voxel_key`. Shifts are of one voxel of a grid with sides of at most 48, and pooling comes after: one
    voxel already hides a brain whose neighbours are aligned to it.
    """
    return np.concatenate([_keys_at(view, contract, STEPS) for view in (image, image[::-1])])


def keys_of(volumes: Volumes, contract: Contract) -> FloatArray:
    """(n, p) `voxel_key` of every volume."""
    return np.stack([voxel_key(volumes.image(index), contract) for index in range(len(volumes))])


def smoothed_keys_of(volumes: Volumes, contract: Contract) -> FloatArray:
    """(n, p) `voxel_key` of every volume after smoothing."""
    keys = [_keys_at(volumes.image(index), contract, STEPS[:1], SMOOTHING) for index in range(len(volumes))]
    return np.concatenate(keys)


def all_keys_of(volumes: Volumes, contract: Contract) -> FloatArray:
    """(n, variants, p) `voxel_keys` of every volume."""
    return np.stack([voxel_keys(volumes.image(index), contract) for index in range(len(volumes))])


def key_grid(contract: Contract) -> tuple[int, int, int]:
    """Cells of a key along i, j, k; a key holds them in C order."""
    to_fine, to_key = _factors(contract)
    i, j, k = _sides_of(_sides_of(contract.size, to_fine), to_key)
    return i, j, k


def _factors(contract: Contract) -> tuple[Sides, Sides]:
    """Voxels per fine voxel, and fine voxels per cell of a key, along each axis."""
    to_fine = cell_sides(contract.size, contract.spacing_mm, FINE_SIDE)
    spacing = [length * factor for length, factor in zip(contract.spacing_mm, to_fine, strict=True)]
    return to_fine, cell_sides(_sides_of(contract.size, to_fine), spacing, KEY_SIDE)


def _sides_of(sides: Sequence[int], factors: Sides) -> list[int]:
    """In cells, the last of which may be in part beyond the volume."""
    return [-(-side // factor) for side, factor in zip(sides, factors, strict=True)]


def _keys_at(image: StoredArray, contract: Contract, steps: Sequence[int], smoothing: float = 0.0) -> FloatArray:
    """(len(steps)^3, p) keys at all shifts; pooling axis by axis shares the work between them."""
    to_fine, to_key = _factors(contract)
    views = _pad_to(image.astype(np.float32), to_fine)
    for axis, factor in enumerate(to_fine):
        views = _average(views, axis, factor)
    if smoothing:
        views = ndimage.gaussian_filter(views, smoothing, mode="nearest")
    views = np.pad(_pad_to(views, to_key), 1)[None]
    for axis, factor in enumerate(to_key, start=1):
        inner = views.shape[axis] - 2
        shifted = [np.take(views, range(1 + step, 1 + step + inner), axis) for step in steps]
        views = _average(np.concatenate(shifted), axis, factor)
    keys = views.reshape(len(views), -1)
    return to_length_one(keys - keys.mean(1, keepdims=True))


def _pad_to(volume: FloatArray, multiples: Sides) -> FloatArray:
    """Zeros on both sides, as evenly as can be, up to a multiple along each axis."""
    missing = [-side % multiple for side, multiple in zip(volume.shape, multiples, strict=True)]
    return np.asarray(np.pad(volume, [(gap // 2, gap - gap // 2) for gap in missing]))


def _average(volume: FloatArray, axis: int, factor: int) -> FloatArray:
    shape = (*volume.shape[:axis], volume.shape[axis] // factor, factor, *volume.shape[axis + 1 :])
    return np.asarray(volume.reshape(shape).mean(axis + 1), dtype=np.float32)


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


def copy_test(query: Matrix, null: Matrix, alpha: float = 0.05, confidence: float = 0.95, seed: int = 0) -> CopyResult:
    """Flag queries that are nearer to the training set than fresh volumes are.

    `query` and `null` (holdout, one volume per subject) are scores, or distances, against the same training set.
    """
    threshold = copy_threshold(null, alpha)
    flagged = np.flatnonzero(query < threshold)
    share = from_count(len(flagged), len(query), confidence)
    excess = excess_of(len(flagged), len(query), len(null), alpha, confidence, seed)
    return CopyResult(threshold, expected_share(len(null), alpha), flagged, share, excess)


def excess_of(count: int, n: int, null_size: int, alpha: float, confidence: float, seed: int) -> Estimate:
    """Flagged share of `count` in n beyond the expected one.

    The interval holds both uncertainties exactly: the flagged count is binomial, and the share of fresh volumes
    below the k-th of the null scores follows Beta(k, null_size + 1 - k). A bootstrap would give a width of 0 to 0
    flags.
    """
    rank = rank_of(null_size, alpha)
    fresh = np.random.default_rng([seed, 0]).beta(rank, null_size + 1 - rank, DRAWS)
    low, high = _excess_bounds(count, n, fresh, confidence, seed)
    return Estimate(count / n - expected_share(null_size, alpha), low, high, n)


def _excess_bounds(count: int, n: int, fresh: Matrix, confidence: float, seed: int) -> tuple[float, float]:
    """Interval of (flagged share) - (share of fresh volumes), from the exact distributions of both."""
    rng = np.random.default_rng([seed, 1])
    lowest = rng.beta(count, n - count + 1, DRAWS) if count > 0 else 0.0
    highest = rng.beta(count + 1, n - count, DRAWS) if count < n else 1.0
    low = np.quantile(lowest - fresh, (1 - confidence) / 2)
    high = np.quantile(highest - fresh, (1 + confidence) / 2)
    return float(low), float(high)


def closer_to_train(
    to_train: Neighbours,
    to_holdout: Neighbours,
    train: NDArray[np.int64],
    holdout: NDArray[np.int64],
    confidence: float,
    repeats: int,
    seed: int,
) -> Estimate:
    """How much more a training volume attracts synthetic volumes than a holdout volume does.

    t / (t + h) of the mean number of synthetic volumes that have a training (t) or a holdout (h) volume as their
    nearest real one: 0.5 if there is no difference, 1 if nothing is nearest to the holdout, whatever the sizes.
    (Comparing with training subsets of the holdout's size misses the copied volume mostly: a generator of pure
    copies would reach only 0.5 + holdout / (2 train).) Ties count half. The interval resamples real subjects:
    `train` and `holdout` number the subject of each volume, as by `numbered`.
    """
    nearer = np.sign(to_holdout.distance - to_train.distance) / 2 + 0.5
    drawn_to_train = np.asarray(np.bincount(to_train.index, weights=nearer, minlength=len(train)), np.float64)
    drawn_to_holdout = np.asarray(np.bincount(to_holdout.index, weights=1 - nearer, minlength=len(holdout)), np.float64)
    t = _means_by_subject(drawn_to_train, train, repeats, seed)
    h = _means_by_subject(drawn_to_holdout, holdout, repeats, seed + 1)
    share = drawn_to_train.mean() / (drawn_to_train.mean() + drawn_to_holdout.mean())
    return from_draws(share, t / np.maximum(t + h, 1e-12), confidence, len(nearer))


def _means_by_subject(values: Matrix, people: NDArray[np.int64], repeats: int, seed: int) -> Matrix:
    """(repeats,) bootstrap means of values (n,) when whole subjects are drawn."""
    sums, counts = np.bincount(people, weights=values), np.bincount(people)
    weights = resample_weights(len(counts), repeats, seed)
    return np.asarray(weights @ sums / np.maximum(weights @ counts, 1e-12))


def false_alarms(scores: Matrix, alpha: float, repeats: int, confidence: float, seed: int) -> Estimate:
    """Flagged share when real holdout volumes play the synthetic ones: one random half judged by the other."""
    half = len(scores) // 2
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(repeats):
        order = rng.permutation(scores)
        shares.append(float((order[half:] < copy_threshold(order[:half], alpha)).mean()))
    return from_draws(float(np.mean(shares)), np.array(shares), confidence, len(scores))
