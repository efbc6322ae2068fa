"""The selection of weights: the best before copies creep in, and the same after a kill."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meddiff_core.artefacts import canonical_json
from meddiff_core.diffusion.checkpoint_selection import (
    MARGIN,
    NO_LIMIT,
    CheckpointSelection,
    MembershipScore,
    SampleScore,
    SelectionRecord,
    describe_selection,
    memorisation_onset,
    read_selection,
)
from meddiff_core.diffusion.training import SCORED_FROM
from meddiff_core.models.checkpoint import Tensors, load_checkpoint, save_checkpoint
from meddiff_core.models.training.loop import VALIDATIONS
from meddiff_core.study import DenoiserConfig

COPIES = 0.5 + 2 * MARGIN
Case = tuple[int, str, float, float]
"""Step, average, distance to validation, lower bound of the copy curve."""


def score(distance: float, low: float = 0.3) -> SampleScore:
    return SampleScore(
        validation_distance=distance, train_distance=distance / 2, nearer_train=min(1, low + 0.1), nearer_train_low=low
    )


def weights_of(step: int, average: str) -> Tensors:
    return {"layer.weight": torch.tensor([step, float(average)])}


def chosen_from(cases: list[Case], steps: int = 1000, patience: int = 3) -> CheckpointSelection:
    selection = CheckpointSelection(steps, patience)
    consider(selection, cases)
    return selection


def consider(selection: CheckpointSelection, cases: list[Case]) -> None:
    for step, average, distance, low in cases:
        selection.consider(step, average, score(distance, low), weights_of(step, average))


def creeping(averages: tuple[str, ...] = ("0.05", "0.15")) -> list[Case]:
    """Distances that fall to the end, and copies from step 500 on."""
    return [
        (step, name, 1000.0 / step, COPIES if step >= 500 else 0.4)
        for step in range(100, 700, 100)
        for name in averages
    ]


def test_a_training_that_begins_to_copy_is_stopped_and_keeps_what_came_before() -> None:
    selection, stopped = CheckpointSelection(1000, 3), 0
    for step in range(100, 700, 100):
        consider(selection, [case for case in creeping() if case[0] == step])
        if selection.finished:
            stopped = step
            break
    assert stopped == 600  # the second validation in a row
    assert selection.chosen[:2] == (400, "0.05")
    assert torch.equal(selection.chosen.weights["layer.weight"], torch.tensor([400, 0.05]))
    assert memorisation_onset(selection.record().curve) == 500
    assert "after 400 steps" in describe_selection(selection.record())
    assert "at step 500" in describe_selection(selection.record())


BETRAYED = MembershipScore(auc=0.8, low=0.65, high=0.9, limit=0.75)
HONEST = MembershipScore(auc=0.55, low=0.4, high=0.7, limit=0.75)


def test_weights_that_betray_their_training_subjects_are_no_candidate() -> None:
    selection = CheckpointSelection(1000, 3)
    for step, membership in ((100, HONEST), (200, BETRAYED), (300, HONEST)):
        selection.consider(step, "0.1", score(1000.0 / step**2), weights_of(step, "0.1"), membership)
    assert selection.chosen.step == 300
    selection.consider(400, "0.1", score(0.001), weights_of(400, "0.1"), BETRAYED)
    assert selection.chosen.step == 300
    assert not selection.finished
    selection.consider(500, "0.1", score(0.001), weights_of(500, "0.1"), BETRAYED)
    assert selection.finished
    assert memorisation_onset(selection.record().curve) == 400


@pytest.mark.parametrize(
    ("auc", "low", "high", "limit"),
    [
        pytest.param(0.5, 0.2, 0.8, 0.75, id="too few subjects to tell"),
        pytest.param(0.6, 0.55, 0.65, 0.75, id="within the limit"),
        pytest.param(0.9, 0.8, 0.95, NO_LIMIT, id="weights that stay and are not gated"),
    ],
)
def test_membership_that_no_gate_would_refuse_forbids_nothing(
    auc: float, low: float, high: float, limit: float
) -> None:
    assert not MembershipScore(auc=auc, low=low, high=high, limit=limit).betrays


def test_a_single_alarm_ends_nothing_but_is_not_kept() -> None:
    selection = chosen_from([(100, "0.1", 3.0, 0.4), (200, "0.1", 1.0, COPIES), (300, "0.1", 2.0, 0.4)])
    assert not selection.finished
    assert selection.chosen.step == 300


def test_an_average_that_does_not_copy_keeps_the_training_going() -> None:
    cases = [(step, "0.05", 1.0, COPIES) for step in (100, 200, 300)] + [
        (step, "0.15", 2.0, 0.4) for step in (100, 200, 300)
    ]
    selection = chosen_from(sorted(cases), patience=9)
    assert not selection.finished
    assert selection.chosen[:2] == (100, "0.15")


def test_a_bound_within_the_margin_is_no_memorisation() -> None:
    selection = chosen_from([(100, "0.1", 2.0, 0.5 + MARGIN), (200, "0.1", 1.0, 0.5 + MARGIN)])
    assert not selection.finished
    assert selection.chosen.step == 200


def test_where_everything_copies_the_first_is_kept_and_it_is_said() -> None:
    selection = chosen_from(
        [(100, "0.05", 3.0, 0.9), (100, "0.15", 2.0, 0.9), (200, "0.05", 1.0, 0.9), (200, "0.15", 1.0, 0.9)]
    )
    assert selection.finished
    assert selection.chosen[:2] == (100, "0.05")
    assert "the first of 4" in describe_selection(selection.record())
    assert "all showed more of the training volumes" in describe_selection(selection.record())


def test_of_equals_the_earlier_is_kept() -> None:
    selection = chosen_from(
        [(100, "0.05", 2.0, 0.4), (200, "0.05", 1.0, 0.4), (200, "0.15", 1.0, 0.4), (300, "0.05", 1.0, 0.4)]
    )
    assert selection.chosen[:2] == (200, "0.05")


def test_kept_weights_do_not_follow_the_training() -> None:
    selection, weights = CheckpointSelection(1000, 3), {"a": torch.zeros(2)}
    selection.consider(100, "0.1", score(1.0), weights)
    weights["a"] += 1
    selection.consider(200, "0.1", score(2.0), weights)
    assert torch.equal(selection.chosen.weights["a"], torch.zeros(2))


@pytest.mark.parametrize(("patience", "finished"), [(1, True), (3, True), (4, False)])
def test_it_ends_when_it_has_not_become_better_for_as_long_as_patience_lasts(patience: int, finished: bool) -> None:
    cases = [(step, name, abs(step - 200.0), 0.4) for step in range(100, 600, 100) for name in ("0.05", "0.15")]
    assert chosen_from(cases, patience=patience).finished == finished


def test_validations_during_the_warm_up_try_nobodys_patience() -> None:
    """The best is the first; two of the four after it are within the first 5% of the steps."""
    cases = [(step, "0.1", float(step), 0.4) for step in (100, 200, 500, 600, 700)]
    assert not chosen_from(cases, steps=10_000, patience=3).finished
    assert chosen_from(cases, steps=10_000, patience=2).finished


def test_nothing_considered_is_nothing_to_end_for() -> None:
    selection = CheckpointSelection(1000, 1)
    selection.restore(selection.state())
    assert not selection.finished
    assert selection.curve == []


scores = st.tuples(st.integers(0, 4).map(float), st.sampled_from([0.1, 0.5, COPIES, 0.9]))


@given(found=st.lists(st.tuples(scores, scores), min_size=1, max_size=8), cut=st.integers(0, 16))
def test_a_resumed_selection_is_the_same(found: list[tuple[tuple[float, float], ...]], cut: int) -> None:
    cases = [
        (100 * (row + 1), name, *values)
        for row, both in enumerate(found)
        for name, values in zip(("0.15", "0.05"), both, strict=True)
    ]
    whole, before, after = chosen_from(cases), chosen_from(cases[:cut]), CheckpointSelection(1000, 3)
    after.restore(before.state())
    consider(after, cases[cut:])
    assert after.curve == whole.curve
    assert after.finished == whole.finished
    assert after.chosen[:2] == whole.chosen[:2]
    assert torch.equal(after.chosen.weights["layer.weight"], weights_of(*whole.chosen[:2])["layer.weight"])


@pytest.mark.parametrize("considered", [0, 3])
def test_the_state_survives_a_checkpoint(tmp_path: Path, considered: int) -> None:
    selection = chosen_from(
        [(step, name, distance + 0.1 + 0.2, low) for step, name, distance, low in creeping()][:considered]
    )
    save_checkpoint(tmp_path / "resume", selection.state(), {})
    found = CheckpointSelection(1000, 3)
    found.restore(load_checkpoint(tmp_path / "resume")[0])
    assert found.curve == selection.curve
    assert all(bool(tensor.isfinite().all()) for tensor in selection.state().values())  # else a training rolls back
    assert all(torch.equal(found.state()[name], tensor) for name, tensor in selection.state().items())


def test_a_checkpoint_tells_how_it_was_chosen(tmp_path: Path) -> None:
    selection = chosen_from(creeping())
    step, average, _ = selection.chosen
    facts = {"choice": {"step": step, "average": average, "curve": selection.curve}}
    canonical_json(facts)
    save_checkpoint(tmp_path / "denoiser", {}, facts)
    assert read_selection(tmp_path / "denoiser") == selection.record()
    assert SelectionRecord.model_validate(selection.record().model_dump(mode="json")) == selection.record()


def test_a_model_that_was_not_scored_has_no_selection(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "denoiser", {"a": torch.zeros(1)}, {"kind": "denoiser"})
    assert read_selection(tmp_path / "denoiser") is None


def test_a_score_is_a_number() -> None:
    with pytest.raises(ValidationError, match="finite"):
        score(float("nan"))


def test_the_default_patience_can_run_out_before_a_training_ends() -> None:
    rounds = math.floor((1 - SCORED_FROM) * VALIDATIONS) + 1
    assert DenoiserConfig().patience < rounds - 1  # the best may be the first, and the last saves nothing
