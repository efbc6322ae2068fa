"""Counts are met, quotas hold at every slot, and a larger cohort begins like a smaller one."""

from fractions import Fraction
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.contract import CategoricalCondition, Condition, Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.cells import apportion, rake
from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.region import Region, describe_region
from meddiff_core.study import CohortConfig

NOWHERE = Path("nowhere")
OLD_WOMEN = {"sex": "F", "age": [60, None]}
YOUNG = {"age": [None, 50]}


def people(count: int = 200) -> list[Condition]:
    random = np.random.default_rng(0)
    return [
        {"age": float(np.clip(random.normal(60 if n % 2 else 40, 9), 20, 80).round()), "sex": "MF"[n % 2]}
        for n in range(count)
    ]


def design_of(contract: Contract, **changes: Any) -> CohortDesign:
    return CohortDesign(CohortConfig.model_validate(changes), contract.conditions, people(), NOWHERE)


def sample_rows(design: CohortDesign, count: int) -> list[Condition]:
    return [design.condition(slot) for slot in range(count)]


counts = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(counts)
def test_every_cell_has_its_quota_rounded_after_every_slot_and_exactly_at_the_end(counts: list[int]) -> None:
    total = sum(counts)
    shares = [Fraction(count, total) for count in counts]
    given_out = [0] * len(counts)
    for slots, cell in enumerate(islice(apportion(shares), total), start=1):
        given_out[cell] += 1
        for share, found in zip(shares, given_out, strict=True):
            assert abs(found - slots * share) < 1
    assert given_out == counts


@given(counts, st.integers(2, 4))
def test_counts_that_grow_alike_keep_the_first_slots(counts: list[int], factor: int) -> None:
    small, large = (
        list(islice(apportion([Fraction(times * count, times * sum(counts)) for count in counts]), times * sum(counts)))
        for times in (1, factor)
    )
    assert large[: len(small)] == small


@settings(max_examples=15)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 10))
def test_a_cohort_holds_exactly_what_its_cells_count(contract: Contract, women: int, young: int, any_age: int) -> None:
    cells = [{"where": OLD_WOMEN, "count": women}, {"where": YOUNG, "count": young}, {"count": any_age}]
    design = design_of(contract, cells=cells)
    size = women + young + any_age
    tally = design.tally(range(size))
    assert [cell.name for cell in tally] == ["sex F, age 60 or more", "age up to 50", "anywhere"]
    assert [(cell.wanted, cell.accepted) for cell in tally] == [(n, n) for n in (women, young, any_age)]
    old_women, young_people = Region({"age": (60, 80)}, {"sex": ("F",)}), Region({"age": (20, 50)})
    sampled = sample_rows(design, size)
    assert sum(old_women.holds(row) for row in sampled) >= women
    assert sum(young_people.holds(row) for row in sampled) >= young
    assert not [row for row in sampled if row in people()]


def test_what_was_accepted_is_counted_by_cell(contract: Contract) -> None:
    design = design_of(contract, cells=[{"where": YOUNG, "count": 4}, {"where": OLD_WOMEN, "count": 4}])
    found = design.tally([slot for slot in range(8) if design.condition(slot)["age"] <= 50])  # type: ignore[operator]
    assert [(cell.wanted, cell.accepted) for cell in found] == [(4, 4), (4, 0)]


def test_growing_a_cohort_of_shares_leaves_its_first_slots_as_they_were(contract: Contract) -> None:
    cells = [{"where": OLD_WOMEN, "share": 0.3}, {"where": YOUNG, "share": 0.7}]
    small, large = (sample_rows(design_of(contract, cells=cells, size=size), size) for size in (17, 90))
    assert large[:17] == small
    shares = {"sex": {"F": 0.8, "M": 0.2}}
    small, large = (sample_rows(design_of(contract, shares=shares, size=size), size) for size in (17, 90))
    assert large[:17] == small


def test_counts_are_exact_beside_shares_that_were_rounded(contract: Contract) -> None:
    cells = [{"where": YOUNG, "count": 10}, *[{"where": {"sex": sex}, "share": 0.444} for sex in "FM"]]
    assert [cell.wanted for cell in design_of(contract, cells=cells, size=90).tally([])] == [10, 40, 40]


def test_a_cohort_without_cells_has_no_table(contract: Contract) -> None:
    assert design_of(contract).tally(range(200)) == []
    assert design_of(contract, distributions={"age": [30, 40]}).tally(range(200)) == []


def test_every_condition_lies_where_the_study_says(contract: Contract) -> None:
    design = design_of(contract, where=OLD_WOMEN, size=300)
    region = Region({"age": (60, 80)}, {"sex": ("F",)})
    assert all(region.holds(row) and row not in people() for row in sample_rows(design, 300))
    assert [(cell.name, cell.wanted) for cell in design.tally([])] == [("sex F, age 60 or more", 300)]


def test_where_holds_for_every_cell(contract: Contract) -> None:
    design = design_of(contract, where={"age": [40, 60]}, cells=[{"where": {"age": [50, 80]}, "count": 20}])
    assert all(50 <= row["age"] <= 60 for row in sample_rows(design, 20))  # type: ignore[operator]


def test_shares_change_how_often_a_category_comes_and_nothing_else(contract: Contract) -> None:
    sampled = sample_rows(design_of(contract, shares={"sex": {"F": 0.25, "M": 0.75}}, size=1200), 1200)
    assert sum(row["sex"] == "F" for row in sampled) == 300
    plain = sample_rows(design_of(contract), 1200)
    for sex in "FM":
        ages, expected = ([row["age"] for row in rows if row["sex"] == sex] for rows in (sampled, plain))
        assert np.mean(ages) == pytest.approx(np.mean(expected), abs=1.5)  # type: ignore[arg-type]


