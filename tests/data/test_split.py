"""Sides of subjects: nobody moves, shares are met, strata are balanced, and a useless split is refused."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.artefacts import write_json
from meddiff_core.contract import Condition
from meddiff_core.data.fingerprint import Fingerprint
from meddiff_core.data.split.limits import FEWEST_VOLUMES, require_usable_sides
from meddiff_core.data.split.sides import SIDES, Split, assign_sides, read_split, sizes_of_new, stratifying_covariates
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import SplitConfig

NAMES = st.sets(st.text(max_size=6), min_size=1, max_size=30)
SHARES = (
    st.tuples(st.integers(1, 18), st.integers(1, 18))
    .filter(lambda pair: sum(pair) <= 19)
    .map(lambda pair: SplitConfig(train=pair[0] / 20, validation=pair[1] / 20))
)
USUAL = SplitConfig()


def bare(names: set[str]) -> dict[str, Condition]:
    """Subjects of whom nothing else is known."""
    return {name: {} for name in names}


def people(count: int, **covariates: Callable[[int], Any]) -> dict[str, Condition]:
    return {f"s{n:04d}": {name: value(n) for name, value in covariates.items()} for n in range(count)}


def counts_of(split: Split, subjects: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(split.sizes(list(subjects)).values())


@settings(max_examples=50, deadline=None)
@given(NAMES, NAMES, NAMES, SHARES, SHARES, st.integers(0, 99), st.integers(0, 99))
def test_nobody_ever_moves(
    first: set[str], gone: set[str], more: set[str], a: SplitConfig, b: SplitConfig, seed: int, other: int
) -> None:
    before = assign_sides(None, bare(first), a, seed)
    after = assign_sides(before, bare((first - gone) | more), b, other)
    back = assign_sides(after, bare(first), a, seed)
    assert before.sides.items() <= after.sides.items() <= back.sides.items()
    assert (after.train, after.validation, after.seed) == (a.train, a.validation, seed)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), SHARES)
def test_every_side_is_within_one_subject_of_its_share_and_none_is_empty(count: int, config: SplitConfig) -> None:
    sizes = sizes_of_new(config, count)
    shares = (config.train, config.validation, 1 - config.train - config.validation)
    assert sum(sizes.values()) == count
    if count >= len(SIDES):
        assert min(sizes.values()) >= 1
    if count * min(shares) >= 1:
        assert all(abs(sizes[side] - share * count) < 1 for side, share in zip(SIDES, shares, strict=True))


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (7, 1, 2)), (14, (10, 2, 2))]
)
def test_of_two_sides_that_lack_a_subject_alike_the_holdout_gets_it(count: int, sizes: tuple[int, ...]) -> None:
    assert tuple(sizes_of_new(USUAL, count).values()) == sizes


def test_a_side_without_a_share_stays_empty() -> None:
    assert sizes_of_new(SplitConfig(train=0.5, validation=0.0), 7) == {"train": 3, "validation": 0, "holdout": 4}


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), SHARES, st.randoms(use_true_random=False))
def test_the_order_of_the_subjects_decides_nothing(count: int, config: SplitConfig, random: Any) -> None:
    subjects = people(count, sex=lambda n: "MF"[n % 2], age=lambda n: float(n * 7 % 50))
    shuffled = dict(random.sample(list(subjects.items()), count))
    assert assign_sides(None, shuffled, config, 0) == assign_sides(None, subjects, config, 0)


def test_the_seed_decides_who_and_not_how_many() -> None:
    subjects = people(60)
    splits = [assign_sides(None, subjects, USUAL, seed) for seed in range(20)]
    assert {counts_of(split, subjects) for split in splits} == {(42, 9, 9)}
    held_out = Counter(name for split in splits for name, side in split.sides.items() if side == "holdout")
    assert len(held_out) > 50  # every place of the list is held out by some seed: 0.15 each, 20 times


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), SHARES, st.integers(0, 99))
def test_every_stratum_is_split_nearly_as_the_whole_is(sizes: list[int], config: SplitConfig, seed: int) -> None:
    sites = [site for site, size in enumerate(sizes) for _ in range(size)]
    subjects = people(len(sites), site=lambda n: f"site {sites[n]}")
    split = assign_sides(None, subjects, config, seed)
    whole = split.sizes(list(subjects))
    for site, size in enumerate(sizes):
        own = split.sizes([name for name, known in subjects.items() if known["site"] == f"site {site}"])
        assert all(abs(own[side] - whole[side] * size / len(sites)) <= 2.5 for side in SIDES)


def test_several_covariates_are_balanced_together_numbers_by_their_quartiles() -> None:
    subjects = people(
        200, sex=lambda n: "MF"[n * 13 // 7 % 2], age=lambda n: n * 37 % 101 / 1.5, code=lambda n: f"unique {n}"
    )
    split = assign_sides(None, subjects, USUAL, 3)
    for sex in "MF":
        for low, high in ((0, 17), (17, 34), (34, 51), (51, 68)):
            cell = [
                s for s, known in subjects.items() if known["sex"] == sex and low <= float(known["age"] or 0) < high
            ]
            sizes = split.sizes(cell)
            assert abs(sizes["train"] - 0.7 * len(cell)) <= 3
            assert sizes["holdout"] >= 1


def test_not_known_is_a_level_and_no_reason_to_fail() -> None:
    subjects = people(40, age=lambda n: None if n % 4 == 0 else float(n), sex=lambda n: None)
    unknown = assign_sides(None, subjects, USUAL, 0).sizes([name for name in subjects if int(name[1:]) % 4 == 0])
    assert unknown["train"] in (6, 7, 8)


def test_new_subjects_go_where_the_shares_lack_most() -> None:
    first = Split(sides={f"old {n}": "train" for n in range(12)}, train=0.7, validation=0.15, seed=0)
    for count, sizes in ((2, (0, 1, 1)), (8, (2, 3, 3))):
        after = assign_sides(first, bare(set(first.sides)) | people(count), USUAL, 0)
        assert counts_of(after, people(count)) == sizes


def test_who_is_gone_keeps_a_side_and_takes_no_place() -> None:
    first = assign_sides(None, people(20), USUAL, 0)
    after = assign_sides(first, {f"new {n}": {} for n in range(20)}, USUAL, 0)
    assert counts_of(after, {f"new {n}": {} for n in range(20)}) == (14, 3, 3)
    assert len(after.sides) == 40


def test_a_person_known_under_another_name_keeps_the_side() -> None:
    for side in SIDES:
        first = Split(sides={"old": side, "else": "train"}, train=0.7, validation=0.15, seed=0)
        after = assign_sides(first, bare({"else", "kept"}), USUAL, 0, [["kept", "old", "never seen"]])
        assert after.sides == {"else": "train", "kept": side, "old": side}


def test_names_of_one_person_on_two_sides_are_refused_by_name() -> None:
    first = Split(sides={"a": "train", "b": "holdout", "c": "train"}, train=0.7, validation=0.15, seed=0)
    with pytest.raises(ConfigurationError, match=r"'a' \(train\), 'b' \(holdout\) are on two; delete split\.json"):
        assign_sides(first, bare({"a", "c"}), USUAL, 0, [["b", "a"]])
    assert assign_sides(first, bare({"a", "c"}), USUAL, 0, [["c", "a"]]) == first


def test_a_subject_of_several_scans_has_one_row_of_covariates_whatever_their_order(figures: Any) -> None:
    kinds = {"age": "continuous", "sex": "categorical", "left": "volume of left"}
    found: Fingerprint = figures(
        6,
        kinds,
        subject=lambda n: f"p{n // 3}",
        covariates=lambda n: {"age": None if n % 3 == 0 else 30.0 + n, "sex": "MF"[n // 3], "left": 9.0},
    )
    rows = {"p0": {"age": 31.0, "sex": "M"}, "p1": {"age": 34.0, "sex": "F"}}
    assert stratifying_covariates(found) == rows
    assert stratifying_covariates(found.model_copy(update={"cases": found.cases[::-1]})) == rows


def test_a_split_comes_back_from_disk_and_what_is_none_is_refused(tmp_path: Path) -> None:
    split = assign_sides(None, people(9), USUAL, 0)
    write_json(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json") == split
    (tmp_path / "split.json").write_text('{"sides": {"s01": "training"}}')
    with pytest.raises(ConfigurationError, match=r"split\.json must say .* restore it, or delete it"):
        read_split(tmp_path / "split.json")


def refusal_of(count: int, config: SplitConfig = USUAL, scans: int = 1) -> str:
    subjects = people(count)
    with pytest.raises(ConfigurationError) as caught:
        require_usable_sides(assign_sides(None, subjects, config, 0), [*subjects] * scans, config, first=True)
    return str(caught.value)


def test_too_few_for_any_shares_say_how_many_would_do() -> None:
    said = refusal_of(14)
    assert "at least 8 / 1 / 8 scans" in said
    assert "there are 10 / 2 / 2 of 14 subjects" in said
    assert said.endswith(
        "no shares would do, at least 17 subjects are needed, and at least 49 subjects at these shares"
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(17, 60), SHARES, st.integers(1, 3))
def test_the_shares_and_the_number_of_the_advice_do_what_they_promise(
    count: int, config: SplitConfig, scans: int
) -> None:
    subjects = people(count)
    split = assign_sides(None, subjects, config, 0)
    try:
        require_usable_sides(split, [*subjects] * scans, config, first=True)
        assert all(size * scans >= FEWEST_VOLUMES[side] for side, size in split.sizes(list(subjects)).items())
        return
    except ConfigurationError as error:
        said = str(error)
    keys = [part.split(": ") for part in said.split("`") if part.startswith("split.")]
    better = SplitConfig(**(config.model_dump() | {key.removeprefix("split."): float(value) for key, value in keys}))
    assert keys
    require_usable_sides(assign_sides(None, subjects, better, 0), [*subjects] * scans, better, first=True)
    if "subjects at these shares" in said:
        enough = people(int(said.split(" subjects at these shares")[0].split()[-1]))
        require_usable_sides(assign_sides(None, enough, config, 0), [*enough] * scans, config, first=True)


def test_several_scans_of_a_subject_count_as_several_volumes() -> None:
    subjects = people(20)
    split = assign_sides(None, subjects, USUAL, 0)
    require_usable_sides(split, [*subjects] * 3, USUAL, first=True)
    assert "14 / 3 / 3 of 20 subjects" in refusal_of(20)


def test_without_a_validation_side_the_plan_says_so() -> None:
    said = refusal_of(100, SplitConfig(train=0.8, validation=0.0))
    assert "80 / 0 / 20 of 100 subjects" in said
    assert "`split.validation: " in said


def test_a_split_that_is_written_down_is_mended_by_more_subjects_alone() -> None:
    split = Split(sides={f"s{n}": "train" for n in range(40)}, train=0.7, validation=0.15, seed=0)
    with pytest.raises(ConfigurationError, match=r"add subjects \(1 on validation, 8 on holdout\): nobody moves"):
        require_usable_sides(split, list(split.sides), USUAL, first=False)
