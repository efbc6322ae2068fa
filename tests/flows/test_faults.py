"""What breaks while a study is made, and what is left of it: run again, and the release has the bytes of a quiet run.

Killed commands are in test_kill.py, lost processes of a training in tests/tasks/test_launch.py. Every test makes the
second half of the chain anew, on a copy of the quiet study.
"""

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddiff_core.artefacts import digest_tree
from meddiff_core.workspace import CHAIN

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]
Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
MADE_ANEW = list(CHAIN)[list(CHAIN).index("candidates") :]
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long jump(void) {  /* two hours back, a day on, by turns of three seconds */
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (now.tv_sec / 3) % 2 ? -7200 : 86400;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return out ? (*out = now.tv_sec) : now.tv_sec;
}
"""


@pytest.fixture
def half_made(finished: Path) -> Path:
    """A study whose models are trained, and of which nothing was generated yet."""
    for name in MADE_ANEW:
        path = finished / CHAIN[name].path
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (finished / ".meddiff" / "ledger" / f"{name}.json").unlink()
    return finished


def release_of(study: Path) -> dict[str, str]:
    return digest_tree(study / "releases" / "heads-1.0.0")


def change(study: Path, section: str, **settings: Any) -> None:
    content = yaml.safe_load((study / "study.yaml").read_text())
    content[section] = content.get(section, {}) | settings
    (study / "study.yaml").write_text(yaml.safe_dump(content))


def wait_for(condition: Callable[[], bool], within_s: float = 400) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def started(start_meddiff: Run, study: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command at work on a study; ended with the block."""
    with start_meddiff("run", study) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def dask(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"distributed.cli.dask_{arguments[0]}", *arguments[1:], "--no-dashboard"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def scheduler_and_workers(port: int, count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The scheduler first."""
    worker = ("worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny", "--memory-limit", "0")
    with ExitStack() as stack:
        scheduler = stack.enter_context(dask("scheduler", "--host", "127.0.0.1", "--port", str(port)))
        wait_for(lambda: is_open(port))
        yield [scheduler, *(stack.enter_context(dask(*worker)) for _ in range(count))]


def free_port() -> int:
    """Below those that a connection takes for its own end: one to a port where nobody listens may meet itself there."""
    for port in random.sample(range(20000, 32000), 100):
        if not is_open(port):
            return port
    raise AssertionError("no port is free")


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_killed_worker_and_a_killed_scheduler_change_no_byte(chain: Any, half_made: Path, start_meddiff: Run) -> None:
    """The worker dies of the first shard, the scheduler as soon as there is one; both come back."""
    port = free_port()
    change(half_made, "runtime", dask=f"tcp://127.0.0.1:{port}")
    shards = half_made / "candidates.zarr"
    with scheduler_and_workers(port, 2) as (scheduler, first, _), started(start_meddiff, half_made) as command:
        wait_for(lambda: any(shards.glob(".*.partial")) or any(shards.glob("00-*")))
        first.send_signal(signal.SIGKILL)
        wait_for(lambda: any(shards.glob("00-*")))
        scheduler.send_signal(signal.SIGKILL)
        scheduler.wait()
        time.sleep(2)
        with scheduler_and_workers(port, 1):
            _, said = command.communicate(timeout=400)
    assert command.returncode == 0, said
    assert f"Dask: the scheduler at tcp://127.0.0.1:{port} is lost" in said
    assert release_of(half_made) == release_of(chain.folder)


def test_a_second_run_names_the_first_and_a_changed_study_is_refused(
    chain: Any, half_made: Path, start_meddiff: Run, served: Run
) -> None:
    """The study changes while its candidates are being made; the second comes while the first is still at work."""
    original = (half_made / "study.yaml").read_text()
    with started(start_meddiff, half_made) as first:
        wait_for((half_made / "candidates.zarr").exists)
        change(half_made, "cohort", seed=7)
        second = served("run", half_made)
        assert second.status == 2
        assert f"another meddiff is working on it (process {first.pid} on " in second.err
        _, said = first.communicate(timeout=400)
    assert first.returncode == 2, said
    assert "candidates must be up to date, is stale (study.cohort changed)" in said
    (half_made / "study.yaml").write_text(original)
    again = served("run", half_made)
    assert again.status == 0, again.err
    assert release_of(half_made) == release_of(chain.folder)


def test_a_clock_that_jumps_changes_no_byte(chain: Any, half_made: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    command = [sys.executable, "-m", "flows.cli", "run", str(half_made)]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        command,
        env=variables | {"LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert release_of(half_made) == release_of(chain.folder)


FULL = """
cp -r {study} {spare} && mount -t tmpfs -o size=100m tmpfs {study} && cp -r {spare}/. {study} || exit 98
cat /dev/zero > {study}/ballast
truncate --size=-{left_kb}K {study}/ballast
{python} -m flows.cli run {study} && exit 99
echo "status $?"
rm {study}/ballast
{python} -m flows.cli run {study} && cp -r {study}/releases {kept}
"""


def test_a_full_disk_is_one_line_and_costs_nothing_else(chain: Any, half_made: Path, tmp_path: Path) -> None:
    """In a file system of its own, which needs a user's own namespace."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    names = {"study": half_made, "spare": tmp_path / "spare", "kept": tmp_path / "kept", "python": sys.executable}
    script = FULL.format(left_kb=150, **{name: shlex.quote(str(path)) for name, path in names.items()})
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env=variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "status 1" in done.stdout
    assert "no room" in done.stderr
    assert digest_tree(tmp_path / "kept" / "heads-1.0.0") == release_of(chain.folder)
