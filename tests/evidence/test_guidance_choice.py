"""The weight is taken that follows conditions best, of those that cost no likeness."""

import numpy as np
import pytest

from meddiff_core.evidence.guidance_choice import (
    Following,
    GuidanceChoice,
    Interval,
    MeasuredWeight,
    best_weight,
    describe_choice,
    is_better,
    is_settled,
    lines_of,
    measure_weight,
)
from meddiff_core.study import CalibrationConfig


def interval(value: float, noise: float = 0.1) -> Interval:
    return Interval(value=value, low=value - noise, high=value + noise)


def weight(guidance: float, slopes: list[float], distance: float) -> MeasuredWeight:
    following = [
        Following(
            condition=f"volume_{n}", r=interval(0.5), slope=interval(slope), intercept=1.0, bias=interval(0.2, 0.3)
        )
        for n, slope in enumerate(slopes)
    ]
    return MeasuredWeight(guidance=guidance, following=tuple(following), distance=interval(distance))


def test_the_slope_nearest_to_one_is_taken_from_either_side() -> None:
    rising = [weight(1, [0.6, 0.5], 0.3), weight(1.5, [0.9, 0.8], 0.3), weight(2, [1.1, 1.0], 0.3)]
    assert best_weight(rising).guidance == 2
    assert best_weight([rising[0], rising[1], weight(2, [1.5, 1.4], 0.3)]).guidance == 1.5


def test_a_weight_that_moves_samples_away_is_not_taken_however_well_they_follow() -> None:
    found = [weight(1, [0.6], 0.3), weight(1.5, [0.8], 0.39), weight(2, [1.0], 0.41)]
    assert best_weight(found).guidance == 1.5
    assert best_weight([found[0], weight(2, [1.0], 0.41)]).guidance == 1


@pytest.mark.parametrize(
    ("slopes", "distances", "settled"),
    [
        pytest.param([0.5], [0.3], False, id="more may help"),
        pytest.param([0.5, 1.05], [0.3, 0.3], True, id="more would exaggerate"),
        pytest.param([0.5, 0.8], [0.3, 0.41], True, id="more costs likeness"),
    ],
)
def test_no_more_weights_are_tried_than_can_help(slopes: list[float], distances: list[float], settled: bool) -> None:
    tried = [
        weight(1 + n, [slope], distance) for n, (slope, distance) in enumerate(zip(slopes, distances, strict=True))
    ]
    assert is_settled(tried) == settled


def test_of_equals_the_first_is_taken() -> None:
    assert best_weight([weight(1, [1.0], 0.3), weight(2, [1.0], 0.1)]).guidance == 1


def test_slopes_are_those_of_what_was_measured_and_gaps_are_left_out() -> None:
    random = np.random.default_rng(0)
    asked = [{"a": float(n), "b": None if n % 2 else float(n)} for n in range(32)]
    volumes = {"a": [0.5 * n + 3 for n in range(32)], "b": [2.0 * n if n % 2 == 0 else 1e9 for n in range(32)]}
    validation = random.normal(size=(20, 6))
    found = measure_weight(1.5, asked, volumes, random.normal(size=(32, 6)), validation, 0)
    assert [one.condition for one in found.following] == ["a", "b"]
    assert [one.slope.value for one in found.following] == pytest.approx([0.5, 2.0])
    assert [one.r.value for one in found.following] == pytest.approx([1, 1])
    assert found.off == pytest.approx(0.75)
    assert found.distance.low <= found.distance.value <= found.distance.high
    away = measure_weight(1.5, asked, volumes, random.normal(3, 1, size=(32, 6)), validation, 0)
    assert away.distance.low > found.distance.high


def noisy(slope: float, shift: float, r: float = 0.95, distance: float = 0.3) -> MeasuredWeight:
    """32 samples of one structure under those figures."""
    random, asked = np.random.default_rng(0), np.linspace(1000, 5000, 32)
    noise = random.normal(0, abs(slope) * asked.std() * np.sqrt(1 / r**2 - 1), 32)
    found = measure_weight(
        2.0,
        [{"a": value} for value in asked],
        {"a": 3000 + shift + slope * (asked - 3000) + noise},
        random.normal(size=(32, 6)),
        random.normal(size=(20, 6)),
        0,
    )
    return found.model_copy(update={"distance": interval(distance)})


@pytest.mark.parametrize(
    ("slope", "shift", "r", "count"),
    [
        pytest.param(0.5, 0, 0.95, 1, id="too flat"),
        pytest.param(1.5, 0, 0.95, 1, id="too steep"),
        pytest.param(1.0, -800, 0.95, 1, id="too small throughout"),
        pytest.param(1.0, 0, 0.95, 0, id="as asked, up to noise"),
        pytest.param(0.5, 0, 0.05, 0, id="no line at all"),
        pytest.param(0.05, 0, 0.99, 0, id="too flat to be inverted"),
        pytest.param(-0.5, 0, 0.95, 0, id="the wrong way round"),
    ],
)
def test_a_line_is_inverted_that_is_there_and_is_not_the_one_wanted(
    slope: float, shift: float, r: float, count: int
) -> None:
    found = noisy(slope, shift, r)
    lines = lines_of(found)
    assert len(lines) == count
    for line in lines:
        middle = line.intercept + line.slope * 3000
        assert middle == pytest.approx(3000 + found.following[0].bias.value * np.linspace(1000, 5000, 32).std())


def test_a_calibration_is_taken_that_follows_better_at_no_loss() -> None:
    plain = noisy(0.5, -300)
    assert is_better(noisy(0.9, -50), plain, plain)
    assert not is_better(noisy(0.5, -400), plain, plain), "follows no better"
    assert not is_better(noisy(0.9, -50, r=0.5), plain, plain), "scatters more"
    assert not is_better(noisy(0.9, -50, distance=0.45), plain, plain), "is less like the validation scans"


def test_samples_that_do_not_vary_follow_nothing() -> None:
    asked = [{"a": float(n)} for n in range(8)]
    validation, features = np.eye(6), np.eye(8, 6)
    found = measure_weight(1.0, asked, {"a": [7.0] * 8}, features, validation, 0)
    assert (found.following[0].slope.value, found.off) == (0, 1)


def test_a_choice_has_a_sentence_and_what_was_given_has_none() -> None:
    given = GuidanceChoice(guidance=2.0, interval=None, why="given")
    assert describe_choice(given) is None
    measured = (weight(1, [0.6], 0.3), weight(2, [0.97], 0.3))
    chosen = GuidanceChoice(guidance=2.0, interval=(0.3, 5.0), why="measured", measured=measured)
    text = describe_choice(chosen)
    assert text is not None
    assert "weight of 2 was chosen among 1, 2" in text
    assert "(0.97 for volume_0)" in text


@pytest.mark.parametrize("taken", [True, False])
def test_the_sentence_says_what_a_calibration_came_to(taken: bool) -> None:
    line = CalibrationConfig(condition="volume_0", intercept=1.0, slope=0.6)
    tried = weight(2, [0.97], 0.3).model_copy(update={"calibration": (line,)})
    measured = (weight(1, [0.4], 0.3), weight(2, [0.6], 0.3), tried)
    lines = (line,) if taken else ()
    choice = GuidanceChoice(guidance=2.0, interval=None, why="measured", measured=measured, calibration=lines)
    text = describe_choice(choice)
    assert text is not None
    assert "chosen among 1, 2 after" in text
    assert ("asked for the inverse of the line" in text, "brought no gain" in text) == (taken, not taken)
    assert "0.97 for volume_0" in text
