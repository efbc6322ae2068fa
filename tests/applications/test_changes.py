"""Counterfactuals and edits of scans whose every answer is known: what was asked for comes, all else stays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks import volumes
from meddiff_core.applications.tasks.counterfactual import counterfactual, next_weight
from meddiff_core.applications.tasks.edit import edit, sigma_of
from meddiff_core.applications.tasks.encoding import mean_labels
from meddiff_core.errors import ConfigurationError


def settings(**changes: Any) -> TaskSettings:
    return TaskSettings(**({"samples": 2, "steps": 8} | changes))


@pytest.mark.parametrize("asked", [350.0, 700.0])
def test_a_volume_that_is_asked_for_is_measured(models, make_scan, calibration, finish, asked: float) -> None:  # type: ignore[no-untyped-def]
    scan = make_scan(1)
    outcome = finish(counterfactual(models, scan, settings(asked={"ball_mm3": asked}), calibration))
    change = outcome.figures["asked_change_ball_mm3"]
    assert outcome.figures["measured_change_ball_mm3"] == pytest.approx(change, rel=0.2)
    before, after = (scan.image > 0.7).sum(), (outcome.maps["image"].array > 0.7).sum()
    assert after - before == pytest.approx(asked - before, rel=0.25)
    assert (outcome.maps["labels"].array == 1).sum() - before == pytest.approx(asked - before, rel=0.25)


def test_a_change_of_a_structure_fades_with_the_distance_from_it(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    scan = make_scan(1)
    outcome = finish(counterfactual(models, scan, settings(asked={"ball_mm3": 700.0}), calibration))
    change = np.abs(outcome.maps["difference"].array)
    assert change[0, 0, 0] < 0.5 * change[4, 4, 4] < change.max()


def test_volumes_are_read_by_a_network_that_took_no_part(models, make_scan, tmp_path, finish, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(volumes, "FEWEST", 8)
    monkeypatch.setattr(volumes, "STEPS", 25)
    scans = [make_scan(number) for number in range(100, 108)]
    known = [replace(scan, labels=(scan.image > 0.7).astype(np.uint8)) for scan in scans]
    calibration = Calibration(models, lambda: known, tmp_path)
    first = finish(mean_labels(models, calibration))
    read = finish(volumes.volume_reader(models, calibration, first))
    found = [(read(scan.image)["ball"], (scan.image > 0.7).sum()) for scan in map(make_scan, range(6))]
    assert np.corrcoef(np.transpose(found))[0, 1] > 0.9
    again = Calibration(models, list, tmp_path)
    assert finish(volumes.volume_reader(models, again, first))(scans[0].image) == read(scans[0].image)


def test_what_nobody_asked_to_change_keeps_its_texture(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    scan = make_scan(2)
    outcome = finish(counterfactual(models, scan, settings(asked={"ball_mm3": 700.0}), calibration))
    corner = np.s_[:4, :4, :4]
    assert np.abs(outcome.maps["difference"].array[corner]).max() < 0.01
    assert np.std(outcome.maps["image"].array[corner] - scan.image[corner]) < 0.2 * np.std(scan.image[corner])


def test_to_ask_for_what_a_scan_has_changes_nothing(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    scan = replace(make_scan(3), condition={"sex": "F", "ball_mm3": 500.0})
    outcome = finish(counterfactual(models, scan, settings(asked={"ball_mm3": 500.0}), calibration))
    np.testing.assert_array_equal(outcome.maps["image"].array, scan.image)


@pytest.mark.parametrize("task", [counterfactual, edit])
@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"ball_mm3": 2000.0}, "extrapolate"),
        ({"ball_mm3": float("nan")}, "finite"),
        ({"ball_mm3": "large"}, "number"),
        ({"ball_mm3": None}, "number"),
        ({"sex": "X"}, "'F', 'M'"),
        ({"height": 170.0}, "height"),
    ],
)
def test_a_condition_that_training_never_saw_is_refused(  # type: ignore[no-untyped-def]
    models, make_scan, calibration, finish, task, asked, named
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        finish(task(models, make_scan(1), settings(asked=asked), calibration))


def test_a_number_out_of_range_may_be_allowed_but_no_negative_volume(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    allowed = settings(asked={"ball_mm3": 1000.0}, extrapolate=True)
    assert finish(counterfactual(models, make_scan(1), allowed, calibration)).figures["weight"] > 0
    with pytest.raises(ConfigurationError, match="0 mm3 or more"):
        finish(counterfactual(models, make_scan(1), settings(asked={"ball_mm3": -1.0}, extrapolate=True), calibration))


def test_a_counterfactual_needs_a_condition(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigurationError, match="at least one"):
        finish(counterfactual(models, make_scan(1), settings(), calibration))


def test_the_next_weight_lies_where_lines_meet_the_whole_change() -> None:
    assert next_weight({0.0: 0.0, 4.0: 0.8}) == pytest.approx(5.0)
    assert next_weight({0.0: 0.0, 4.0: 1.6}) == pytest.approx(2.5)
    assert next_weight({0.0: 0.0, 4.0: 0.8, 8.0: 1.2}) == pytest.approx(6.0)
    assert next_weight({0.0: 0.0, 4.0: -0.3}) == pytest.approx(10.0)
    assert next_weight({0.0: 0.0, 12.0: 0.1}) == 12.0


def test_a_stronger_edit_changes_more_and_none_nothing(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    scan = make_scan(4)
    changes = [
        finish(edit(models, scan, settings(strength=strength), calibration)).figures["rms_change"]
        for strength in (0.0, 0.05, 0.2, 0.9)
    ]
    assert changes[0] == 0
    assert changes[1] < changes[2] < changes[3]


def test_an_edit_follows_a_condition_and_has_the_same_bits_again(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    asked = settings(strength=0.9, asked={"ball_mm3": 800.0})
    first, again = (finish(edit(models, make_scan(1), asked, calibration)) for _ in range(2))
    assert first.figures["change_ball_mm3"] > 100
    for name, result in first.maps.items():
        np.testing.assert_array_equal(result.array, again.maps[name].array)


def test_samples_of_an_edit_do_not_depend_on_their_number(models, make_scan, calibration, finish) -> None:  # type: ignore[no-untyped-def]
    one, three = (
        finish(edit(models, make_scan(1), settings(samples=count), calibration)).maps["image"].array for count in (1, 3)
    )
    np.testing.assert_array_equal(one, three)


def test_strength_is_the_share_of_noise() -> None:
    assert sigma_of(0) == 0
    assert sigma_of(0.5) == 1
    assert sigma_of(1) == 40
    with pytest.raises(ConfigurationError, match="strength"):
        sigma_of(1.5)
