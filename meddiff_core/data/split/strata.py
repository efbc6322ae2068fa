"""An order in which neighbours are alike, and sides spread evenly over it: what a stratified split is made of.

Cut at random, a small cohort may have all its old women on one side. A hash decides within a stratum, so the same seed
gives the same split on any machine.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from meddiff_core.contract import Condition, ConditionValue

Side = TypeVar("Side", bound=str)
QUARTILES = (0.25, 0.5, 0.75)


def spread(counts: Mapping[Side, int], seed: int) -> list[Side]:
    """Sides in a row, each spread evenly over it, so that any stretch of it holds nearly its share of each.

    The row begins anywhere: else whoever is first of the first stratum would always train.
    """
    places = [((2 * n + 1) / (2 * count), side) for side, count in counts.items() for n in range(count)]
    row = [side for _, side in sorted(places)]
    start = _hash("the row begins", seed) % max(1, len(row))
    return row[start:] + row[:start]


def in_strata(subjects: Mapping[str, Condition], seed: int) -> list[str]:
    """Subjects in the order of their strata, coarse covariates before fine ones; a hash decides within a stratum."""
    names = sorted({name for covariates in subjects.values() for name in covariates})
    levels = [_levels([covariates.get(name) for covariates in subjects.values()]) for name in names]
    levels.sort(key=lambda column: len(set(column)))
    strata = dict(zip(subjects, zip(*levels, strict=True), strict=True)) if levels else {}
    return sorted(subjects, key=lambda subject: (strata.get(subject, ()), _hash(subject, seed)))


def _levels(values: Sequence[ConditionValue]) -> list[str]:
    """The level of each value: a category itself, the quartile of a number, or empty where it is not known."""
    numbers = [value for value in values if isinstance(value, float | int)]
    if len(set(numbers)) <= len(QUARTILES) + 1:
        return ["" if value is None else str(value) for value in values]
    edges = np.quantile(numbers, QUARTILES)
    return [str(np.searchsorted(edges, value)) if isinstance(value, float | int) else "" for value in values]


def _hash(text: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8])
