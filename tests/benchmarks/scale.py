"""What it costs to hand out the shards of cohorts from 100 to 100,000 volumes to 64 workers.

    python tests/benchmarks/scale.py             # Dask: 64 workers, up to 100,000 volumes
    python tests/benchmarks/scale.py --engines   # Prefect and MLflow: what a shard costs them, and their rows
    python tests/benchmarks/scale.py --plan      # files, bytes and hours of 100,000 volumes by grid and GPUs

The model is a pause, so what is measured is all that is ours: planning the shards, sending them, gathering what
comes back. Scheduler and workers share this process, so its time on the processor is the whole cost. Each volume must
come out once.
"""

import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from distributed import Client, LocalCluster

from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.schedule import Shard, plan_shards
from tasks.cluster import _map

WORKERS, SHARD, PAUSE_S = 64, 8, 0.05
COHORTS = (100, 1_000, 10_000, 100_000)
SHARD_S, SHARDS = 30.0, 200
"""Seconds of a shard that costs are held against, and shards that they are measured over."""
GRIDS = {"4 mm": (40, 48, 40), "2 mm": (80, 96, 80), "1 mm": (160, 192, 160)}
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


def engines() -> None:
    """What a shard costs Prefect and MLflow where each one reports at once, without any pace, and at a run's pace."""
    from tasks.environment import prepare_environment

    folder = Path(tempfile.mkdtemp(prefix="meddiff-scale-"))
    prepare_environment(folder)
    from tasks.local_api import local_api

    with local_api(folder) as wait:
        wait()
        for name, pace in (("the first run", 0.0), ("each shard reports", 0.0), ("at the pace of a run", 5.0)):
            before = rows_of(folder)
            each = seconds_each(folder, pace)
            rows = {engine: count - before[engine] for engine, count in rows_of(folder).items()}
            share = f"{each / SHARD_S:.3%} of {SHARD_S:g} s"
            print(f"{name}: {1e3 * each:.1f} ms a shard, {share}; {rows} rows", flush=True)


def seconds_each(folder: Path, pace: float) -> float:
    """Seconds of a shard that is nothing but its report, in a Prefect task and an open run of MLflow."""
    from prefect import flow

    from meddiff_core.types import Progress, Work
    from tasks.progress import Console, speaking
    from tasks.tracking import stage_run, study_run
    from tasks.work import run_as_task

    taken = []

    def shards() -> Work[None]:
        started = time.perf_counter()
        for done in range(SHARDS):
            yield Progress("generate shards", done + 1, SHARDS, metrics={"shards": float(done)})
        taken.append(time.perf_counter() - started)

    def candidates() -> None:
        run_as_task("candidates", shards)

    console = Console(line_every_s=1e9, artifact_every_s=pace, metrics_every_s=pace)
    with speaking(console), study_run(folder, "scale", "0" * 64), stage_run("generate", "0" * 64):
        flow(name="scale")(candidates)()
    return taken[0] / SHARDS


def rows_of(folder: Path) -> dict[str, int]:
    """Rows of both databases."""
    counts = {}
    for engine, path in (("MLflow", folder / "mlflow.db"), ("Prefect", folder / ".meddiff" / "prefect" / "prefect.db")):
        counts[engine] = 0
        if path.exists():
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
                counts[engine] = sum(database.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names)
    return counts


def plan() -> None:
    """What 100,000 volumes with label maps take, by grid; hours by the seconds that a volume takes on one GPU."""
    from meddiff_core.contract import Contract, IntensityMapping
    from meddiff_core.generation.scale import describe_scale, scale_of
    from meddiff_core.study import Study

    asked = {"name": "scale", "data": {"images": "in"}, "cohort": {"size": COHORTS[-1]}, "sampling": {"shard": SHARD}}
    study = Study.model_validate(asked)
    intensity = IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5), storage="uint16")
    for name, size in GRIDS.items():
        grid = {"spacing_mm": 4.0, "size": size, "mask": "none", "labels": {"brain": (1,)}, "conditions": ()}
        scale = scale_of(study, Contract(intensity=intensity, **grid), None)
        print(f"{name}: {describe_scale(scale)}")
    for gpus in (1, 8, 64, 512):
        hours = ", ".join(f"{each:g} s: {COHORTS[-1] * each / 3600 / gpus:,.1f} h" for each in (1, 4, 30))
        print(f"{gpus:>4} GPUs, by the seconds of a volume on one: {hours}")


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
    {"--engines": engines, "--plan": plan}.get("".join(sys.argv[1:]), main)()
