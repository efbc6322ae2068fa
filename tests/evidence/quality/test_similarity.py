"""MS-SSIM of random pairs."""

import numpy as np
import pytest

from meddiff_core.evidence.intervals import Bootstrap, magnitude
from meddiff_core.evidence.quality.similarity import (
    PairSimilarity,
    _random_pairs,
    _scale_weights,
    mean_similarity,
    ms_ssim_pairs,
    similarity_gap,
)


def test_pairs_are_different_and_of_different_volumes():
    first, second = _random_pairs(7, 1000, 0)
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 21
    assert np.all(first < second)
    assert second.max() == 6
    assert first.min() == 0


@pytest.mark.parametrize("side", [16, 24, 40, 80, 160])
def test_weights_fit_the_volume_and_sum_to_one(side):
    weights = _scale_weights(side)
    assert sum(weights) == pytest.approx(1)
    assert len(weights) == {16: 2, 24: 3, 40: 3, 80: 5, 160: 5}[side]


def test_collapsed_set_is_more_alike_than_real_ones(make_heads, contract, finish):
    real, fresh, few = make_heads(16, 0), make_heads(16, 1), make_heads(2, 2)
    collapsed = few.take(np.arange(16) % 2)
    pairs = [finish(ms_ssim_pairs(v, 30, 0, contract)) for v in (real, fresh, collapsed)]
    good = magnitude(similarity_gap(pairs[1], pairs[0], Bootstrap(200, 0.95, 0)))
    bad = magnitude(similarity_gap(pairs[2], pairs[0], Bootstrap(200, 0.95, 0)))
    assert good.low == 0
    assert bad.low > 0
    assert bad.value > 5 * good.value
    assert pairs[2].values.max() == pytest.approx(1, abs=1e-4)


def test_interval_resamples_volumes_and_not_pairs():
    """All pairs of n volumes whose similarity is a sum of two volumes' effects: the error falls with n alone."""
    effects = np.random.default_rng(0).standard_normal(30)
    first, second = _random_pairs(30, 435, 0)
    found = mean_similarity(
        PairSimilarity(first, second, effects[first] + effects[second], 30), Bootstrap(500, 0.95, 0)
    )
    width_by_theory = 2 * 1.96 * 2 * effects.std() / np.sqrt(30)
    assert found.high - found.low == pytest.approx(width_by_theory, rel=0.25)


def test_one_volume_has_no_pairs(make_heads, contract, finish):
    with pytest.raises(ValueError, match="at least 2"):
        finish(ms_ssim_pairs(make_heads(1, 0), 5, 0, contract))
