"""Precision, recall, density, coverage."""

import numpy as np
import pytest

from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_estimates, neighbourhood_size, neighbourhoods


def normal(n, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, 4)) + shift


def test_identical_sets_cover_each_other():
    a = normal(60, 0)
    found = neighbourhoods(a, a)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_far_sets_share_nothing():
    found = neighbourhoods(normal(60, 0), normal(60, 1, 50.0))
    assert (found.precision, found.recall, found.density, found.coverage) == (0, 0, 0, 0)


def test_few_modes_keep_precision_and_lose_recall_and_coverage():
    real, fresh = normal(200, 0), normal(200, 1)
    collapsed = np.repeat(fresh[:5], 40, axis=0) + 1e-6 * normal(200, 2)
    good, bad = neighbourhoods(fresh, real), neighbourhoods(collapsed, real)
    assert good.recall > 0.8
    assert good.coverage > 0.8
    assert bad.precision > 0.7
    assert bad.recall < 0.05
    assert bad.coverage < 0.2


@pytest.mark.parametrize(("rows", "k"), [(4, 1), (8, 2), (16, 5), (500, 5)])
def test_balls_are_small_beside_the_set(rows, k):
    assert neighbourhood_size(rows) == k


def test_density_by_hand():
    reference = np.array([[0.0], [1.0], [10.0], [11.0]])
    query = np.array([[0.5], [10.5], [100.0], [200.0]])
    found = neighbourhoods(query, reference, k=1)
    assert found.density == pytest.approx((2 + 2 + 0 + 0) / 4)
    assert found.precision == 0.5


def test_all_of_few_volumes_does_not_prove_all():
    found = neighbourhood_estimates(normal(60, 0), normal(60, 0)[:12], 12, Bootstrap(50, 0.95, 0))
    assert found["precision"].high == 1
    assert found["recall"].low < 0.8


def test_subsamples_as_large_as_the_sets_still_have_an_interval():
    found = neighbourhood_estimates(normal(30, 0), normal(30, 1), 30, Bootstrap(50, 0.95, 0))
    for name, one in found.items():
        assert one.low < one.value <= one.high, name
        assert one.n == 30


def test_interval_of_recall_holds_that_of_fresh_sets():
    """The truth is the mean over fresh pairs of sets of the same size."""
    values = [neighbourhoods(normal(20, 2 * i), normal(20, 2 * i + 1), 5).recall for i in range(200)]
    hits = 0
    for seed in range(40):
        sets = normal(20, 1000 + 2 * seed), normal(20, 1001 + 2 * seed)
        found = neighbourhood_estimates(*sets, 20, Bootstrap(60, 0.9, seed))["recall"]
        hits += found.low <= np.mean(values) <= found.high
    assert hits >= 34
