"""Precision, recall, density, coverage."""

import numpy as np
import pytest

from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_size, neighbourhoods


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
