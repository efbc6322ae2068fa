"""Requested against measured."""

import numpy as np
import pytest
from scipy import stats

from meddiff_core.evidence.quality.fidelity import fidelity


def test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(50)
    y = 0.5 * x + rng.standard_normal(50) + 3
    found, expected = fidelity(x, y), stats.linregress(x, y)
    assert found.r == pytest.approx(expected.rvalue)
    assert found.slope == pytest.approx(expected.slope)
    assert found.mean_error == pytest.approx((y - x).mean())
    assert found.low < found.r < found.high


def test_exact_obedience_has_correlation_and_slope_one():
    found = fidelity([1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0])
    assert (found.r, found.slope, found.mean_error) == pytest.approx((1, 1, 0))
    assert found.low == pytest.approx(1)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3], [5, 5, 5])])
def test_no_variation_is_no_evidence(x, y):
    found = fidelity(x, y)
    assert (found.r, found.low, found.high) == (0, -1, 1)


def test_interval_covers_the_truth_as_often_as_it_says():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(60)
        found = fidelity(x, 0.75 * x + np.sqrt(1 - 0.75**2) * rng.standard_normal(60), 0.9, 300, seed)
        hits += found.low <= 0.75 <= found.high
    assert 80 <= hits <= 97