shares = st.lists(st.floats(0.05, 1), min_size=2, max_size=3)


@given(shares, shares, st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_raked_weights_have_the_wanted_margins(first: list[float], second: list[float], weights: list[float]) -> None:
    targets = {"a": dict(zip("xyz", first, strict=False)), "b": dict(zip("uvw", second, strict=False))}
    combinations = [{"a": a, "b": b} for a, b in product(targets["a"], targets["b"])]
    found = rake(combinations, weights[: len(combinations)], targets)
    assert sum(found) == 1
    for name, wanted in targets.items():
        for level, share in wanted.items():
            margin = sum(weight for one, weight in zip(combinations, found, strict=True) if one[name] == level)
            assert float(margin) == pytest.approx(share / sum(wanted.values()), abs=1e-3)


def test_raking_keeps_what_goes_together() -> None:
    combinations = [{"a": a, "b": b} for a, b in product("xy", "uv")]
    found = rake(combinations, [0.4, 0.1, 0.1, 0.4], {"a": {"x": 0.2, "y": 0.8}, "b": {"u": 0.5, "v": 0.5}})
    ratio = float(found[0] * found[3] / (found[1] * found[2]))
    assert ratio == pytest.approx(16, rel=1e-3)


def test_a_cell_with_few_people_is_sampled_evenly_and_says_so(contract: Contract) -> None:
    train: list[Condition] = [row for row in people() if isinstance(row["age"], float) and row["age"] < 70]
    config = CohortConfig.model_validate({"cells": [{"where": {"age": [70, 80]}, "count": 5}, {"count": 5}]})
    design = CohortDesign(config, contract.conditions, train, NOWHERE)
    assert design.notes() == ["age 70 to 80: sampled evenly, because too few training volumes lie there"]
    assert [cell.even for cell in design.tally([])] == [True, False]


def test_a_cell_may_lie_beyond_training_where_that_is_allowed(contract: Contract) -> None:
    cells = [{"where": {"age": [85, 95]}, "count": 5}]
    with pytest.raises(ConfigurationError, match=r"cells\.0\.where\.age: must be .* within \[20, 80\], is \[85, 95\]"):
        design_of(contract, cells=cells)
    sampled = sample_rows(design_of(contract, cells=cells, extrapolation="allow"), 5)
    assert all(85 <= row["age"] <= 95 for row in sampled)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"where": {"agee": [30, 40]}}, r"cohort\.where\.agee: must be one of \['age', 'sex'\]; did you mean age\?"),
        ({"where": {"age": [10, 40]}}, r"where\.age: must be \[low, high\] within \[20, 80\], is \[10, 40\]; `cohort"),
        ({"where": {"age": [40, 30]}}, r"where\.age: must be \[low, high\]"),
        ({"where": {"age": None}}, r"where\.age: must be \[low, high\]"),
        ({"where": {"age": "old"}}, r"where\.age: must be \[low, high\]"),
        ({"where": {"age": [True, 40]}}, r"where\.age: must be \[low, high\]"),
        ({"where": {"sex": "X"}}, r"where\.sex: must be in \['F', 'M'\], is 'X'"),
        ({"where": {"sex": []}}, r"where\.sex: must be in \['F', 'M'\], is \[\]"),
        ({"where": {"sex": "F"}, "cells": [{"where": {"sex": "M"}, "count": 3}]}, r"cells\.0\.where: must lie within"),
        ({"cells": [{"count": 1}, {"where": {"age": 99}, "count": 2}]}, r"cells\.1\.where\.age: must be .*, is 99"),
        ({"shares": {"sexx": {"F": 1}}}, r"cohort\.shares\.sexx: .* did you mean sex\?"),
        ({"shares": {"age": {"F": 1}}}, r"cohort\.shares\.age: must be categories, is numbers"),
        ({"shares": {"sex": {"X": 1}}}, r"cohort\.shares\.sex: must be shares of \['F', 'M'\], is \{'X': 1"),
        ({"shares": {"sex": {}}}, r"cohort\.shares\.sex: must be shares"),
        ({"shares": {"sex": {"F": 0}}}, r"cohort\.shares\.sex: shares must be numbers above 0"),
        ({"where": {"sex": "F"}, "shares": {"sex": {"F": 1, "M": 1}}}, r"shares\.sex: must be shares of \['F'\]"),
    ],
)
def test_a_part_that_cannot_be_sampled_is_refused_by_its_key(
    contract: Contract, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        design_of(contract, **changes)


def test_a_category_that_looks_like_a_number_may_be_written_as_one() -> None:
    spec = CategoricalCondition(name="site", categories=("1", "2"))
    config = CohortConfig.model_validate({"where": {"site": 2}})
    assert CohortDesign(config, (spec,), [{"site": "1"}, {"site": "2"}], NOWHERE).condition(0) == {"site": "2"}


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({}, "anywhere"),
        ({"age": [60, 90], "sex": "F"}, "age 60 to 90, sex F"),
        ({"brain_mm3": [None, 1_200_000]}, "brain mm3 up to 1200000"),
        ({"age": [None, None]}, "anywhere"),
        ({"age": 60.5, "sex": ["F", "M"]}, "age 60.5, sex F or M"),
        ({"site": ["A", "B", "C"]}, "site A or B or C"),
    ],
)
def test_a_region_is_told_as_it_was_written(where: dict[str, Any], words: str) -> None:
    assert describe_region(where) == words
