"""What is unlike the validation scans is found, and where; what is like them is not."""

from collections.abc import Callable

import numpy as np
import pytest

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.anomaly import anomaly, fit_expectation
from meddiff_core.applications.tasks.score import SCORES, p_value, score

SETTINGS = TaskSettings(samples=2, steps=8)


def with_blob(scan: GridScan, make_scan: Callable[..., GridScan]) -> GridScan:
    image = scan.image.copy()
    image[3:6, 3:6, 3:6] += 0.4
    return make_scan(0, image)


def test_a_planted_blob_is_found_where_it_is(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    healthy = make_scan(1)
    outcome = finish(anomaly(models, with_blob(healthy, make_scan), SETTINGS, calibration))
    peak = np.unravel_index(outcome.maps["z_score"].array.argmax(), healthy.image.shape)
    assert all(3 <= place <= 5 for place in peak)
    assert outcome.figures["p"] == pytest.approx(1 / 11)
    assert finish(anomaly(models, healthy, SETTINGS, calibration)).figures["p"] > 1 / 11


def test_healthy_residuals_have_a_standard_deviation_of_one() -> None:
    residuals = np.random.default_rng(0).normal(0.1, 0.2, (12, 2, 12, 12, 12)).astype(np.float32)
    found = fit_expectation(residuals)
    scores = np.stack([found.z_scores(one) for one in residuals])
    assert scores.mean() == pytest.approx(0, abs=0.02)
    assert scores.std() == pytest.approx(1, rel=0.02)


def test_a_voxel_that_never_varies_has_a_finite_score() -> None:
    scans = np.zeros((5, 2, 8, 8, 8), np.float32)
    assert np.isfinite(fit_expectation(scans).z_scores(np.ones((2, 8, 8, 8), np.float32))).all()


def test_validation_scans_are_looked_at_once(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    first = finish(anomaly(models, make_scan(1), SETTINGS, calibration))

    def gone():  # type: ignore[no-untyped-def]
        raise AssertionError("read again")

    again = finish(anomaly(models, make_scan(1), SETTINGS, Calibration(models, gone, calibration.folder)))
    np.testing.assert_array_equal(first.maps["z_score"].array, again.maps["z_score"].array)
    assert first.figures == again.figures


def test_a_scan_of_something_else_scores_higher_than_all(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    like = finish(score(models, make_scan(1), SETTINGS, calibration)).figures
    moved = finish(score(models, make_scan(0, np.roll(make_scan(1).image, 5, 0)), SETTINGS, calibration)).figures
    assert moved["p_outlier"] == pytest.approx(1 / 11)
    assert moved["p_bits_per_dimension"] == pytest.approx(1 / 11)
    assert like["p_outlier"] > 1 / 11
    assert all(moved[name] >= like[name] for name in SCORES[:2])


def test_a_p_value_counts_the_scan_itself() -> None:
    assert p_value(5.0, np.array([1.0, 2.0, 3.0])) == 0.25
    assert p_value(2.0, np.array([1.0, 2.0, 3.0])) == 0.75
