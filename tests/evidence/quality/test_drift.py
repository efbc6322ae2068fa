"""What screening did, on screens whose effect is known."""

from dataclasses import replace

import numpy as np
import pytest

from meddiff_core.contract import CategoricalCondition, ContinuousCondition
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.inputs import FirstAttempts
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.drift import (
    acceptance_section,
    kolmogorov_smirnov,
    permutation_p,
    screening_drift,
    subgroups_and_drift,
    total_variation,
)
from meddiff_core.evidence.quality.subgroups import subgroups_of

BOOTSTRAP = Bootstrap(100, 0.95, 0)
SPECS = (
    CategoricalCondition(name="sex", categories=("F", "M")),
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=17),
)


def conditions(n, seed=0):
    ages = np.random.default_rng(seed).uniform(20, 80, n)
    return [{"sex": "FM"[row % 2], "age": float(age)} for row, age in enumerate(ages)]


class Unread:
    """Volumes of which only the conditions matter."""

    def __len__(self):
        return 0

    def image(self, index):
        raise AssertionError

    def label(self, index):
        raise AssertionError


def first_attempts(volumes, accepted, requested=None):
    ids = [f"syn-{row:06d}-0" for row in range(len(accepted))]
    return FirstAttempts(volumes, ids, accepted, requested or conditions(len(accepted)), [{}] * len(accepted))


def rows_and_sides(n, rejected, shift, seed=0):
    """n first attempts, of which some are replaced; rejected ones lie `shift` away."""
    rows = np.random.default_rng(seed).standard_normal((n + rejected, 5))
    rows[:rejected] += shift
    number = np.arange(n + rejected)
    return rows, number < n, number >= rejected


def test_a_screen_that_rejects_nothing_causes_no_drift():
    rows, _, _ = rows_and_sides(40, 0, 0)
    everything = np.ones(40, bool)
    found = screening_drift(rows, everything, everything, BOOTSTRAP)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_drift_of_a_blind_screen_is_zero_on_average_though_the_sets_share_volumes():
    values = [screening_drift(*rows_and_sides(40, 10, 0, seed), Bootstrap(2, 0.9, 0)).value for seed in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)


def test_a_screen_that_keeps_a_kind_out_causes_drift():
    found = screening_drift(*rows_and_sides(60, 20, 2.0), BOOTSTRAP)
    assert found.low > 0
    assert found.n == 60


def test_more_volumes_than_are_compared_are_drawn_by_seed(monkeypatch):
    monkeypatch.setattr("meddiff_core.evidence.quality.drift.LARGEST_UNION", 30)
    found = screening_drift(*rows_and_sides(60, 20, 2.0), BOOTSTRAP)
    assert found.n < 30
    assert found == screening_drift(*rows_and_sides(60, 20, 2.0), BOOTSTRAP)


def test_total_variation_by_hand():
    assert total_variation(np.array(["a", "a", "b", "c"]), np.array(["a", "b", "b", "d"])) == pytest.approx(0.5)


def test_permutations_find_a_screen_that_looks_at_a_condition_and_no_other():
    sexes = np.array(["F", "M"] * 50)
    accepted = np.ones(100, bool)
    accepted[:20:2] = False
    assert permutation_p(total_variation, sexes, accepted, BOOTSTRAP) < 0.05
    evenly = np.ones(100, bool)
    evenly[:10] = False
    assert permutation_p(total_variation, sexes, evenly, BOOTSTRAP) > 0.5
    assert permutation_p(total_variation, sexes, np.ones(100, bool), BOOTSTRAP) is None


def acceptance(accepted, requested):
    groups = subgroups_of(SPECS, requested, 18)
    return acceptance_section(first_attempts(Unread(), accepted, requested), groups, BOOTSTRAP)


def test_acceptance_ratio_is_that_of_the_cell_where_it_is_lowest():
    requested = conditions(200)
    old_women = [one["sex"] == "F" and one["age"] >= 50 for one in requested]
    rejected = np.flatnonzero(old_women)[: sum(old_women) // 2]
    accepted = [row not in rejected for row in range(200)]
    found = acceptance(accepted, requested)
    (metric,) = found.metrics
    lowest = min(row[3] for row in found.tables[0].rows)
    assert lowest < 0.65
    assert metric.value == pytest.approx(lowest / np.mean(accepted), rel=1e-2)
    assert metric.high < 1
    assert [row[:3] for row in found.tables[0].rows][-1] == ("all", 200, sum(accepted))


def test_an_even_screen_has_a_ratio_that_may_be_one():
    accepted = np.random.default_rng(5).random(200) < 0.7
    (metric,) = acceptance(accepted.tolist(), conditions(200)).metrics
    assert metric.low < 1 <= metric.high


@pytest.fixture(scope="module")
def case(make_heads, audit_of, contract):
    """Twenty places; the first four draws were dark and have been drawn again."""
    heads = make_heads(24, 2)
    images = heads.images.copy()
    images[:4] = images[:4] // 2
    drawn = type(heads)(images, heads.labels)
    accepted = [row >= 4 for row in range(20)]
    order = [*range(4, 20), *range(20, 24)]
    ids = [f"syn-{row:06d}-0" for row in range(4, 20)] + [f"syn-{row:06d}-1" for row in range(4)]
    requested = conditions(20)
    with_conditions = contract.model_copy(update={"conditions": SPECS})
    return audit_of(
        {"train": make_heads(24, 0), "holdout": make_heads(20, 1)},
        drawn.take(order),
        {"train": conditions(24, 5), "holdout": conditions(20, 7)},
        contract=with_conditions,
        requested=[requested[int(one.split("-")[1])] for one in ids],
        sample_ids=ids,
        extractors=[RandomConvFeatures(with_conditions, width=4)],
        first_attempts=first_attempts(drawn.take(slice(20)), accepted, requested),
    )


def test_the_screen_of_dark_volumes_is_told(case, finish):
    section = finish(subgroups_and_drift(case, Bootstrap(30, 0.95, 0)))
    metrics = {metric.name: metric for metric in section.metrics}
    assert metrics["screening_drift:random-conv"].low > 0
    distances = next(table for table in section.tables if table.title.startswith("Distance"))
    before, after = (row[2] for row in distances.rows[:2])
    assert before > after
    shifts = next(table for table in section.tables if table.title == "Shift of conditions")
    assert [row[:2] for row in shifts.rows] == [("sex", 0), ("age", 0)]  # every place was filled


def test_no_volume_is_looked_at_twice(case, finish):
    seen = []
    work = subgroups_and_drift(case, Bootstrap(5, 0.95, 0))
    for progress in work:
        if progress.done == progress.total:
            seen.append(progress.total)
    assert seen == [20, 24, 20, 4]


def test_without_first_attemptss_the_section_says_what_is_not_known(case, finish):
    bare = replace(case, first_attempts=None)
    section = finish(subgroups_and_drift(bare, Bootstrap(5, 0.95, 0)))
    assert any("first attempts" in said for said in section.statements)
    assert not any(metric.name.startswith("screening") for metric in section.metrics)


@pytest.mark.parametrize("rejected", [1, 2, 9])
def test_a_single_rejected_or_accepted_volume_has_its_shift(rejected):
    ages, accepted = np.arange(10.0), np.arange(10) >= rejected
    p = permutation_p(kolmogorov_smirnov, ages, accepted, Bootstrap(400, 0.95, 0))
    # the lowest, or all but the highest: of all choices of as many only this one and its mirror are as far off
    assert p == pytest.approx({1: 2 / 10, 2: 2 / 45, 9: 2 / 10}[rejected], abs=0.06)
