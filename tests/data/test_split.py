"""Sides of subjects."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.data.split import side_of
from meddiff_core.study import SplitConfig


@settings(max_examples=30)
@given(st.sets(st.text(), min_size=1, max_size=8), st.sets(st.text(), max_size=8), st.integers(0))
def test_adding_subjects_moves_nobody(subjects: set[str], more: set[str], seed: int) -> None:
    split = SplitConfig()
    before = {subject: side_of(subject, seed, split) for subject in sorted(subjects)}
    after = {subject: side_of(subject, seed, split) for subject in sorted(subjects | more)}
    assert before.items() <= after.items()


@given(st.text(), st.integers(0, 100))
def test_a_larger_training_share_takes_from_validation_only(subject: str, seed: int) -> None:
    small, large = SplitConfig(train=0.5, validation=0.2), SplitConfig(train=0.6, validation=0.1)
    sides = side_of(subject, seed, small), side_of(subject, seed, large)
    assert sides in {("train", "train"), ("validation", "train"), ("validation", "validation"), ("holdout", "holdout")}


def test_shares_are_met_and_the_seed_matters() -> None:
    split = SplitConfig(train=0.7, validation=0.15)
    sides = [[side_of(f"sub-{n}", seed, split) for n in range(4000)] for seed in (0, 1)]
    assert sides[0].count("train") / 4000 == pytest.approx(0.7, abs=0.03)
    assert sides[0].count("holdout") / 4000 == pytest.approx(0.15, abs=0.03)
    assert sides[0] != sides[1]
