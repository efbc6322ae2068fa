"""The training loop that both networks share: steps, validation, and resume points.

A training is a pure function of its step number (randomness is derived, not carried), so a killed run
that goes on from its last resume point ends with the same weights as one that was never killed.
"""

import math
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from meddiff_core.models.checkpoint import Tensors, load_checkpoint, save_checkpoint
from meddiff_core.types import Progress

REPORTS = 200
"""Points of a training curve."""
VALIDATIONS = 8
"""Points of a validation curve."""


@runtime_checkable
class Training(Protocol):
    """What the loop needs of a training."""

    label: str

    def step(self, step: int) -> dict[str, Tensor]:
        """Optimise once; `step` counts from 0. Losses stay on the device."""

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on validation data."""

    def state(self) -> Tensors:
        """Everything that the next step depends on."""

    def restore(self, state: Tensors) -> None:
        """Put back what `state` gave."""


def run_training(
    training: Training, steps: int, resume: Path, key: str, every: int
) -> Generator[Progress, None, dict[str, float]]:
    """Train to `steps`, from the resume point if it is of the same training. Returns the last validation.

    `key` is the digest of everything that the training was made from: a resume point of another is ignored.
    """
    start = _restore(training, resume, key)
    validations: dict[str, float] = {}
    report_every, validate_every = max(1, steps // REPORTS), max(1, math.ceil(steps / VALIDATIONS))
    for step in range(start, steps):
        losses = training.step(step)
        done = step + 1
        validated = done % validate_every == 0 or done == steps
        if validated:
            validations = training.validate()
        if done % every == 0 and done < steps:
            save_checkpoint(resume, training.state(), {"key": key, "step": done})
        if done % report_every == 0 or validated:
            metrics = {name: float(loss) for name, loss in losses.items()}
            if not all(math.isfinite(value) for value in metrics.values()):
                raise FloatingPointError(f"{training.label}: loss must be finite, is {metrics} at step {done}")
            yield Progress(training.label, done, steps, metrics | (validations if validated else {}))
    return validations


def forget_resume_point(resume: Path) -> None:
    """Drop the resume point of a finished training."""
    shutil.rmtree(resume, ignore_errors=True)


def _restore(training: Training, resume: Path, key: str) -> int:
    if not resume.exists():
        return 0
    state, facts = load_checkpoint(resume)
    if facts["key"] != key:
        return 0
    training.restore(state)
    return int(facts["step"])


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 5% of the steps, then cosine decay to 1% of the peak."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
