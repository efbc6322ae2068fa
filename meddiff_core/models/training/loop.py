"""The training loop that both networks share: steps, validation, guards, and resume points.

A training is a pure function of its step number (randomness is derived, not carried), so a killed run
that goes on from a resume point ends with the same weights as one that was never killed. The loop waits for
the device at reports alone, about 200 times, and never for a single step.
"""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from meddiff_core.errors import TrainingFailed
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.checkpoint import Tensors
from meddiff_core.models.training.guards import LossGuard, is_finite, is_out_of_memory
from meddiff_core.models.training.processes import require_agreement
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.models.training.resume import Keep, ResumePoint, ResumePoints
from meddiff_core.types import Progress

REPORTS = 200
"""Points of a training curve."""
VALIDATIONS = 8
"""Points of a validation curve."""
ROLLBACKS = 3
"""Rollbacks after which a diverging training is given up, as a rule."""


@runtime_checkable
class Training(Protocol):
    """What the loop needs of a training."""

    label: str
    steps: int
    batch: int
    watched: str
    """The loss that shows whether the training diverges; positive by its nature, and not an adversarial one."""
    relief: str
    """What to change where a single item of a batch does not fit the memory."""
    ranks: Ranks
    accumulation_steps: int
    """Micro-batches over which a process accumulates gradients. The loop doubles it when memory runs out."""
    rate: float
    """Factor on the learning rate. The loop halves it after a divergence."""
    rollbacks: int
    """Rollbacks after which a diverging training is given up."""

    @property
    def finished(self) -> bool:
        """Whether to stop before the last step; read after each validation."""

    def step(self, step: int) -> dict[str, Tensor]:
        """Optimise once; `step` counts from 0. Losses are those of the whole batch, and stay on the device.

        All gradients are computed before any weight changes, so that a step that ran out of memory can be repeated.
        """

    def validate(self, step: int) -> dict[str, float]:
        """Measure the averaged weights on validation data after `step` steps."""

    def health(self) -> list[str]:
        """Troubles that the last validation found, each in a text that does not change while it lasts."""

    def state(self) -> Tensors:
        """Everything that the next step depends on."""

    def restore(self, state: Tensors) -> None:
        """Put back what `state` gave."""


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended."""

    metrics: dict[str, float]
    """Metrics of the last validation."""
    notes: tuple[str, ...]
    """Events that a person should know of: rollbacks, smaller micro-batches, troubles."""
    steps: int
    """Steps done; fewer than planned if it stopped early."""


@dataclass
class _LoopState:
    """State of the loop: what a resume point holds beside the state of the training."""

    done: int = 0
    rollbacks: int = 0
    notes: list[str] = field(default_factory=list)
    guard: LossGuard = field(default_factory=LossGuard)
    began: float = field(default_factory=time.monotonic)


def run_training(
    training: Training, resume: Path, key: str, every: int, keep: Keep = Keep()
) -> Generator[Progress, None, TrainingOutcome]:
    """Train to the end, from the newest resume point that is of the same training, with one `every` so many steps.

    `key` is the digest of everything that the training was made from: a resume point of another is ignored.
    If a loss or a weight is not finite, or the loss diverges, it rolls back to the newest resume point with half the
    learning rate; if memory runs out, gradients are accumulated over smaller micro-batches. Notes report both.

    Raises:
        TrainingFailed: it diverged again after it rolled back three times, or a single item does not fit the memory.
    """
    keep_freed_memory()
    points = ResumePoints(resume, key, keep)
    loop, note = _begin(training, points)
    if note:
        yield _with_note(training, loop, note)
    report_every, validate_every = max(1, training.steps // REPORTS), max(1, math.ceil(training.steps / VALIDATIONS))
    means, validation = _Means(), dict[str, float]()
    while loop.done < training.steps:
        try:
            means.add(training.step(loop.done))
        except RuntimeError as error:
            loop.notes.append(note := _use_smaller_micro_batches(training, points, error))
            yield _with_note(training, loop, note)
            continue
        loop.done += 1
        validates = loop.done % validate_every == 0 or loop.done == training.steps
        saves = loop.done % every == 0 and loop.done < training.steps
        if not (validates or saves or loop.done % report_every == 0):
            continue
        losses = means.fetch()
        wrong = loop.guard.check(losses, training.watched)
        if not wrong and (validates or saves) and not is_finite(training.state()):
            wrong = "weights are not finite"
        if wrong:
            loop, note = _roll_back(training, points, loop, wrong)
            yield _with_note(training, loop, note)
            continue
        if validates:
            validation = training.validate(loop.done)
        troubles = [trouble for trouble in training.health() if trouble not in loop.notes] if validates else []
        loop.notes += troubles
        if saves and loop.guard.calm:
            _save(training, points, loop)
        metrics = losses | (validation if validates else {})
        yield Progress(training.label, loop.done, training.steps, metrics, note="; ".join(troubles))
        if validates and _any_finished(training):
            break
    return TrainingOutcome(validation, tuple(loop.notes), loop.done)


class _Means:
    """Losses since the last report, summed on the device, so that no step waits for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            self.sums[name] = self.sums[name] + loss if name in self.sums else loss.detach().float()
            self.counts[name] = self.counts.get(name, 0) + 1

    def fetch(self) -> dict[str, float]:
        """Mean of each loss, in one transfer; then begins anew."""
        values = torch.stack(list(self.sums.values())).tolist()
        means = {name: value / self.counts[name] for name, value in zip(self.sums, values, strict=True)}
        self.sums, self.counts = {}, {}
        return means


