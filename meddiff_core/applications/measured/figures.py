"""Figures of merit of a result beside the truth, all from plain arrays.

Each is measured where the task had something to do: inside the hole, the lesion or the body. Over a whole volume of
mostly black background every method looks alike.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score

from meddiff_core.applications.scans import Mask
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.types import FloatArray

MOST_DB = 60.0
"""PSNR of what is equal to a rounding error."""
WINDOW = 1.5
"""Standard deviation of SSIM's window in voxels (Wang et al. 2004)."""
FALSE_POSITIVES = 0.05
"""Share of healthy voxels above the threshold at which Dice is taken."""
Statistic = Literal["mean", "auroc", "r", "slope"]


def psnr(found: FloatArray, truth: FloatArray, where: Mask) -> float:
    """In dB, over the intensity range 0 to 1."""
    error = float(np.square(found[where].astype(np.float64) - truth[where]).mean())
    return min(MOST_DB, -10 * float(np.log10(max(error, 1e-12))))


def ssim(found: FloatArray, truth: FloatArray, where: Mask) -> float:
    """Mean of the local structural similarity (Wang et al. 2004, eq. 13) over some voxels."""

    def smooth(array: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(array, WINDOW, truncate=2.0))

    x, y = found.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    both = smooth(x * y) - mean_x * mean_y
    first, second = 0.01**2, 0.03**2
    shares = (2 * mean_x * mean_y + first) * (2 * both + second)
    return float((shares / ((mean_x**2 + mean_y**2 + first) * (var_x + var_y + second)))[where].mean())


def average_precision(scores: FloatArray, lesion: Mask, where: Mask) -> float:
    """Area under precision and recall of voxels."""
    return float(average_precision_score(lesion[where], scores[where]))


def dice_at_false_positives(scores: FloatArray, lesion: Mask, where: Mask) -> float:
    """Dice of a lesion with what lies above the threshold that 5% of the healthy voxels exceed."""
    threshold = np.quantile(scores[where & ~lesion], 1 - FALSE_POSITIVES)
    found = where & (scores > threshold)
    return float(2 * (found & lesion).sum() / max(1, found.sum() + lesion.sum()))


def coverage(found: FloatArray, spread: FloatArray, truth: FloatArray, where: Mask, share: float = 0.8) -> float:
    """Share of voxels whose truth lies within the band that should hold `share` of them, if errors are normal."""
    width = float(stats.norm.ppf((1 + share) / 2)) * spread
    return float((np.abs(truth - found) <= width)[where].mean())


def spread_against_error(found: FloatArray, spread: FloatArray, truth: FloatArray, where: Mask) -> float:
    """Spearman correlation of spread and absolute error over some voxels; 0 where either does not vary."""
    error, own = np.abs(truth - found)[where], spread[where]
    if error.std() < 1e-9 or own.std() < 1e-9:
        return 0.0
    return float(stats.spearmanr(error, own).statistic)


def _mean(values: Matrix) -> float:
    return float(values[:, 0].mean())


def _auroc(values: Matrix) -> float:
    """Of rows (score, whether it is a fault); 0.5 where a resample has one kind alone. Ties count half."""
    faulty = values[:, 1] > 0.5
    positive, negative = int(faulty.sum()), int((~faulty).sum())
    if not positive or not negative:
        return 0.5
    ranks = stats.rankdata(values[:, 0])
    return float((ranks[faulty].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _r(values: Matrix) -> float:
    """Of rows (asked, measured); 0 where either does not vary."""
    if values[:, 0].std() < 1e-9 or values[:, 1].std() < 1e-9:
        return 0.0
    return float(np.corrcoef(values[:, 0], values[:, 1])[0, 1])


def _slope(values: Matrix) -> float:
    if values[:, 0].std() < 1e-9:
        return 0.0
    return float(np.polyfit(values[:, 0], values[:, 1], 1)[0])


STATISTICS: Mapping[Statistic, Callable[[Matrix], float]] = {
    "mean": _mean,
    "auroc": _auroc,
    "r": _r,
    "slope": _slope,
}
"""What the values of all subjects come to: (n, d) rows to a number."""
