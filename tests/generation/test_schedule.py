"""Every sample has an id and a seed of its own, and a new attempt asks for the same again."""

from pathlib import Path

import pytest

from meddiff_core.contract import Contract
from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.schedule import plan_shards, request
from meddiff_core.study import CohortConfig


@pytest.fixture
def design(contract: Contract) -> CohortDesign:
    return CohortDesign(CohortConfig(distributions={"age": [20, 80]}), contract.conditions, [], Path("nowhere"))


def test_ids_and_seeds_are_unique_over_slots_and_attempts(design: CohortDesign) -> None:
    samples = [request(slot, attempt, 0, design) for slot in range(60) for attempt in range(12)]
    assert len({sample.sample_id for sample in samples}) == len({sample.seed for sample in samples}) == len(samples)


def test_another_attempt_changes_the_seed_but_not_the_condition(design: CohortDesign) -> None:
    first, second = request(7, 0, 0, design), request(7, 1, 0, design)
    assert (first.sample_id, second.sample_id) == ("syn-000007-0", "syn-000007-1")
    assert first.seed != second.seed
    assert first.condition == second.condition == design.condition(7)


def test_another_seed_of_the_cohort_changes_every_sample(design: CohortDesign) -> None:
    seeds = [{request(slot, 0, seed, design).seed for slot in range(50)} for seed in (0, 1)]
    assert seeds[0].isdisjoint(seeds[1])


@pytest.mark.parametrize("size", [1, 4, 100])
def test_shards_hold_every_sample_once_in_order(design: CohortDesign, size: int) -> None:
    slots = [0, 1, 2, 5, 8, 9, 30]
    shards = plan_shards(slots, 2, size, 0, design)
    samples = [sample for shard in shards for sample in shard.samples]
    assert samples == [request(slot, 2, 0, design) for slot in slots]
    assert {len(shard.samples) for shard in shards[:-1]} <= {size}
    assert len(shards[-1].samples) <= size


def test_shards_of_all_attempts_have_names_of_their_own(design: CohortDesign) -> None:
    shards = [shard for attempt in range(3) for shard in plan_shards(range(20), attempt, 6, 0, design)]
    assert len({shard.name for shard in shards}) == len(shards) == 12


def test_the_size_of_shards_changes_no_sample(design: CohortDesign) -> None:
    small, large = (
        [s for shard in plan_shards(range(9), 0, size, 0, design) for s in shard.samples] for size in (2, 9)
    )
    assert small == large


def test_no_slots_need_no_shards(design: CohortDesign) -> None:
    assert plan_shards([], 0, 4, 0, design) == []
