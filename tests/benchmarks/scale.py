"""What it costs to hand out the shards of cohorts from 100 to 100,000 volumes to 64 workers.

    python tests/benchmarks/scale.py

The model is a pause, so what is measured is all that is ours: planning the shards, sending them, gathering what
comes back. Scheduler and workers share this process, so its time on the processor is the whole cost. Each volume must
come out once.
"""

import time
from collections import Counter

import psutil
from distributed import Client, LocalCluster

from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.schedule import Shard, plan_shards
from tasks.cluster import _map

WORKERS, SHARD, PAUSE_S = 64, 8, 0.05
COHORTS = (100, 1_000, 10_000, 100_000)
sampled: Counter[str] = Counter()


class AnyCondition(CohortDesign):
    """A cohort design that asks for nothing in particular, and needs no data."""

    def __init__(self) -> None:
        pass

    def condition(self, slot: int) -> dict[str, float]:
        return {"age": 20.0 + slot % 60}


def sample(shard: Shard) -> tuple[str, ...]:
    time.sleep(PAUSE_S)
    names = tuple(sample.sample_id for sample in shard.samples)
    sampled.update(names)
    return names


def main() -> None:
    local = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": False, "memory_limit": 0}
    with LocalCluster(**local, dashboard_address=None) as cluster, Client(cluster) as client:
        sampled_by(client, WORKERS * SHARD)
        costs = {count: cost_of(client, count) for count in COHORTS}
    print(f"a volume of {COHORTS[-1]:,} costs {costs[COHORTS[-1]] / costs[COHORTS[1]]:.2f} x one of {COHORTS[1]:,}")


def cost_of(client: Client, count: int) -> float:
    """Seconds of the processor for each volume of a cohort."""
    sampled.clear()
    cpu, started = time.process_time(), time.perf_counter()
    found = sampled_by(client, count)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    lost, twice = count - len(set(found)), sum(times - 1 for times in sampled.values()) + len(found) - len(set(found))
    pauses = max(PAUSE_S, PAUSE_S * count / SHARD / WORKERS)
    print(
        f"{count:>7,} volumes: {lost} lost, {twice} twice, {1e3 * cpu / count:.2f} ms of the processor each, "
        f"{seconds:.1f} s with {pauses:.1f} s of pauses, {psutil.Process().memory_info().rss / 2**20:.0f} MB",
        flush=True,
    )
    return cpu / count


def sampled_by(client: Client, count: int) -> list[str]:
    shards = plan_shards(range(count), 0, SHARD, 0, AnyCondition())
    return [name for _, names in _map(client, sample, shards) for name in names]


if __name__ == "__main__":
    main()
