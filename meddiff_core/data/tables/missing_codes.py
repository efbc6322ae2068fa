"""Numbers that may stand for `not known`: -999 among ages, 9 where sex is 1 or 2.

Taken as they are they shift every mean, and a cohort is asked for an age of -437. No rule can distinguish them from
honest figures with a long tail (income, lesion volumes, days), so they are asked about, and only where they
lie far outside all others on a scale that a long tail does not stretch.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

NEGATIVE = frozenset({-1, -7, -8, -9, -77, -88, -99, -777, -888, -999, -9999, -99999, -999999})
POSITIVE = frozenset({9, 99, 777, 888, 999, 9998, 9999, 99999, 999999})
"""Numbers by which questionnaires and databases say that nothing is known."""
MOST_NEGATIVE_CODES = 3
CODE_GAP = 0.5
FAR_GAP = 1.0
"""Least distance on the compressed scale: about a factor of 2 and of 4 above the median."""
FAR_RANGES = 1.5
"""A number that is no code lies this many ranges of all others away from them."""
MOST_FAR = 0.1
"""Share of the distinct numbers above which they are no exceptions."""
FEWEST_OTHERS = 10
"""Distinct numbers without which nothing is called far that is no code."""


def doubtful_numbers(numbers: Sequence[float], measured: bool) -> dict[float, int]:
    """Numbers of a column that may be codes for `not known`, and how often each occurs.

    `measured`: whether the column is one of quantities; in a column of categories only known codes count.
    """
    distinct = set(numbers)
    codes = distinct & (NEGATIVE | POSITIVE)
    honest = distinct - codes
    doubtful = {code for code in codes if _is_code(code, honest)} | _lone_negatives(distinct)
    if measured:
        doubtful |= _far(sorted(honest))
    return {number: sum(other == number for other in numbers) for number in sorted(doubtful)}


def _lone_negatives(distinct: set[float]) -> set[float]:
    """The negative numbers, where all of them are codes and all others are not negative."""
    negative = {number for number in distinct if number < 0}
    others = distinct - negative
    return negative if negative <= NEGATIVE and len(negative) <= MOST_NEGATIVE_CODES and len(others) > 1 else set()


def _far(numbers: Sequence[float]) -> set[float]:
    """The few at the ends of sorted numbers that lie far from all others, such as ages in days among years."""
    most = min(max(1, int(MOST_FAR * len(numbers))), len(numbers) - FEWEST_OTHERS)
    if most < 1:
        return set()
    values = _compress(np.array(numbers), _scale(numbers))
    return {*numbers[: _far_low(values, most)], *numbers[len(numbers) - _far_low(-values[::-1], most) :]}


def _far_low(values: NDArray[np.float64], most: int) -> int:
    """How many of the first of ascending values, at most `most`, lie far below all others."""
    nearest, others = values[:most], values[1 : most + 1]
    far = np.flatnonzero(others - nearest > np.maximum(FAR_GAP, FAR_RANGES * (values[-1] - others)))
    return int(far[-1]) + 1 if far.size else 0


def _is_code(number: float, others: Collection[float]) -> bool:
    if len(others) < 2:
        return False
    scale = _scale(others)
    (own, low, high) = _compress(np.array([number, min(others), max(others)]), scale)
    return bool(max(low - own, own - high) > max(CODE_GAP, high - low))


def _scale(numbers: Collection[float]) -> float:
    sizes = [abs(number) for number in numbers if number]
    return float(np.median(sizes)) if sizes else 1.0


def _compress(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """log(1 + size / scale), with the sign: close to even around the median size, and a long tail compressed."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values) / scale))
