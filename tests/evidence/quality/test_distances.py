"""Distances between sets, held against independent formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.distances import (
    Sides,
    estimate,
    fit_projection,
    frechet_distance,
    kernel_distance,
    kernel_interval,
    ratio_to_real,
)


def normal(n, d, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def features(values):
    return Features(np.asarray(values, np.float32), "x", "0" * 64, "1" * 64)


def frechet_by_general_root(a, b):
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    offset = a.mean(0) - b.mean(0)
    return offset @ offset + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)


def kernel_by_loops(a, b):
    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(2, 6), scale=st.floats(0.1, 10))
def test_frechet_distance_is_that_of_the_general_matrix_root(seed, d, scale):
    a, b = normal(40, d, seed), scale * normal(30, d, seed + 1, 0.5)
    assert frechet_distance(a, b) == pytest.approx(frechet_by_general_root(a, b), rel=1e-6, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), m=st.integers(2, 12))
def test_kernel_distance_is_that_of_explicit_loops(seed, n, m):
    a, b = normal(n, 3, seed), normal(m, 3, seed + 1, 0.5)
    assert kernel_distance(a, b) == pytest.approx(kernel_by_loops(a, b), rel=1e-6, abs=1e-6)


def test_identical_sets_are_at_frechet_distance_zero():
    a = normal(50, 5, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_shifted_sets_is_the_squared_shift():
    a = normal(50, 4, 0)
    assert frechet_distance(a, a + 2.0) == pytest.approx(16.0)


def test_frechet_distance_is_defined_on_one_component():
    a, b = normal(20, 1, 0), normal(20, 1, 1, 1.0)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("size", [10, 40])
def test_kernel_distance_of_one_distribution_has_mean_zero_at_any_size(size):
    values = [kernel_distance(normal(size, 4, 2 * i), normal(size, 4, 2 * i + 1)) for i in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)


def test_more_synthetic_volumes_do_not_make_the_estimate_better():
    """The bias that comparisons at unequal sizes have: a plain Fréchet distance falls with n."""
    train, holdout, pool = normal(400, 8, 0), normal(40, 8, 1), normal(1000, 8, 2)
    few, many = pool[:100], pool
    plain = [frechet_distance(few[:20], holdout), frechet_distance(many, holdout)]
    assert plain[1] < 0.6 * plain[0]
    found = [estimate(frechet_distance, s, holdout, 20, Bootstrap(200, 0.95, 0)).value for s in (few, many)]
    assert found[1] == pytest.approx(found[0], rel=0.1)
    real = estimate(frechet_distance, train, holdout, 20, Bootstrap(200, 0.95, 0))
    assert real.low < found[1] < real.high


def test_ratio_to_real_is_one_for_fresh_samples_and_far_above_for_others():
    train, holdout = normal(200, 6, 0), normal(60, 6, 1)
    fresh, shifted = (
        ratio_to_real(frechet_distance, Sides(synthetic, train, holdout), 30, Bootstrap(100, 0.95, 0))
        for synthetic in (normal(150, 6, 2), normal(150, 6, 2, 1.5))
    )
    assert fresh.low < 1 < fresh.high
    assert fresh.value == pytest.approx(1, abs=0.4)
    assert shifted.low > 3


def test_estimate_does_not_take_more_rows_than_there_are():
    with pytest.raises(ValueError, match="at most 5"):
        estimate(kernel_distance, normal(5, 2, 0), normal(9, 2, 1), 6, Bootstrap(10, 0.95, 0))


def test_interval_of_half_sampling_holds_the_mean_as_often_as_it_says():
    """For a mean the truth is known: 0 for two samples of one distribution."""

    def difference(a, b):
        return float(a.mean() - b.mean())

    hits = 0
    for seed in range(100):
        found = estimate(
            difference, normal(30, 1, 2 * seed), normal(30, 1, 2 * seed + 1), 15, Bootstrap(100, 0.9, seed)
        )
        hits += found.low <= 0 <= found.high
    assert 80 <= hits <= 99


def test_a_bootstrap_interval_is_as_wide_as_fresh_queries_scatter():
    reference = normal(40, 3, 0)
    fresh = [kernel_distance(normal(30, 3, seed), reference) for seed in range(1, 300)]
    found = [kernel_interval(normal(30, 3, seed), reference, Bootstrap(300, 0.95, seed)) for seed in range(1, 40)]
    width = np.mean([one.high - one.low for one in found]) / (2 * 1.96)
    assert width == pytest.approx(np.std(fresh), rel=0.25)


def test_a_bootstrap_interval_lies_around_its_value():
    """Duplicates would raise every distance, by far where rows are few."""
    for seed in range(20):
        query, reference = normal(10, 4, seed), normal(30, 4, seed + 100)
        found = kernel_interval(query, reference, Bootstrap(400, 0.9, seed))
        assert found.value == kernel_distance(query, reference)
        assert found.low < found.value < found.high
        assert found.n == 10


def test_projection_standardises_and_ignores_what_does_not_vary():
    values = np.column_stack([normal(30, 3, 0) * [1, 100, 1e-3], np.full(30, 7.0)]).astype(np.float32)
    found = features(values)
    projection = fit_projection(found, 2)
    standard = projection.standardise(found)
    np.testing.assert_allclose(standard[:, :2].std(0), 1, rtol=1e-5)
    assert np.all(standard[:, 3] == 0)
    assert projection(found).shape == (30, 2)


@pytest.mark.parametrize("statistic", [frechet_distance, kernel_distance])
def test_a_perfect_generator_is_as_near_as_the_training_set_on_axes_of_both(statistic):
    """Scale and axes of the training set alone put it elsewhere than fresh draws."""
    pairs = {True: [], False: []}
    for seed in range(60):
        train, holdout, fresh = (features(normal(40, 60, 3 * seed + one)) for one in range(3))
        for fair, found in pairs.items():
            projection = fit_projection(train, 5, beside=fresh if fair else None)
            rows = [projection(one) for one in (fresh, train, holdout)]
            found.append([statistic(one, rows[2]) for one in rows[:2]])
    apart = {fair: -np.diff(found, axis=1) for fair, found in pairs.items()}
    scores = {fair: one.mean() / (one.std() / np.sqrt(60)) for fair, one in apart.items()}
    assert abs(scores[True]) < 3
    assert abs(scores[False]) > 5
