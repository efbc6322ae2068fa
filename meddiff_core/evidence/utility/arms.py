"""What is trained on what: real volumes, synthetic ones, or both, in stated numbers and by stated seeds.

The sealed holdout is no part of any arm. Steps and seeds are the same for all arms of a study, and never follow
from a clock, so that a slower machine finds the same figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from meddiff_core.models.randomness import generator_for
from meddiff_core.study import AuditConfig

SHARES = {"full": (0.5, 1.0, 2.0), "quick": (1.0,)}
"""Synthetic volumes, as multiples of the number of real training volumes."""
SEEDS = {"full": 3, "quick": 1}
STEPS_PER_VOLUME, FEWEST_STEPS, MOST_STEPS = 3, 150, 600


@dataclass(frozen=True)
class Arm:
    """One kind of training."""

    name: str
    real: int
    """Volumes, all there are or none."""
    synthetic: int
    """Volumes."""


@dataclass(frozen=True)
class Design:
    """All trainings of a study."""

    seeds: int
    steps: int
    real: Arm
    alone: Sequence[Arm]
    """Synthetic volumes only, fewest first."""
    added: Sequence[Arm]
    """The same volumes beside all real ones."""

    @property
    def arms(self) -> list[Arm]:
        """Real first."""
        return [self.real, *self.alone, *self.added]

    @property
    def equal(self) -> tuple[Arm, Arm]:
        """Of `alone` and of `added` the arm with as many synthetic volumes as real ones, or as near as can be."""
        best = min(range(len(self.alone)), key=lambda index: abs(self.alone[index].synthetic - self.real.real))
        return self.alone[best], self.added[best]


def effort_of(config: AuditConfig) -> str:
    """`full`, `quick` or `none`."""
    return config.utility.effort or ("quick" if config.preset == "trial" else "full")


def design_trials(config: AuditConfig, real: int, synthetic: int) -> Design:
    """The arms for so many real and synthetic volumes; shares that the cohort is too small for become all it has."""
    effort = effort_of(config)
    counts = sorted({min(max(1, round(share * real)), synthetic) for share in SHARES[effort]})
    names = [f"synthetic {_times(count, real)}" for count in counts]
    return Design(
        seeds=config.utility.seeds or SEEDS[effort],
        steps=config.utility.steps or steps_for(real, effort),
        real=Arm("real", real, 0),
        alone=[Arm(name, 0, count) for name, count in zip(names, counts, strict=True)],
        added=[Arm(f"real and {name}", real, count) for name, count in zip(names, counts, strict=True)],
    )


def steps_for(real: int, effort: str) -> int:
    """Steps of every training: 3 for each real training volume, between 150 and 600; half of it for `quick`."""
    steps = min(MOST_STEPS, max(FEWEST_STEPS, STEPS_PER_VOLUME * real))
    return steps // 2 if effort == "quick" else steps


def _times(count: int, real: int) -> str:
    ratio = count / real
    exact = next((share for share in SHARES["full"] if count == round(share * real)), None)
    return f"{exact:g}x" if exact is not None else f"{ratio:.2g}x"


def missing_volumes(design: Design, config: AuditConfig, synthetic: int) -> list[str]:
    """A sentence if the cohort is too small for the arms that were meant."""
    wanted = round(max(SHARES[effort_of(config)]) * design.real.real)
    if synthetic >= wanted:
        return []
    return [
        f"The cohort is too small for {wanted} synthetic training volumes ({_times(wanted, design.real.real)} the real "
        f"ones): all its {synthetic} were used instead."
    ]


def choose_synthetic(arm: Arm, available: int, seed: int) -> list[int]:
    """Which synthetic volumes an arm sees under a seed; a larger arm sees those of a smaller one and more."""
    order = torch.randperm(available, generator=generator_for(seed, "utility", "synthetic"))
    return [int(row) for row in order[: arm.synthetic]]
