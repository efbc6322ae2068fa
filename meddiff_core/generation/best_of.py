"""Best of n: of volumes of one condition from different noise, the nearest to it is kept.

A denoiser follows a number only roughly. To keep the volume that measures nearest to what was asked for is rejection
sampling from p(volume | measured = asked), ended after a fixed number of volumes. What is measured is the label map
that was sampled along with the image, by the arithmetic of screen and release, and what latents tell of other
conditions (predictors.py); whether the image follows as well, the audit's networks say, which never saw this choice.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from meddiff_core.contract import Condition, ContinuousCondition, Contract
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import SamplingConfig
from meddiff_core.types import LabelArray, Latents, StoredArray

DRAFT_SIGMA = 0.3
"""Lowest noise level of a draft, in standard deviations of the latents."""


@dataclass(frozen=True)
class Contender:
    """A volume that was sampled for a condition beside others, and how near it came to what was asked for."""

    number: int
    """Of its noise; 0 is the sample's own."""
    distance: float | None
    """Squared differences of measured and asked, in standard deviations of the training volumes, summed over the
    conditions that were asked for and can be measured or predicted; None where there is none."""
    latents: Latents
    """(1, z, u, v, w), standardised."""
    image: StoredArray
    label: LabelArray | None

    def is_nearer(self, other: "Contender | None") -> bool:
        """Whether it takes the place of another one; of equals the first stays."""
        return other is None or self.comparable < other.comparable

    @property
    def comparable(self) -> float:
        """The distance; the furthest where there is none."""
        return math.inf if self.distance is None else self.distance


def request_with_noise(sample: SampleRequest, number: int) -> SampleRequest:
    """The sample with the noise of that number; number 0 is its own."""
    seed = derive_seed(sample.seed, "candidate", number)  # releases name volumes by this word's bits
    return replace(sample, seed=seed) if number else sample


def draft_config(config: SamplingConfig) -> SamplingConfig | None:
    """Settings of the short walk by which contenders are compared; None where they are sampled in full.

    From the same noise, a deterministic solver comes near the same volume over few levels, and the condition shows
    long before the details do: the walk ends at `DRAFT_SIGMA` with what the denoiser makes of it.
    """
    if config.draft_steps is None or config.best_of == 1 or config.solver == "ancestral":
        return None
    low, high = config.span
    if not low < DRAFT_SIGMA < high or config.draft_steps >= config.levels:
        return None
    levels = {"steps": config.draft_steps, "sigma_min": DRAFT_SIGMA, "sigma_max": high, "sigmas": None}
    return config.model_copy(update=levels)


def measurable_conditions(condition: Condition, contract: Contract) -> dict[str, ContinuousCondition]:
    """Conditions by name that ask for the volume of a structure, and for a known one."""
    return {
        spec.name: spec
        for spec in contract.conditions
        if isinstance(spec, ContinuousCondition)
        and spec.group in contract.labels
        and condition.get(spec.name) is not None
    }


def distance_to_condition(label: LabelArray | None, condition: Condition, contract: Contract) -> float | None:
    """The part of a contender's `distance` that its label map (i, j, k) tells."""
    asked = measurable_conditions(condition, contract)
    if label is None or not asked:
        return None
    volumes = structure_volumes(label, contract)
    away = [(volumes[str(spec.group)] - float(condition[name] or 0)) / spec.std for name, spec in asked.items()]
    return float(np.square(away).sum())


def structure_volumes(label: LabelArray, contract: Contract) -> dict[str, float]:
    """Volume in mm3 of each label group of a label map (i, j, k)."""
    counts = np.bincount(label.ravel(), minlength=len(contract.labels) + 1)
    return {group: float(counts[value]) * contract.voxel_mm3 for value, group in enumerate(contract.labels, start=1)}
