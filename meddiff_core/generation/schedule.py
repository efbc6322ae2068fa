"""The schedule of a cohort: every sample's id, seed and condition, before anything is sampled.

A slot is a place in the cohort; each attempt to fill it is a sample with a seed of its own. A rejected
sample is replaced by the next attempt with the same condition, so the accepted table matches the design.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from meddiff_core.contract import Condition
from meddiff_core.generation.design import CohortDesign
from meddiff_core.models.randomness import derive_seed


@dataclass(frozen=True)
class SampleRequest:
    """One volume to be sampled."""

    sample_id: str
    slot: int
    attempt: int
    seed: int
    condition: Condition


@dataclass(frozen=True)
class Shard:
    """The unit of work, of restart and of integrity."""

    name: str
    samples: tuple[SampleRequest, ...]


def request(slot: int, attempt: int, seed: int, design: CohortDesign) -> SampleRequest:
    """The sample that is attempt `attempt` (from 0) at slot `slot`."""
    sample_id = f"syn-{slot:06d}-{attempt}"
    return SampleRequest(sample_id, slot, attempt, derive_seed(seed, "sample", slot, attempt), design.condition(slot))


def plan_shards(slots: Iterable[int], attempt: int, size: int, seed: int, design: CohortDesign) -> list[Shard]:
    """The shards of one round of attempts at some slots, `size` samples each."""
    samples = [request(slot, attempt, seed, design) for slot in slots]
    chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [Shard(f"{attempt:02d}-{chunk[0].slot:06d}", tuple(chunk)) for chunk in chunks]
