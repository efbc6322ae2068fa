"""What it costs to hand out the shards of cohorts from 100 to 100,000 volumes to 64 workers.

The model is a pause, so what is measured is all that is ours: planning the shards, sending them, gathering what
comes back. Scheduler and workers share this process, so its CPU time is the whole cost. Each volume must come out
once.
"""

import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest
from distributed import Client, LocalCluster

from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.schedule import Shard, plan_shards
from tasks.cluster import _map

WORKERS, SHARD, PAUSE_S = 64, 8, 0.05
COHORTS = (100, 1_000, 10_000, 100_000)
drawn: Counter[str] = Counter()


class AnyCondition(CohortDesign):
    """A cohort design that asks for nothing in particular, and needs no data."""

    def __init__(self) -> None:
        pass

    def condition(self, slot: int) -> dict[str, float]:
        return {"age": 20.0 + slot % 60}


def draw(shard: Shard) -> tuple[str, ...]:
    time.sleep(PAUSE_S)
    names = tuple(sample.sample_id for sample in shard.samples)
    drawn.update(names)
    return names


@pytest.fixture
def client() -> Iterator[Client]:
    local = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**local) as cluster, Client(cluster) as client:
        yield client


def test_cost_of_a_volume_from_small_to_large_cohorts(client: Client) -> None:
    design, process, costs = AnyCondition(), psutil.Process(), []
    list(_map(client, draw, plan_shards(range(WORKERS * SHARD), 9, SHARD, 0, design)))
    for count in COHORTS:
        drawn.clear()
        cpu, started = time.process_time(), time.perf_counter()
        shards = plan_shards(range(count), 0, SHARD, 0, design)
        found = [name for _, names in _map(client, draw, shards) for name in names]
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
        assert len(found) == len(set(found)) == count  # none lost, none twice
        assert set(drawn.values()) == {1}
        costs.append(cpu / count)
        ideal = max(PAUSE_S, PAUSE_S * len(shards) / WORKERS)
        print(
            f"\n{count:>7} volumes: {1e3 * cpu / count:.2f} ms of CPU each, {seconds:.1f} s for {ideal:.1f} s of pauses"
            f" on {WORKERS} workers, {process.memory_info().rss / 2**20:.0f} MB",
            end="",
        )
    print(f"\ncost of a volume at {COHORTS[-1]:,}: {costs[-1] / costs[1]:.2f} x that at {COHORTS[1]:,}")
    assert costs[-1] < 1.5 * costs[1]
