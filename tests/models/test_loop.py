"""A training that was killed goes on as if it had not been, and one that fails says so."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from meddiff_core.models.checkpoint import Tensors, load_checkpoint
from meddiff_core.models.loop import REPORTS, forget_resume_point, learning_rate_factor, run_training, set_learning_rate
from meddiff_core.types import Progress


class Sum:
    """A training whose state is the sum of the steps it did."""

    label = "sum"

    def __init__(self, loss: Callable[[int], float] = float) -> None:
        self.total, self.steps, self.validated = torch.zeros(1), list[int](), list[int]()
        self.loss = loss

    def step(self, step: int) -> dict[str, Tensor]:
        self.steps.append(step)
        self.total = self.total + step
        return {"loss": torch.tensor(self.loss(step))}

    def validate(self) -> dict[str, float]:
        self.validated.append(len(self.steps))
        return {"validation/total": float(self.total)}

    def state(self) -> Tensors:
        return {"total": self.total}

    def restore(self, state: Tensors) -> None:
        self.total = state["total"]


def kill_after(training: Sum, done: int, steps: int, resume: Path, key: str = "key", every: int = 3) -> None:
    for progress in run_training(training, steps, resume, key, every):
        if progress.done == done:
            return


def test_a_killed_training_repeats_only_what_came_after_its_resume_point(tmp_path: Path, finish: Callable) -> None:
    kill_after(Sum(), 8, 20, tmp_path / "resume")
    resumed = Sum()
    last = finish(run_training(resumed, 20, tmp_path / "resume", "key", 3))
    assert resumed.steps == list(range(6, 20))
    assert last == {"validation/total": sum(range(20))}


def test_a_resume_point_of_another_training_is_ignored(tmp_path: Path, finish: Callable) -> None:
    kill_after(Sum(), 8, 20, tmp_path / "resume", key="other")
    anew = Sum()
    finish(run_training(anew, 20, tmp_path / "resume", "key", 3))
    assert anew.steps == list(range(20))


def test_a_finished_training_leaves_no_point_at_its_end(tmp_path: Path, finish: Callable) -> None:
    finish(run_training(Sum(), 6, tmp_path / "resume", "key", 3))
    assert load_checkpoint(tmp_path / "resume")[1] == {"key": "key", "step": 3}
    forget_resume_point(tmp_path / "resume")
    forget_resume_point(tmp_path / "resume")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_raises_with_its_step(tmp_path: Path, finish: Callable, bad: float) -> None:
    training = Sum(lambda step: bad if step == 4 else 1.0)
    with pytest.raises(FloatingPointError, match=r"sum: loss must be finite, is .* at step 5"):
        finish(run_training(training, 10, tmp_path / "resume", "key", 100))


@pytest.mark.parametrize("steps", [1, 5, 20, 450, 1100])
def test_every_validation_is_reported_once(tmp_path: Path, steps: int) -> None:
    training = Sum()
    seen = list(run_training(training, steps, tmp_path / "resume", "key", 10_000))
    with_curve = [progress.done for progress in seen if "validation/total" in progress.metrics]
    assert with_curve == training.validated
    assert with_curve[-1] == steps
    assert len(with_curve) <= 8
    assert len(seen) <= 2 * REPORTS


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen = list(run_training(Sum(), 7, tmp_path / "resume", "key", 100))
    assert [(progress.done, progress.total) for progress in seen] == [(done, 7) for done in range(1, 8)]
    assert isinstance(seen[0], Progress)
    assert seen[0].metrics["loss"] == 0


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
