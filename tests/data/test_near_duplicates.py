"""The same scan under two subjects is found however it was saved; strangers and one subject's scans are not listed."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from meddiff_core.data.split.near_duplicates import (
    NearDuplicate,
    describe_near_duplicates,
    find_near_duplicates,
    write_near_duplicates,
)
from meddiff_core.data.split.sides import Side

Grey = NDArray[np.uint8]
SIDE = 6


def strangers(count: int, seed: int = 0) -> Grey:
    """(count, 216) blobs in a box that differ in size and shade, as heads do, and in details of their own."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij"))
    sizes = rng.normal(0.8, 0.05, (count, 3, 1, 1, 1))
    shades = rng.normal(0, 20, (count, 3, 1, 1, 1))
    heads = 200 * np.exp(-((grid / sizes) ** 4).sum(1)) + (shades * grid).sum(1)
    return to_bytes(heads + rng.normal(0, 12, heads.shape))


def to_bytes(heads: NDArray[Any]) -> Grey:
    return np.clip(heads, 0, 255).astype(np.uint8).reshape(len(heads), -1)


def search(thumbnails: Grey, subjects: list[str], sides: dict[str, Side] | None = None) -> tuple[NearDuplicate, ...]:
    cases = [f"c{n:03d}" for n in range(len(thumbnails))]
    return find_near_duplicates(thumbnails, cases, subjects, sides or dict.fromkeys(subjects, "train"))


def names(count: int) -> list[str]:
    return [f"s{n:03d}" for n in range(count)]


def noisy(rows: Grey) -> NDArray[Any]:
    return rows + np.random.default_rng(9).normal(0, 3, rows.shape)


DISGUISES = {
    "as it is": lambda rows: rows,
    "noise": noisy,
    "other window": lambda rows: 0.6 * rows.astype(float) + 40,
    "gamma": lambda rows: 255 * (rows / 255) ** 0.8,
    "coarse levels": lambda rows: rows // 16 * 16,
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("count", [10, 60])
def test_a_scan_saved_again_under_another_subject_is_found_and_nothing_else(count: int, disguise: str) -> None:
    heads = strangers(count)
    again = np.clip(DISGUISES[disguise](heads[3:4]), 0, 255).astype(np.uint8)
    found = search(np.concatenate([heads, again]), names(count + 1))
    assert [pair.cases for pair in found] == [("c003", f"c{count:03d}")]
    assert found[0].correlation > 0.8


@pytest.mark.parametrize("count", [8, 20, 60])
def test_strangers_are_not_listed(count: int) -> None:
    assert [pair for seed in range(3) for pair in search(strangers(count, seed), names(count))] == []


def test_scans_of_one_subject_are_no_pair_however_alike() -> None:
    heads = strangers(30)
    assert search(np.concatenate([heads, heads]), names(30) * 2) == ()


def test_where_every_scan_is_there_twice_every_pair_is_found() -> None:
    heads = strangers(40)
    found = search(np.concatenate([heads, np.clip(noisy(heads), 0, 255).astype(np.uint8)]), names(80))
    assert {pair.subjects for pair in found} == {(f"s{n:03d}", f"s{n + 40:03d}") for n in range(40)}


def test_a_scan_under_three_subjects_is_three_pairs() -> None:
    heads = strangers(40)
    found = search(np.concatenate([heads, heads[:1], heads[:1]]), names(42))
    assert {pair.subjects for pair in found} == {("s000", "s040"), ("s000", "s041"), ("s040", "s041")}


def test_the_order_of_the_scans_decides_nothing() -> None:
    heads = np.concatenate([(heads := strangers(50)), heads[:5]])
    order = np.random.default_rng(1).permutation(55)
    cases, sides = [f"c{n}" for n in range(55)], dict.fromkeys(names(55), "train")
    shuffled = find_near_duplicates(heads[order], [cases[n] for n in order], [names(55)[n] for n in order], sides)  # type: ignore[arg-type]
    assert {pair.cases for pair in shuffled} == {pair.cases for pair in search_named(heads, cases)}


def search_named(thumbnails: Grey, cases: list[str]) -> tuple[NearDuplicate, ...]:
    subjects = names(len(cases))
    return find_near_duplicates(thumbnails, cases, subjects, dict.fromkeys(subjects, "train"))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = np.concatenate([(heads := strangers(50)), heads[:5]])
    whole = search(heads, names(55))
    monkeypatch.setattr("meddiff_core.data.split.near_duplicates.BLOCK", 7)
    assert search(heads, names(55)) == whole


def test_empty_thumbnails_and_small_cohorts_are_no_pairs() -> None:
    assert search(np.zeros((20, 216), np.uint8), names(20)) == ()
    assert search(np.repeat(strangers(1), 5, 0), names(5)) == ()


def test_pairs_on_two_sides_are_reported_first_and_listed_for_a_spreadsheet(tmp_path: Path) -> None:
    inside = NearDuplicate(("c1", "c2"), ("=a", "b"), ("train", "train"), 0.99)
    across = NearDuplicate(("c3", "c4"), ("c", "d"), ("train", "holdout"), 0.9)
    lines = describe_near_duplicates([inside, across, across], "same_subject.csv")
    assert [line.split(" of ")[0] for line in lines] == ["2 pairs", "1 pair"]
    assert "lie on two sides of the split; listed in same_subject.csv" in lines[0]
    assert describe_near_duplicates([], "same_subject.csv") == []
    write_near_duplicates(tmp_path / "same_subject.csv", [inside, across])
    with (tmp_path / "same_subject.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["same_subject"], row["same_side"]) for row in rows] == [
        ("c", "d", "holdout"),
        ("'=a", "b", "train"),
    ]
