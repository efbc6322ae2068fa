"""Precision, recall, density and coverage: whether synthetic volumes lie among the real ones, and everywhere.

A distance alone does not separate blurred volumes from a generator that makes only few kinds of them; recall and
coverage fall to 0 for the latter.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_count, from_resamples
from meddiff_core.evidence.quality.distances import subsampled_rows


class Neighbourhoods(NamedTuple):
    """Kynkäänniemi et al. 2019 (precision, recall) and Naeem et al. 2020 (density, coverage)."""

    precision: float
    """Share of query rows inside some reference row's ball, which reaches to its k-th neighbour."""
    recall: float
    """Share of reference rows inside some query row's ball."""
    density: float
    """Mean number of reference balls around a query row, over k; may exceed 1."""
    coverage: float
    """Share of reference rows whose ball holds a query row."""


def neighbourhoods(query: Matrix, reference: Matrix, k: int = 5) -> Neighbourhoods:
    """All four of them, between sets of equal size."""
    across = cdist(query, reference)
    in_reference_ball = across <= _radius(reference, k)
    in_query_ball = across <= _radius(query, k)[:, None]
    return Neighbourhoods(
        precision=float(in_reference_ball.any(1).mean()),
        recall=float(in_query_ball.any(0).mean()),
        density=float(in_reference_ball.sum(1).mean() / k),
        coverage=float(in_reference_ball.any(0).mean()),
    )


def _radius(rows: Matrix, k: int) -> Matrix:
    """Distance of each row to its k-th neighbour, itself not counted."""
    return np.asarray(np.partition(cdist(rows, rows), k, axis=1)[:, k])


def neighbourhood_size(rows: int) -> int:
    """k = 5, or less for sets so small that a ball would hold most of them."""
    return max(1, min(5, (rows - 1) // 3))


def neighbourhood_estimates(query: Matrix, reference: Matrix, size: int, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Each of the four by name: the mean over subsamples of `size` rows, with its interval.

    The interval is the spread of samples of half that size around their mean, which is that of sampling the sets
    themselves; subsamples as large as a set would all be that set. For a share it is never narrower than the exact
    interval of a share of `size`: 18 of 18 does not prove 1.
    """
    whole, half = (_subsampled(query, reference, n, bootstrap) for n in (size, max(2, size // 2)))
    estimates = {}
    for name, value, around in zip(Neighbourhoods._fields, whole.mean(0), (half - half.mean(0)).T, strict=True):
        spread = from_resamples(value, np.maximum(value + around, 0), bootstrap.confidence, size)
        estimates[name] = spread if name == "density" else _at_least_exact(spread, bootstrap.confidence)
    return estimates


def _subsampled(query: Matrix, reference: Matrix, size: int, bootstrap: Bootstrap) -> Matrix:
    """(repeats, 4)."""
    k = neighbourhood_size(size)
    found = [neighbourhoods(few, others, k) for few, others in subsampled_rows(query, reference, size, bootstrap)]
    return np.array(found, dtype=np.float64)


def _at_least_exact(share: Estimate, confidence: float) -> Estimate:
    value = min(1.0, share.value)  # a mean of ones may round to more
    exact = from_count(value * share.n, share.n, confidence)
    return Estimate(value, min(share.low, exact.low), min(1.0, max(share.high, exact.high)), share.n)
