"""Requested against measured."""

import numpy as np
import pytest
from scipy import stats

from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.fidelity import fidelity, fidelity_section

BOOTSTRAP = Bootstrap(200, 0.95, 0)


def test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(50)
    y = 0.5 * x + rng.standard_normal(50) + 3
    found, expected = fidelity(x, y, BOOTSTRAP), stats.linregress(x, y)
    assert found.r.value == pytest.approx(expected.rvalue)
    assert found.slope.value == pytest.approx(expected.slope)
    assert found.mean_error.value == pytest.approx((y - x).mean())
    assert found.rmse.value == pytest.approx(np.sqrt(((y - x) ** 2).mean()))
    for one in (found.r, found.slope, found.mean_error, found.rmse):
        assert one.low < one.value < one.high


def test_exact_obedience_has_correlation_and_slope_one_and_no_error():
    found = fidelity([1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0], BOOTSTRAP)
    assert (found.r.value, found.slope.value, found.mean_error.value, found.rmse.value) == pytest.approx((1, 1, 0, 0))
    assert found.r.low == pytest.approx(1)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1, 2], [1, 2]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3], [5, 5, 5])])
def test_no_variation_is_no_evidence(x, y):
    found = fidelity(x, y, BOOTSTRAP)
    assert (found.r.value, found.r.low, found.r.high, found.slope) == (0, -1, 1, None)


@pytest.mark.parametrize("figure", ["r", "slope", "mean_error", "rmse"])
def test_intervals_cover_the_truth_as_often_as_they_say(figure):
    noise = np.sqrt(1 - 0.75**2)
    truth = {"r": 0.75, "slope": 0.75, "mean_error": 0.0, "rmse": np.sqrt(0.25**2 + noise**2)}[figure]
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(60)
        found = getattr(fidelity(x, 0.75 * x + noise * rng.standard_normal(60), Bootstrap(300, 0.9, seed)), figure)
        hits += found.low <= truth <= found.high
    assert 78 <= hits <= 97


def test_every_source_has_its_own_metric_and_what_is_not_known_is_left_out():
    requested = [{"size": float(one)} for one in range(20)] + [{"size": None}, {"size": 3.0}]
    measured = {"size": np.array([2.0 * one for one in range(20)] + [5.0, np.nan])}
    sections = {
        source: fidelity_section(requested, measured, source, Bootstrap(50, 0.95, 0), references)
        for source, references in (("labels", None), ("segmentation", {"size": 0.9}))
    }
    assert sections["labels"].metrics[0].name == "fidelity_r:size"
    assert sections["segmentation"].metrics[0].name == "fidelity_r_segmentation:size"
    for section in sections.values():
        assert section.metrics[0].n == 20
        assert section.metrics[0].value == pytest.approx(1)
        name, n, r, _, slope, _, error, *_ = section.tables[0].rows[0]
        assert (name, n, r, slope, error) == ("size", 20, 1, 2, 9.5)
