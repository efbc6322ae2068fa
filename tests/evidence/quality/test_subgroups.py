"""Subgroups: who is in them, what may be shown, and a fault that only one of them has."""

import numpy as np
import pytest

from meddiff_core.contract import CategoricalCondition, ContinuousCondition
from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.distances import Sides
from meddiff_core.evidence.quality.subgroups import SubjectTables, round_quantiles, subgroup_section, subgroups_of

BOOTSTRAP = Bootstrap(60, 0.95, 0)
SPECS = (
    CategoricalCondition(name="sex", categories=("F", "M")),
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=17),
)


def features(values):
    return Features(np.asarray(values, np.float32), "x", "0" * 64, "1" * 64)


def conditions(n, women, seed):
    ages = np.random.default_rng(seed).uniform(20, 80, n)
    return [{"sex": "F" if row < women else "M", "age": float(age)} for row, age in enumerate(ages)]


def subjects_with(women=(20, 20, 20), n=(40, 40, 40)):
    sides = Sides(*[conditions(count, few, seed) for seed, (count, few) in enumerate(zip(n, women, strict=True))])
    return SubjectTables(sides, [[f"{side}-{row}" for row in range(len(rows))] for side, rows in enumerate(sides.real)])


def normal(n, seed):
    return np.random.default_rng(seed).standard_normal((n, 6))


def section_of(who, shift_of_women=0.0):
    synthetic, train, holdout = (normal(len(side), seed) for seed, side in enumerate(who.conditions))
    women = [one["sex"] == "F" for one in who.conditions.synthetic]
    synthetic[women] += shift_of_women
    sides = Sides(features(synthetic), features(train), features(holdout))
    return subgroup_section(sides, who, subgroups_of(SPECS, who.conditions.train, len(holdout)), BOOTSTRAP)


def test_every_known_volume_is_in_one_group_of_each_condition():
    train = conditions(60, 30, 0)
    groups = subgroups_of(SPECS, train, 60)
    assert [group.name for group in groups[:2]] == ["sex F", "sex M"]
    for name in ("sex", "age"):
        inside = np.stack([group.holds(train) for group in groups if group.condition == name])
        np.testing.assert_array_equal(inside.sum(0), 1)
    assert sum(group.holds([{"age": None, "sex": None}, {}]).sum() for group in groups) == 0


@pytest.mark.parametrize(("volumes", "bands"), [(18, 2), (36, 3)])
def test_few_volumes_are_cut_into_fewer_bands(volumes, bands):
    groups = subgroups_of(SPECS[1:], conditions(90, 0, 0), volumes)
    assert len(groups) == bands
    assert [group.high for group in groups[:-1]] == [group.low for group in groups[1:]]


def test_edges_are_round_and_halve_the_volumes():
    ages = np.random.default_rng(0).uniform(20.21, 74.01, 500)
    (edge,) = round_quantiles(ages, 2)
    assert edge % 2.5 == 0
    assert np.mean(ages < edge) == pytest.approx(0.5, abs=0.06)
    assert round_quantiles(np.ones(9), 3) == []
    assert round_quantiles(np.zeros(0), 3) == []


def test_a_fault_of_one_subgroup_shows_there_and_nowhere_else():
    metrics = {metric.name: metric for metric in section_of(subjects_with(), shift_of_women=2.0).metrics}
    women, men = metrics["kernel_subgroup:x:sex F"], metrics["kernel_subgroup:x:sex M"]
    assert women.low > max(0, women.reference)
    assert men.low < 0 < men.high
    assert all(metric.reference is not None and metric.n == 10 for metric in (women, men))


def test_recall_is_shown_where_there_are_enough_neighbours():
    rows = {row[0]: row for row in section_of(subjects_with()).tables[0].rows}
    assert rows["sex F"][6] is not None
    assert {row[0]: row for row in section_of(subjects_with((10, 10, 10))).tables[0].rows}["sex F"][6] is None


def test_a_subgroup_that_is_too_small_says_what_it_needs_and_not_how_many_there_are():
    found = section_of(subjects_with((4, 20, 7)))
    row = next(row for row in found.tables[0].rows if row[0] == "sex F")
    assert row == ("sex F", *[None] * 7, "too small: needs 8 synthetic and held-out volumes")
    assert not any("sex F" in metric.name for metric in found.metrics)


@pytest.mark.parametrize("women", [0, 1, 4])
def test_the_size_of_a_subgroup_does_not_tell_how_few_are_in_the_other(women):
    """38 men among 40 would say that there are 2 women."""
    found = section_of(subjects_with((20, 20, women), (60, 60, 40)))
    sizes = {row[0]: row[1] for row in found.tables[0].rows}
    assert sizes["sex M"] == (40 - 5) // 2


def test_scans_of_few_subjects_are_no_subgroup():
    who = subjects_with()
    repeated = [who.subjects[0], [f"holdout-{row % 4}" if row < 20 else f"man-{row}" for row in range(40)]]
    found = section_of(SubjectTables(who.conditions, repeated))
    row = next(row for row in found.tables[0].rows if row[0] == "sex F")
    assert row[-1] == "too small: needs 5 training and held-out subjects"


def test_a_study_without_conditions_says_what_it_needs():
    sides = Sides(*[features(normal(10, seed)) for seed in range(3)])
    found = subgroup_section(sides, subjects_with(), [], BOOTSTRAP)
    assert "needs conditions" in found.statements[0]
