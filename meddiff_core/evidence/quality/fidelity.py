"""Whether a volume has the property that was asked for.

Each condition that can be measured on the generated label map is compared with its request. A study whose
conditions do nothing would otherwise release a covariate table that describes no volume in it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from meddiff_core.evidence.intervals import Matrix, resample_weights


@dataclass(frozen=True)
class Fidelity:
    """Requested against measured."""

    r: float
    """Pearson correlation; 0 where either side does not vary."""
    slope: float
    """Of measured on requested; 1 follows fully."""
    mean_error: float
    """Mean of measured minus requested, in the unit of the condition."""
    low: float
    """Bound of the interval of r."""
    high: float
    n: int


def fidelity(
    requested: ArrayLike, measured: ArrayLike, confidence: float = 0.95, repeats: int = 200, seed: int = 0
) -> Fidelity:
    """Correlation with a bootstrap interval over volumes.

    Fewer than 3 volumes, or a side that does not vary, are no evidence: r is 0 and its interval [-1, 1].
    """
    x, y = np.asarray(requested, np.float64), np.asarray(measured, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"requested and measured must be of one length, are {x.shape} and {y.shape}")
    error = float((y - x).mean()) if len(x) else 0.0
    whole = np.ones((1, len(x)))
    if len(x) < 3 or not _varies(x) or not _varies(y):
        return Fidelity(0.0, 0.0, error, -1.0, 1.0, len(x))
    r = _correlations(x, y, whole)[0]
    draws = _correlations(x, y, resample_weights(len(x), repeats, seed))
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Fidelity(float(r), float(r * y.std() / x.std()), error, float(low), float(high), len(x))


def _varies(values: Matrix) -> bool:
    return bool(values.std() > 1e-9 * max(1.0, float(np.abs(values).max())))


def _correlations(x: Matrix, y: Matrix, weights: Matrix) -> Matrix:
    """(repeats,) weighted correlations; 0 for a draw in which one side does not vary."""
    share = weights / weights.sum(1, keepdims=True)
    dx, dy = x - (share @ x)[:, None], y - (share @ y)[:, None]
    covariance = (share * dx * dy).sum(1)
    size = np.sqrt((share * dx**2).sum(1) * (share * dy**2).sum(1))
    tiny = 1e-9 * x.std() * y.std()
    return np.where(size > tiny, covariance / np.maximum(size, tiny), 0.0)
