"""Intervals that say what they hold."""

import pytest
from scipy import stats

from meddiff_core.evidence.intervals import Estimate, from_count, magnitude


@pytest.mark.parametrize(("count", "n"), [(0, 30), (7, 30), (30, 30)])
def test_share_has_the_exact_binomial_interval(count, n):
    expected = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    found = from_count(count, n, 0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_magnitude_of_an_interval_around_zero_starts_at_zero():
    assert magnitude(Estimate(-0.1, -0.4, 0.2, 9)) == Estimate(0.1, 0.0, 0.4, 9)
    assert magnitude(Estimate(-0.3, -0.4, -0.2, 9)) == Estimate(0.3, 0.2, 0.4, 9)
