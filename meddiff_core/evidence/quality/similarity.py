"""How alike the volumes of one set are to each other: mean MS-SSIM of random pairs.

A generator that makes few kinds of volumes has pairs that are too alike. Neither high nor low is good by
itself: the figure is read beside that of real volumes, as their gap.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_resamples, resample_weights
from meddiff_core.types import Progress, Volumes

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, finest first (Wang et al. 2003)."""


@dataclass(frozen=True)
class PairSimilarity:
    """MS-SSIM of some pairs of a set of n volumes."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    values: Matrix
    n: int


def ms_ssim_pairs(
    volumes: Volumes, pairs: int, seed: int, contract: Contract, batch: int = 8
) -> Generator[Progress, None, PairSimilarity]:
    """MS-SSIM of at most `pairs` different random pairs, on intensities in [0, 1].

    The standard five scales with a kernel of 11 need sides above 160. Here the kernel is 5 (sigma 1.5), with as
    many of the scales as the smallest side allows (3 for 24 to 79 voxels), and their weights made to sum to 1.
    """
    from monai.metrics.regression import compute_ms_ssim  # heavy, and needed nowhere else in this room

    first, second = _random_pairs(len(volumes), pairs, seed)
    weights = _scale_weights(min(contract.size))
    values = []
    for start in range(0, len(first), batch):
        left, right = (_units(volumes, side[start : start + batch], contract) for side in (first, second))
        values.append(compute_ms_ssim(left, right, 3, kernel_size=5, weights=weights).flatten().double().numpy())
        yield Progress("MS-SSIM of pairs", min(start + batch, len(first)), len(first))
    return PairSimilarity(first, second, np.concatenate(values), len(volumes))


def _random_pairs(n: int, pairs: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different unordered pairs of 0..n-1, by their rank in (1,0), (2,0), (2,1), (3,0) and so on."""
    if n < 2:
        raise ValueError(f"pairs need at least 2 volumes, got {n}")
    total = n * (n - 1) // 2
    rank = np.random.default_rng(seed).choice(total, min(pairs, total), replace=False)
    second = ((1 + np.sqrt(1 + 8 * rank.astype(np.float64))) // 2).astype(np.int64)
    return rank - second * (second - 1) // 2, second


def _scale_weights(smallest_side: int) -> tuple[float, ...]:
    """Weights of the scales at which a kernel of 5 fits, by the condition that MONAI checks and by what it halves."""
    fitting = (min(smallest_side // max(1, n - 1) ** 2, smallest_side >> (n - 1)) for n in range(1, len(WEIGHTS) + 1))
    scales = max(n for n, side in enumerate(fitting, start=1) if n == 1 or side >= 5)
    chosen = WEIGHTS[:scales]
    return tuple(weight / sum(chosen) for weight in chosen)


def _units(volumes: Volumes, indices: NDArray[np.int64], contract: Contract) -> torch.Tensor:
    images = np.stack([contract.intensity.unit(volumes.image(int(index))) for index in indices])
    return torch.from_numpy(images)[:, None]


def mean_similarity(pairs: PairSimilarity, bootstrap: Bootstrap) -> Estimate:
    """Mean over pairs; the interval resamples volumes, since pairs that share one are not independent."""
    means = _resampled_means(pairs, bootstrap.repeats, bootstrap.seed)
    return from_resamples(pairs.values.mean(), means, bootstrap.confidence, pairs.n)


def similarity_gap(synthetic: PairSimilarity, real: PairSimilarity, bootstrap: Bootstrap) -> Estimate:
    """Mean of the synthetic pairs minus that of the real ones: above 0 is less diverse than reality."""
    sides = ((synthetic, bootstrap.seed), (real, bootstrap.seed + 1))
    first, second = (_resampled_means(pairs, bootstrap.repeats, seed) for pairs, seed in sides)
    value = synthetic.values.mean() - real.values.mean()
    return from_resamples(value, first - second, bootstrap.confidence, min(synthetic.n, real.n))


def _resampled_means(pairs: PairSimilarity, repeats: int, seed: int) -> Matrix:
    weights = resample_weights(pairs.n, repeats, seed)
    pair_weights = weights[:, pairs.first] * weights[:, pairs.second]
    total = pair_weights.sum(1)
    means = pair_weights @ pairs.values / np.maximum(total, 1)
    return np.asarray(np.where(total > 0, means, pairs.values.mean()))
