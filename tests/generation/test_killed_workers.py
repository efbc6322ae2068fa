"""Workers that are killed at any instant, and even work on the same shards, leave every volume once and bit for bit.

A worker is a fork of this process, so a kill costs no start: many fit into a short test. `MEDDIFF_TEST_KILLS` and
`MEDDIFF_TEST_VOLUMES` ask for more.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from meddiff_core.artefacts import digest_tree
from meddiff_core.generation.engine import open_engine
from meddiff_core.generation.schedule import SampleRequest, Shard
from meddiff_core.generation.shards import ShardJob, find_shard, make_shard
from meddiff_core.study import SamplingConfig

KILLS = int(os.environ.get("MEDDIFF_TEST_KILLS", "8"))
VOLUMES = int(os.environ.get("MEDDIFF_TEST_VOLUMES", "40"))
SHARD = 4
WORKERS = 2


@pytest.fixture
def jobs(tmp_path: Path, models: Path, sampling: Callable[..., SamplingConfig]) -> Callable[[str], list[ShardJob]]:
    """The shards of a whole cohort, in a folder."""

    def make(folder: str) -> list[ShardJob]:
        samples = [SampleRequest(f"syn-{n:06d}-0", n, 0, 7 + n, {"age": 20.0 + n % 60}) for n in range(VOLUMES)]
        shards = [Shard(f"00-{n:06d}", tuple(samples[n : n + SHARD])) for n in range(0, VOLUMES, SHARD)]
        config = sampling(batch=2, shard=SHARD)
        return [ShardJob(shard, tmp_path / folder, models, "digest", config, "cpu") for shard in shards]

    return make


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forks")
@pytest.mark.timeout(600)
def test_kills_at_any_instant_change_no_byte(jobs: Callable[[str], list[ShardJob]]) -> None:
    quiet, troubled = jobs("quiet"), jobs("troubled")
    open_engine(quiet[0].models, "digest", quiet[0].config, "cpu")  # so that no fork has to
    started = time.monotonic()
    for job in quiet:
        make_shard(job)
    seconds, chance, fallen = time.monotonic() - started, random.Random(2026), 0
    for _ in range(KILLS):
        same = chance.random()
        workers = [start_worker(troubled, chance.choice([same, chance.random()])) for _ in range(WORKERS)]
        time.sleep(chance.uniform(0, 2 * seconds / (WORKERS * KILLS)))
        fallen += sum(kill(worker) for worker in workers)
    assert fallen > KILLS  # otherwise they had ended by themselves and nothing was tested
    last = [start_worker(troubled, chance.random()) for _ in range(WORKERS)]
    assert [os.waitpid(worker, 0)[1] for worker in last] == [0] * WORKERS
    assert all(find_shard(job) for job in troubled)
    # A worker that was killed while it waited for one that finished may leave a hidden folder behind.
    found = {path: digest for path, digest in digest_tree(troubled[0].candidates).items() if not path.startswith(".")}
    assert found == digest_tree(quiet[0].candidates)


def start_worker(jobs: Sequence[ShardJob], chance: float) -> int:
    """A process that makes all shards, from one of them on; two may start at the same one. Gives its id."""
    if process := os.fork():
        return process
    try:
        first = int(chance * len(jobs))
        for job in [*jobs[first:], *jobs[:first]]:
            make_shard(job)
        os._exit(0)
    except BaseException:  # what pytest would do with it in a fork is of no use
        os._exit(1)


def kill(process: int) -> bool:
    """Whether a process had to be killed."""
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])
