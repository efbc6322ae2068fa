"""Conditions of a region: those of the whole distribution that fall into it, even ones where few people are."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ContinuousCondition
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.joint import CATEGORY_SMOOTHING, FEW, SmoothedJoint
from meddiff_core.generation.region import Region, is_extrapolated

SPECS: tuple[ConditionSpec, ...] = (
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=12),
    CategoricalCondition(name="sex", categories=("F", "M")),
    ContinuousCondition(name="weight", low=40, high=120, mean=75, std=15),
)


def people(count: int = 200) -> list[Condition]:
    """Training rows in which women are older, older people lighter, and some values are not known."""
    random, rows = np.random.default_rng(0), list[Condition]()
    for number in range(count):
        sex = "FM"[number % 2]
        age = float(np.clip(random.normal(58 if sex == "F" else 42, 10), 20, 80).round())
        weight = float(np.clip(random.normal(110 - 0.7 * age, 6), 40, 120).round())
        unknown = number % 15
        rows.append({"age": None if unknown == 3 else age, "sex": None if unknown == 7 else sex, "weight": weight})
    return rows


TRAIN = people()


def sample_rows(region: Region, count: int, train: list[Condition] | None = None) -> list[Condition]:
    joint = SmoothedJoint(SPECS, TRAIN if train is None else train, region)
    return [joint.sample(np.random.default_rng([1, number])) for number in range(count)]


def values(rows: list[Condition], name: str) -> Any:
    return np.array([row[name] for row in rows])


@pytest.fixture(scope="module")
def everywhere() -> list[Condition]:
    """Draws from the whole distribution, by a stream of their own: to be compared, samples must be independent."""
    joint, random = SmoothedJoint(SPECS, TRAIN), np.random.default_rng(0)
    return [joint.sample(random) for _ in range(8000)]


def test_a_category_is_as_probable_as_the_smoothing_makes_it() -> None:
    known = [row["sex"] for row in TRAIN if row["sex"] is not None]
    marginal = known.count("M") / len(known)
    own = [marginal if row["sex"] is None else float(row["sex"] == "M") for row in TRAIN]
    expected = (1 - CATEGORY_SMOOTHING) * np.mean(own) + CATEGORY_SMOOTHING * marginal
    assert SmoothedJoint(SPECS, TRAIN, Region({}, {"sex": ("M",)})).probability == pytest.approx(expected)


def test_the_whole_range_is_certain_and_its_parts_add_up_to_it() -> None:
    parts = [(20.0, 33.0), (33.0, 60.0), (60.0, 80.0)]
    masses = [SmoothedJoint(SPECS, TRAIN, Region({"age": ends})).probability for ends in [(20.0, 80.0), *parts]]
    assert masses[0] == pytest.approx(1)
    assert sum(masses[1:]) == pytest.approx(1)


@pytest.mark.parametrize(
    "region",
    [
        Region({"age": (55.0, 70.0)}, {"sex": ("F",)}),
        Region({"age": (66.0, 80.0)}),  # up to the end of the range, where clouds are folded
        Region({}, {"sex": ("M",)}),
        Region({"age": (20.0, 45.0), "weight": (70.0, 85.0)}),
    ],
)
def test_a_region_holds_the_part_of_the_whole_distribution_that_falls_into_it(
    everywhere: list[Condition], region: Region
) -> None:
    fallen = [row for row in everywhere if region.holds(row)]
    joint, sampled = SmoothedJoint(SPECS, TRAIN, region), sample_rows(region, 1500)
    assert not joint.even
    assert all(region.holds(row) for row in sampled)
    assert joint.probability == pytest.approx(len(fallen) / len(everywhere), abs=0.02)
    for name in ("age", "weight"):
        assert ks_2samp(values(fallen, name), values(sampled, name)).pvalue > 1e-3
    women = [np.mean(values(rows, "sex") == "F") for rows in (fallen, sampled)]
    assert women[1] == pytest.approx(women[0], abs=0.04)


@settings(max_examples=60)
@given(
    st.tuples(st.floats(20, 80), st.floats(20, 80)).map(sorted),
    st.sampled_from([(), ("F",), ("M",), ("F", "M")]),
    st.integers(0, 10**6),
)
def test_a_condition_lies_in_its_region_is_complete_and_nobodys(
    ends: list[float], levels: tuple[str, ...], seed: int
) -> None:
    region = Region({"age": (ends[0], ends[1])}, {"sex": levels} if levels else {})
    sampled = SmoothedJoint(SPECS, TRAIN, region).sample(np.random.default_rng(seed))
    assert region.holds(sampled)
    assert None not in sampled.values()
    assert sampled not in TRAIN
    assert not is_extrapolated(sampled, SPECS)


def test_a_single_value_is_met_and_leaves_the_rest_as_it_goes_with_it() -> None:
    sampled = sample_rows(Region({"age": (60.0, 60.0)}), 500)
    assert set(values(sampled, "age")) == {60.0}
    assert values(sampled, "weight").mean() == pytest.approx(110 - 0.7 * 60, abs=2.5)


def test_where_few_rows_lie_what_is_bounded_is_sampled_evenly() -> None:
    train = [row for row in people() if not isinstance(row["age"], float) or row["age"] < 70]
    region = Region({"age": (70.0, 80.0)})
    assert SmoothedJoint(SPECS, train, region).even
    ages = values(sample_rows(region, 1000, train), "age")
    assert np.histogram(ages, 5, (70, 80))[0].min() > 160
    one: Condition = {"age": 75.0, "sex": "F", "weight": 50.0}
    lone = [*train, *[one] * (FEW - 1)]
    assert SmoothedJoint(SPECS, lone, region).even
    assert not SmoothedJoint(SPECS, [*lone, one], region).even


def test_a_region_beyond_the_training_range_is_sampled_evenly() -> None:
    sampled = sample_rows(Region({"age": (85.0, 95.0)}), 300)
    ages = values(sampled, "age")
    assert 85 <= ages.min() < 86
    assert 94 < ages.max() <= 95
    assert all(is_extrapolated(row, SPECS) for row in sampled)


def test_a_region_that_holds_one_row_alone_is_refused_rather_than_handing_it_out() -> None:
    region = Region({"age": (50.0, 50.0), "weight": (70.0, 70.0)}, {"sex": ("F",)})
    with pytest.raises(ConfigurationError, match="exact training row"):
        sample_rows(region, 1, [{"age": 50.0, "sex": "F", "weight": 70.0}])


def test_only_numbers_outside_what_training_saw_are_extrapolated() -> None:
    inside: Condition = {"age": 80.0, "sex": "F", "weight": None}
    assert not is_extrapolated(inside, SPECS)
    assert is_extrapolated({**inside, "age": 80.1}, SPECS)
    assert is_extrapolated({**inside, "weight": 39.9}, SPECS)
    assert not is_extrapolated({}, SPECS)
