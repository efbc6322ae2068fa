"""Numbers that may stand for `not known`: -999 among ages, 9 where sex is 1 or 2.

Taken as they are they shift every mean, and a cohort is asked for an age of -437. No rule can tell them from
honest figures with a long tail (income, lesion volumes, days), so they are asked about, and only where they
lie far outside all others on a scale that a long tail does not stretch.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np

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
    """The few at one end of sorted numbers that lie far from all others, such as ages in days among years."""
    for count in range(max(1, int(MOST_FAR * len(numbers))), 0, -1):
        low, high = numbers[:count], numbers[-count:]
        if low and _is_far(low[-1], numbers[count:]):
            return set(low)
        if high and _is_far(high[0], numbers[:-count]):
            return set(high)
    return set()


def _is_code(number: float, others: Collection[float]) -> bool:
    if len(others) < 2:
        return False
    gap, extent = _gap(number, others)
    return gap > max(CODE_GAP, extent)


def _is_far(number: float, others: Collection[float]) -> bool:
    if len(others) < FEWEST_OTHERS:
        return False
    gap, extent = _gap(number, others)
    return gap > max(FAR_GAP, FAR_RANGES * extent)


def _gap(number: float, others: Collection[float]) -> tuple[float, float]:
    """Distance to the nearest of the others, and the range of these: log(1 + size / median size), with the sign."""
    values = np.array(sorted(others))
    scale = float(np.median(np.abs(values[values != 0]))) if values.any() else 1.0
    compressed = np.sign(values) * np.log1p(np.abs(values) / scale)
    own = math.copysign(math.log1p(abs(number) / scale), number)
    inside = compressed[0] <= own <= compressed[-1]
    return (0.0 if inside else float(np.abs(compressed - own).min())), float(np.ptp(compressed))
