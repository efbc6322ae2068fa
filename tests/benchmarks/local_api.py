"""What the Prefect API of a lone command takes of the processor: to start, idle, and while a task reports.

    python tests/benchmarks/local_api.py [--seconds 120]

Prefect's own ephemeral server stands beside it, one after the other on the same machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from meddiff_core.types import Progress, Work
from tasks import local_api
from tasks.environment import prepare_environment

POPEN = subprocess.Popen
STOCK = """
import os, socket, sys, uvicorn
for name in {services!r}:
    del os.environ[name]
config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[-1]))])
"""
"""What Prefect starts for itself: all services of an ephemeral server."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="of each measurement")
    parser.add_argument("--which", choices=("prefect", "meddiff"))
    given = parser.parse_args()
    if given.which:
        measure(given.which, given.seconds)
        return
    print(f"{'API':<10}{'start, s of a core':>20}{'idle, % of a core':>20}{'reporting, %':>15}", flush=True)
    for which in ("prefect", "meddiff"):
        subprocess.run([sys.executable, __file__, "--which", which, "--seconds", str(given.seconds)], check=True)


def measure(which: str, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, api_of(which, Path(folder)) as server:
        start = processor_time(server)
        import prefect

        from tasks.work import run_as_task

        prefect.flow(lambda: run_as_task("train", lambda: reports(1)), name="warm-up")()
        idle = share(server, lambda: time.sleep(seconds))
        flow = prefect.flow(lambda: run_as_task("train", lambda: reports(seconds)), name="train")
        print(f"{which:<10}{start:>20.1f}{100 * idle:>20.2f}{100 * share(server, flow):>15.2f}", flush=True)


@contextmanager
def api_of(which: str, folder: Path) -> Iterator[int]:
    """Process id of an API that answers."""
    prepare_environment(folder)
    with ExitStack() as stack:
        if which == "prefect":
            stack.enter_context(mock.patch.object(subprocess, "Popen", stock_server))
        ready = stack.enter_context(local_api.local_api(folder))
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        ready()
        yield int(children[0])


def stock_server(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Instead of the one that a command starts."""
    services = [name for name in local_api._SERVER_ENVIRONMENT if "_SERVICES_" in name or "_EVENTS_" in name]
    return POPEN([sys.executable, "-c", STOCK.format(services=services), command[-1]], **options)


def reports(seconds: float) -> Work[int]:
    """A training as the core reports it: ten records a second, each with a metric."""
    total = int(10 * seconds)
    for done in range(total):
        time.sleep(0.1)
        yield Progress("train", done + 1, total, metrics={"loss": 1 / (done + 1)})
    return total


def share(process: int, work: Callable[[], object]) -> float:
    """Part of a core that a process takes while some work goes on."""
    before, started = processor_time(process), time.monotonic()
    work()
    return (processor_time(process) - before) / (time.monotonic() - started)


def processor_time(process: int) -> float:
    """Seconds in user and system mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
