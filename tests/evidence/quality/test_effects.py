"""Effect sizes and Wasserstein distances of one figure."""

import numpy as np
import pytest

from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.distances import Sides
from meddiff_core.evidence.quality.effects import Sample, compare, effect, wasserstein

BOOTSTRAP = Bootstrap(200, 0.95, 0)


def sample(values, subjects=None):
    values = np.asarray(values, np.float64)
    return Sample(values, np.arange(len(values)) if subjects is None else np.asarray(subjects))


def normal(n, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal(n) + shift


def test_effect_is_cohens_d():
    a, b = normal(30, 0, 1.0), 2 * normal(40, 1)
    pooled = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    found = effect(sample(a), sample(b), BOOTSTRAP)
    assert found.value == pytest.approx((a.mean() - b.mean()) / pooled)
    assert found.low < found.value < found.high


def test_identical_sets_have_no_effect_and_no_distance():
    same = sample(normal(20, 0))
    found = compare(Sides(same, same, same), BOOTSTRAP)
    assert found.effect.value == 0
    assert wasserstein(1.0)(same.values[:, None], same.values[:, None]) == 0


def test_a_shift_is_a_wasserstein_distance_of_its_size_in_units():
    values = normal(25, 0)[:, None]
    assert wasserstein(2.5)(values + 0.5, values) == pytest.approx(0.2)


@pytest.mark.parametrize("truth", [0.0, 1.0, 3.0])
def test_interval_of_an_effect_covers_the_truth_as_often_as_it_says(truth):
    hits = 0
    for seed in range(100):
        found = effect(sample(normal(40, 2 * seed, truth)), sample(normal(40, 2 * seed + 1)), Bootstrap(200, 0.9, seed))
        hits += found.low <= truth <= found.high
    assert 80 <= hits <= 98


def test_copies_of_a_subjects_scan_do_not_narrow_the_interval():
    people, synthetic = normal(20, 0), sample(normal(100, 1))
    once = effect(synthetic, sample(people), BOOTSTRAP)
    five_times = effect(synthetic, sample(np.repeat(people, 5), np.repeat(np.arange(20), 5)), BOOTSTRAP)
    assert five_times.n == once.n == 20
    assert five_times.high - five_times.low == pytest.approx(once.high - once.low, rel=0.1)


def test_where_nothing_varies_a_shift_is_large_and_finite():
    found = compare(Sides(*map(sample, (np.full(10, 0.99), np.ones(10), np.ones(10)))), BOOTSTRAP)
    assert found.effect.value == pytest.approx(-10)
    assert found.distance.value == pytest.approx(10)
    assert found.distance_reference.value == 0


def test_one_torn_structure_among_many_whole_ones_is_a_small_distance():
    torn = np.ones(100)
    torn[0] = 2
    found = compare(Sides(*map(sample, (torn, np.ones(100), np.ones(40)))), BOOTSTRAP)
    assert found.distance.value < 0.5
