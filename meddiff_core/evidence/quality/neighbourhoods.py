"""Precision, recall, density and coverage: whether synthetic volumes lie among the real ones, and everywhere.

A distance alone cannot tell blurred volumes from a generator that makes only few kinds of them; recall and
coverage fall to 0 for the latter.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.quality.distances import Statistic


@dataclass(frozen=True)
class Neighbourhoods:
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


def neighbourhood_statistic(name: str, k: int) -> Statistic:
    """One of the four as a statistic of (query, reference)."""

    def statistic(query: Matrix, reference: Matrix) -> float:
        return float(getattr(neighbourhoods(query, reference, k), name))

    return statistic
