"""A training that was killed goes on as if it had not been, and one that fails says so or mends itself."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meddiff_core.errors import TrainingFailed
from meddiff_core.models.checkpoint import Tensors
from meddiff_core.models.training.loop import (
    REPORTS,
    ROLLBACKS,
    Training,
    TrainingOutcome,
    deterministic,
    learning_rate_factor,
    run_training,
    set_learning_rate,
)
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.models.training.resume import Keep, ResumePoints
from meddiff_core.types import Progress

CPU_IS_FULL = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"


class Sum:
    """A training whose weight is moved by each step and depends on the rate, so that no step can be lost unseen."""

    label, watched, relief, rollbacks = "sum", "loss", "lower its channels", ROLLBACKS

    def __init__(self, steps: int, loss: Callable[[int, float], float] = lambda step, rate: 1.0) -> None:
        self.weight, self.seen, self.validated = torch.zeros(1, dtype=torch.float64), list[int](), list[int]()
        self.steps, self.batch, self.loss = steps, 4, loss
        self.ranks, self.accumulation_steps, self.rate = Ranks(), 1, 1.0
        self.room = 4
        self.stops_at = steps
        self.ill: list[str] = []

    @property
    def finished(self) -> bool:
        return bool(self.validated) and self.validated[-1] >= self.stops_at

    def step(self, step: int) -> dict[str, Tensor]:
        self.seen.append(step)
        if self.batch / self.accumulation_steps > self.room:
            raise RuntimeError(CPU_IS_FULL)
        self.weight = torch.sin(self.weight + self.rate * step)
        return {"loss": torch.tensor(self.loss(step, self.rate))}

    def validate(self, step: int) -> dict[str, float]:
        self.validated.append(step)
        return {"validation/weight": float(self.weight)}

    def health(self) -> list[str]:
        return self.ill

    def state(self) -> Tensors:
        return {"weight": self.weight}

    def restore(self, state: Tensors) -> None:
        self.weight = state["weight"]


def kill_after(training: Sum, done: int, resume: Path, key: str = "key", every: int = 3, **options: Any) -> None:
    """Run until `done` steps are reported, for the first time."""
    for progress in run_training(training, resume, key, every, **options):
        if progress.done == done:
            return


def points(resume: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted(resume.glob("step-*"))]


def notes(work: Any) -> list[str]:
    return [progress.note for progress in work if progress.note]


def test_a_toy_is_a_training() -> None:
    assert isinstance(Sum(1), Training)


def test_a_killed_training_repeats_only_what_came_after_its_resume_point(tmp_path: Path, finish: Callable) -> None:
    kill_after(Sum(20), 8, tmp_path / "resume")
    resumed, whole = Sum(20), Sum(20)
    outcome = finish(run_training(resumed, tmp_path / "resume", "key", 3))
    assert resumed.seen == list(range(6, 20))
    assert outcome == finish(run_training(whole, tmp_path / "whole", "key", 3))
    assert outcome == TrainingOutcome({"validation/weight": float(whole.weight)}, (), 20)


def test_a_resume_point_of_another_training_is_ignored_and_removed(tmp_path: Path, finish: Callable) -> None:
    kill_after(Sum(20), 8, tmp_path / "resume", key="other")
    anew = Sum(20)
    finish(run_training(anew, tmp_path / "resume", "key", 30))
    assert anew.seen == list(range(20))
    assert points(tmp_path / "resume") == [0]


def lost(step: int, rate: float) -> float:
    """A rate that is too high from step 13 on, and still if it is halved, so that no loss can be told."""
    return math.nan if step >= 13 and rate > 0.3 else 1.0


def rising(step: int, rate: float) -> float:
    """A rate that is too high from step 13 on, so that the loss is too."""
    return 9.0 if step >= 13 and rate == 1 else 1.0 + step / 20


@settings(max_examples=16)
@given(
    loss=st.sampled_from([lost, rising]),
    killed=st.lists(st.integers(1, 19), max_size=3),
    broken=st.booleans(),
    every=st.integers(1, 7),
)
def test_killed_anywhere_and_diverging_it_ends_with_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory,
    finish: Callable,
    loss: Callable[[int, float], float],
    killed: list[int],
    broken: bool,
    every: int,
) -> None:
    folder = tmp_path_factory.mktemp("resume")
    whole, last = Sum(20, loss), Sum(20, loss)
    expected = finish(run_training(whole, folder / "whole", "key", every))
    for done in killed:
        kill_after(Sum(20, loss), done, folder / "resume", every=every)
        if broken:
            newest = max((folder / "resume").glob("step-*"))
            (newest / "tensors.safetensors").write_bytes(b"half a fi")
    assert finish(run_training(last, folder / "resume", "key", every)) == expected
    assert torch.equal(last.weight, whole.weight)
    assert last.rate == whole.rate == 0.5 ** len(expected.notes) < 1


@pytest.mark.parametrize("file", ["tensors.safetensors", "facts.json"])
def test_a_point_that_cannot_be_read_is_passed_over_and_told(tmp_path: Path, file: str) -> None:
    kill_after(Sum(20), 8, tmp_path / "resume")
    (tmp_path / "resume" / "step-00000006" / file).write_text("{")
    resumed = Sum(20)
    told = notes(run_training(resumed, tmp_path / "resume", "key", 3))
    assert resumed.seen[0] == 3
    assert told == ["cannot read step-00000006; going on from step 3"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_after_a_loss_that_is_not_finite_it_goes_back_and_halves_the_rate(
    tmp_path: Path, finish: Callable, bad: float
) -> None:
    training = Sum(10, lambda step, rate: bad if step == 7 and rate == 1 else 1.0)
    outcome = finish(run_training(training, tmp_path / "resume", "key", 3))
    assert training.seen == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8, 9]
    assert training.rate == 0.5
    expected = f"loss is {bad} within step 8; rolled back to step 6, learning rate now 0.5 of the planned one"
    assert outcome.notes == (expected,)


def test_before_its_first_resume_point_it_goes_back_to_the_start(tmp_path: Path, finish: Callable) -> None:
    training = Sum(10, lambda step, rate: math.nan if step == 4 and rate == 1 else 1.0)
    finish(run_training(training, tmp_path / "resume", "key", 100))
    assert training.seen == [*range(5), *range(10)]


def test_weights_that_are_not_finite_never_become_a_resume_point(tmp_path: Path, finish: Callable) -> None:
    class Poisoned(Sum):
        def step(self, step: int) -> dict[str, Tensor]:
            losses = super().step(step)
            if step == 5 and self.rate == 1:
                self.weight = self.weight * math.nan
            return losses

    training = Poisoned(10)
    outcome = finish(run_training(training, tmp_path / "resume", "key", 3))
    assert training.seen == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9]
    assert outcome.notes[0].startswith("weights are not finite within step 6")


def test_a_loss_that_diverges_goes_back_before_it_is_infinite(tmp_path: Path, finish: Callable) -> None:
    training = Sum(40, lambda step, rate: 1.3 ** max(0, step - 20) if rate == 1 else 1.0)
    outcome = finish(run_training(training, tmp_path / "resume", "key", 5))
    assert len(outcome.notes) == 1
    assert outcome.notes[0].startswith("loss rose from 1 to ")
    assert training.steps - 1 == training.seen[-1]


def test_no_resume_point_is_written_while_the_loss_is_high(tmp_path: Path) -> None:
    training = Sum(40, lambda step, rate: 100.0 if step == 11 else 1.0)
    kill_after(training, 13, tmp_path / "resume", every=3)
    assert points(tmp_path / "resume") == [6, 9]


def test_after_three_rollbacks_it_raises_with_what_was_seen(tmp_path: Path, finish: Callable) -> None:
    training = Sum(10, lambda step, rate: math.nan if step == 4 else 1.0)
    message = r"sum: rolled back 3 times and diverges again: loss is nan within step 5; lower its learning rate"
    with pytest.raises(TrainingFailed, match=message):
        finish(run_training(training, tmp_path / "resume", "key", 3))
    assert training.seen.count(4) == ROLLBACKS + 1
    assert training.rate == 0.5**ROLLBACKS


def test_training_that_may_not_repeat_a_step_fails_at_once(tmp_path: Path, finish: Callable) -> None:
    training = Sum(10, lambda step, rate: math.nan if step == 4 else 1.0)
    training.rollbacks = 0
    with pytest.raises(TrainingFailed, match="rolled back 0 times"):
        finish(run_training(training, tmp_path / "resume", "key", 3))
    assert training.seen == list(range(5))


@pytest.mark.parametrize("error", [RuntimeError(CPU_IS_FULL), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_halves_the_micro_batches_and_says_so(tmp_path: Path, finish: Callable, error: Exception) -> None:
    class Short(Sum):
        def step(self, step: int) -> dict[str, Tensor]:
            if step == 5 and self.accumulation_steps == 1:
                raise error
            return super().step(step)

    training, whole = Short(10), Sum(10)
    outcome = finish(run_training(training, tmp_path / "resume", "key", 3))
    finish(run_training(whole, tmp_path / "whole", "key", 3))
    assert outcome.notes == ("out of memory: each batch of 4 is now accumulated over 2 micro-batches",)
    assert torch.equal(training.weight, whole.weight)
    resumed = Short(10)
    finish(run_training(resumed, tmp_path / "resume", "key", 3))
    assert resumed.accumulation_steps == 2


def test_one_item_that_does_not_fit_the_memory_names_what_to_lower(tmp_path: Path, finish: Callable) -> None:
    training = Sum(10)
    training.room = 0
    with pytest.raises(
        TrainingFailed, match="one item of a batch must fit the memory, it does not; lower its channels"
    ):
        finish(run_training(training, tmp_path / "resume", "key", 3))
    assert training.accumulation_steps == 4


def test_out_of_memory_beside_other_processes_is_noted_for_their_next_start(tmp_path: Path, finish: Callable) -> None:
    """It is alone with the trouble, and the others wait for it within the step."""

    class First(Sum):
        def __init__(self) -> None:
            super().__init__(10)
            self.ranks, self.room = Ranks(0, 2), 2

    ResumePoints(tmp_path / "resume", "key").write(0, First().state(), FACTS)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        finish(run_training(First(), tmp_path / "resume", "key", 3))
    alone = Sum(10)
    outcome = finish(run_training(alone, tmp_path / "resume", "key", 3))
    assert alone.accumulation_steps == 2
    assert outcome.notes == ("out of memory: each batch of 4 is now accumulated over 2 micro-batches",)


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path, finish: Callable) -> None:
    class Wrong(Sum):
        def step(self, step: int) -> dict[str, Tensor]:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        finish(run_training(Wrong(10), tmp_path / "resume", "key", 3))


def test_troubles_are_told_once(tmp_path: Path) -> None:
    training = Sum(16)
    training.ill = ["posterior collapse"]
    assert notes(run_training(training, tmp_path / "resume", "key", 3)) == ["posterior collapse"]
    assert len(training.validated) == 8


def test_it_stops_at_the_validation_that_finishes_it(tmp_path: Path, finish: Callable) -> None:
    training = Sum(16)
    training.stops_at = 5
    outcome = finish(run_training(training, tmp_path / "resume", "key", 100))
    assert outcome.steps == len(training.seen) == 6
    assert outcome.metrics == {"validation/weight": float(training.weight)}


FACTS = {"rate": 1.0, "accumulation_steps": 1, "rollbacks": 0, "notes": [], "good": [], "seconds": 0.0}


def test_the_newest_points_are_kept_and_one_for_each_hour_before(tmp_path: Path) -> None:
    for keep, expected in [(Keep(), [9, 10]), (Keep(1), [10]), (Keep(2, hourly=True), [2, 5, 8, 9, 10])]:
        kept = ResumePoints(tmp_path / f"{keep}", "key", keep)
        for step in range(11):
            kept.write(step, {"weight": torch.zeros(1)}, FACTS | {"seconds": 1200.0 * step})
        assert points(tmp_path / f"{keep}") == expected


def test_a_finished_training_leaves_no_point_at_its_end(tmp_path: Path, finish: Callable) -> None:
    finish(run_training(Sum(6), tmp_path / "resume", "key", 3))
    assert points(tmp_path / "resume") == [0, 3]
    ResumePoints(tmp_path / "resume", "key").forget()
    ResumePoints(tmp_path / "resume", "key").forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 5, 20, 450, 1100])
def test_every_validation_is_reported_once(tmp_path: Path, steps: int) -> None:
    training = Sum(steps)
    seen = list(run_training(training, tmp_path / "resume", "key", 10_000))
    with_curve = [progress.done for progress in seen if "validation/weight" in progress.metrics]
    assert with_curve == training.validated
    assert with_curve[-1] == steps
    assert len(with_curve) <= 8
    assert len(seen) <= 2 * REPORTS


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen = list(run_training(Sum(7), tmp_path / "resume", "key", 100))
    assert [(progress.done, progress.total) for progress in seen] == [(done, 7) for done in range(1, 8)]
    assert isinstance(seen[0], Progress)


def test_a_reported_loss_is_the_mean_since_the_last_report(tmp_path: Path) -> None:
    training = Sum(3 * REPORTS, lambda step, rate: float(step))
    seen = list(run_training(training, tmp_path / "resume", "key", 10_000))
    assert [progress.metrics["loss"] for progress in seen[:3]] == [1, 4, 7]


def test_losses_are_fetched_at_reports_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Tensor] = []
    to_list = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(tensor) or to_list(tensor))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: pytest.fail("waits for the device"))
    kill_after(Sum(3 * REPORTS), 30, tmp_path / "resume", every=10_000)
    assert len(fetched) == 10


@pytest.mark.parametrize("enabled", [False, True])
def test_deterministic_mode_ends_with_its_block(enabled: bool) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(enabled):
        assert torch.are_deterministic_algorithms_enabled() == enabled
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_learning_rate_warms_up_and_decays() -> None:
    factors = [learning_rate_factor(step, 200) for step in range(200)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))
    assert factors[105] == pytest.approx(0.01 + 0.99 / 2)
    assert learning_rate_factor(200, 200) == pytest.approx(0.01)


@pytest.mark.parametrize("steps", [1, 2, 19, 1000])
def test_the_learning_rate_never_stops_nor_exceeds_its_peak(steps: int) -> None:
    assert all(0.009 < learning_rate_factor(step, steps) <= 1 for step in range(steps))


def test_every_parameter_group_gets_the_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 2.0)]
    optimizer = torch.optim.SGD(groups)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
