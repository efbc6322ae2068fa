"""Figures agree with scikit-learn's, and intervals have the width that theory gives them."""

import numpy as np
import pytest
from sklearn import metrics

from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.utility.resampling import (
    accuracy_score,
    explained_score,
    mean_score,
    outcome,
    ranking_score,
)

MANY = Bootstrap(4000, 0.95, 0)


@pytest.fixture
def weights():
    return np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=5).astype(float)


def test_scores_agree_with_scikit_learn_under_weights(weights):
    rng = np.random.default_rng(1)
    truth, predicted = rng.standard_normal((2, 30))
    predicted += truth
    classes = rng.integers(0, 3, 30)
    belongs = classes[:, None] == np.arange(3)
    decisions = rng.standard_normal((30, 3)) + belongs
    scores = [explained_score(predicted, truth), ranking_score(decisions, belongs), accuracy_score(decisions, belongs)]
    found = [score(weights) for score in scores]
    for draw, weight in enumerate(weights):
        areas = [metrics.roc_auc_score(belongs[:, k], decisions[:, k], sample_weight=weight) for k in range(3)]
        expected = [
            metrics.r2_score(truth, predicted, sample_weight=weight),
            np.mean(areas),
            metrics.balanced_accuracy_score(classes, decisions.argmax(1), sample_weight=weight),
        ]
        np.testing.assert_allclose([one[draw] for one in found], expected, rtol=1e-6)


def test_mean_leaves_out_subjects_for_whom_it_is_not_defined():
    score = mean_score(np.array([1.0, np.nan, 4.0]))
    np.testing.assert_allclose(score(np.array([[1.0, 1, 1], [2, 5, 1], [0, 3, 0]])), [2.5, 2.0, np.nan])


def test_interval_over_subjects_has_the_width_of_a_mean():
    values = np.random.default_rng(2).standard_normal(60)
    found = outcome("a", [mean_score(values)], 60, MANY)
    assert found.value == pytest.approx(values.mean())
    assert found.resamples.std() == pytest.approx(values.std() / 60**0.5, rel=0.05)


def test_interval_over_seeds_has_the_width_of_a_mean_of_three():
    levels = np.array([0.7, 0.8, 0.75])
    found = outcome("a", [mean_score(np.full(20, level)) for level in levels], 20, MANY)
    assert found.resamples.std() == pytest.approx(levels.std(ddof=1) / 3**0.5, rel=0.05)


def test_difference_of_two_arms_is_paired_by_subject():
    values = np.random.default_rng(3).standard_normal(40)
    first, second = (outcome(name, [mean_score(values + shift)], 40, MANY) for name, shift in (("a", 1), ("b", 0)))
    estimate = first.minus(second).estimate(0.95)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], 1)


def test_same_arm_over_itself_is_one():
    runs = [mean_score(np.random.default_rng(seed).uniform(0.5, 1, 12)) for seed in range(3)]
    found = outcome("a", runs, 12, MANY)
    estimate = found.over(found).estimate(0.95)
    np.testing.assert_allclose([estimate.value, estimate.low, estimate.high], 1)