def _begin(training: Training, points: ResumePoints) -> tuple[_LoopState, str]:
    """Restore the newest resume point, or write one of the start, to which a divergence may have to roll back."""
    point, broken = points.newest()
    if point is None:
        if training.ranks.first:
            points.forget()
        loop = _LoopState()
        _save(training, points, loop)
        return loop, ""
    loop = _restore(training, points, point)
    loop.rollbacks, loop.notes = point.facts["rollbacks"], list(point.facts["notes"])
    loop.began -= point.facts["seconds"]
    training.rate, training.accumulation_steps = point.facts["rate"], point.facts["accumulation_steps"]
    shown = [f"cannot read {', '.join(broken)}; going on from step {loop.done}"] if broken else []
    if points.noted_accumulation_steps() > training.accumulation_steps:
        training.accumulation_steps = points.noted_accumulation_steps()
        loop.notes.append(_describe_micro_batches(training))
        shown.append(_describe_micro_batches(training))
    return loop, "; ".join(shown)


def _restore(training: Training, points: ResumePoints, point: ResumePoint) -> _LoopState:
    training.restore(point.tensors)
    if training.ranks.first:
        points.drop_after(point.facts["step"])  # those that cannot be read
    return _LoopState(done=point.facts["step"], guard=LossGuard(point.facts["good"]))


def _save(training: Training, points: ResumePoints, loop: _LoopState) -> None:
    state = training.state()
    require_agreement(training.ranks, training.label, state)
    if training.ranks.first:
        facts = {
            "rate": training.rate,
            "accumulation_steps": training.accumulation_steps,
            "rollbacks": loop.rollbacks,
            "notes": loop.notes,
            "good": loop.guard.good,
            "seconds": round(time.monotonic() - loop.began, 1),
        }
        points.write(loop.done, state, facts)


def _roll_back(training: Training, points: ResumePoints, loop: _LoopState, wrong: str) -> tuple[_LoopState, str]:
    """Restore the newest resume point, with half the learning rate.

    Rate and rollbacks in the point are ignored: it was written before them. A run that is killed now will roll back
    again at the same step.
    """
    what = f"{wrong} within step {loop.done}"
    point, _ = points.newest()
    if loop.rollbacks == training.rollbacks or point is None:
        advice = "lower its learning rate, or look for a volume that is unlike the others"
        raise TrainingFailed(
            f"{training.label}: rolled back {loop.rollbacks} times and diverges again: {what}; {advice}"
        )
    training.rate /= 2
    back = _restore(training, points, point)
    note = f"{what}; rolled back to step {back.done}, learning rate now {training.rate:g} of the planned one"
    back.rollbacks, back.notes, back.began = loop.rollbacks + 1, [*loop.notes, note], loop.began
    return back, note


def _use_smaller_micro_batches(training: Training, points: ResumePoints, error: RuntimeError) -> str:
    """Double the accumulation steps after memory ran out; the gradient stays that of the whole batch.

    Other processes wait within the step for this one, which cannot go on: there, all have to start again.
    """
    if not is_out_of_memory(error):
        raise error
    if training.accumulation_steps * training.ranks.count >= training.batch:
        what = f"{training.label}: one item of a batch must fit the memory, it does not"
        raise TrainingFailed(f"{what}; {training.relief}") from error
    if training.ranks.count > 1:
        points.note_accumulation_steps(2 * training.accumulation_steps)
        raise error
    training.accumulation_steps *= 2
    return _describe_micro_batches(training)


def _describe_micro_batches(training: Training) -> str:
    where = "" if training.ranks.count == 1 else " in each process"
    what = f"each batch of {training.batch} is now accumulated over {training.accumulation_steps} micro-batches"
    return f"out of memory: {what}{where}"


def _with_note(training: Training, loop: _LoopState, note: str) -> Progress:
    return Progress(training.label, loop.done, training.steps, note=note)


def _any_finished(training: Training) -> bool:
    """Whether any process is finished; they could differ by rounding, and one cannot go on without the others."""
    finished = torch.tensor(float(training.finished))
    return bool(training.ranks.sum_losses({"finished": finished})["finished"] > 0)


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """In this block a GPU gives the same bits each time too, or raises an error that names the operation that cannot.

    cuBLAS also needs CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment before its first use.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    if enabled:
        torch.use_deterministic_algorithms(True, warn_only=False)
        torch.backends.cudnn.benchmark = False
        memory.fill_uninitialized_memory = False  # costs time, and no operation here reads such
    try:
        yield
    finally:
        algorithms, torch.backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(algorithms)
        memory.fill_uninitialized_memory = fills


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 5% of the steps, then cosine decay to 1% of the peak."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
