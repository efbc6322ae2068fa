"""A cluster that is reached by its address: who may be there, who is waited for, and what is said meanwhile.

Schedulers and workers are threads of this process where that is enough; what is killed is a process.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import LocalCluster, Security, Worker

from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.study import RuntimeConfig
from tasks import cluster, mapping, software
from tasks.cluster import open_mapper

ROOT = Path(__file__).parents[2]
TLS = """
openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=meddiff" -keyout ca-key.pem -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj "/CN=dask" -keyout key.pem -out request.pem
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 365 -out cert.pem
"""
"""As infra/README.md has it."""


def square(value: int) -> int:
    return value * value


def square_slowly(value: int) -> int:
    time.sleep(0.2)
    return value * value


def name_of_worker(_: int) -> str:
    from distributed import get_worker

    return str(get_worker().name)


def kill_scheduler_once(item: tuple[str, int, int]) -> int:
    """The one that listens on a port, as long as it is the first."""
    mark, process, value = item
    if value == 3 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(process, signal.SIGKILL)
        time.sleep(1)
    return value * value


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "_SILENCE_S", 0.3)
    monkeypatch.setattr(mapping, "_LOOK_AGAIN_S", 0.1)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user reads."""
    lines: list[str] = []
    for module in (mapping, cluster):
        monkeypatch.setattr(module, "warn", lines.append)
    return lines


@contextmanager
def threads(workers: int = 0, **options: Any) -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol=options.pop("protocol", "tcp://"),
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
        **options,
    ) as local:
        local.added = []
        yield local
        for worker in local.added:
            local.sync(worker.close)


def add_worker(local: LocalCluster, **options: Any) -> None:
    async def start() -> Worker:
        return await Worker(local.scheduler_address, nthreads=1, dashboard=False, **options)

    local.added.append(local.sync(start))


def at(address: str, **settings: Any) -> RuntimeConfig:
    return RuntimeConfig(dask=address, device="cpu", **settings)


@pytest.mark.parametrize(
    ("lacking", "gpu", "options"),
    [("there is no worker", False, {}), ("none of 1 workers has the resource GPU=1", True, {"resources": {"GPU": 1}})],
)
def test_work_without_a_worker_for_it_says_so_once_and_waits(
    lacking: str, gpu: bool, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    with threads(workers=int(gpu)) as local, open_mapper(at(local.scheduler_address), tmp_path, gpu=gpu) as mapper:

        def hear(line: str) -> None:
            said.append(line)
            add_worker(local, name="new", **options)

        monkeypatch.setattr(mapping, "warn", hear)
        assert dict(mapper(name_of_worker, range(6))) == dict.fromkeys(range(6), "new")
    (line,) = said
    assert lacking in line
    assert local.scheduler_address in line


def test_workers_come_with_the_work_and_go_after_it(tmp_path: Path, said: list[str]) -> None:
    with threads() as local:
        local.adapt(minimum=0, maximum=2, interval="50ms", wait_count=2, target_duration="100ms")
        with open_mapper(at(local.scheduler_address), tmp_path) as mapper:
            for _ in range(2):  # come, go, come again
                most = 0
                for position, result in mapper(square_slowly, range(10)):
                    assert result == position**2
                    most = max(most, len(local.scheduler.workers))
                assert most == 2
                deadline = time.monotonic() + 20
                while local.scheduler.workers:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)


def test_other_software_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with threads(workers=1) as local, open_mapper(at(local.scheduler_address), tmp_path) as mapper:
        wanted = software.own_software() | {"torch": "0.1"}
        monkeypatch.setattr(software, "own_software", lambda: wanted)
        (worker,) = local.scheduler.workers
        with pytest.raises(ConfigurationError, match=rf"software: .*worker {worker} has torch .* instead of 0\.1$"):
            list(mapper(square, range(2)))


def test_the_build_of_a_package_may_differ_and_its_version_not() -> None:
    compare = software._comparable
    assert compare({"python": "3.11.2.final.0", "torch": "2.13.0+cu130"}) == {"python": "3.11", "torch": "2.13.0"}


def test_nobody_at_the_address_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        open_mapper(at(address), tmp_path) as mapper,
        pytest.raises(ConfigurationError, match=f"no scheduler answers at {address}"),
    ):
        list(mapper(square, range(2)))


@pytest.mark.parametrize("kind", ["slurm", "kubernetes"])
def test_a_cluster_whose_package_is_missing_says_which(kind: str, tmp_path: Path) -> None:
    with (
        open_mapper(RuntimeConfig(dask=kind), tmp_path) as mapper,
        pytest.raises(ConfigurationError, match=f"{kind} needs `pip install dask-"),
    ):
        list(mapper(square, range(2)))


def test_a_started_cluster_grows_with_the_work_and_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setitem(cluster._STARTED, "slurm", ("distributed", "LocalCluster", "distributed"))
    options = {"n_workers": 0, "processes": False, "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    runtime = RuntimeConfig.model_validate({"dask": "slurm", "cluster": {"options": options, "maximum": 2}})
    with open_mapper(runtime, tmp_path) as mapper:
        assert sorted(mapper(square, range(5))) == [(n, n * n) for n in range(5)]
        client = mapper.connection.client  # type: ignore[attr-defined]
    assert client.status == "closed"
    assert client.cluster.status.name == "closed"


def test_a_started_cluster_with_wrong_options_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster._STARTED, "slurm", ("distributed", "LocalCluster", "distributed"))
    options = {"processes": False, "dashboard_address": "127.0.0.1:0", "qeue": 1}
    runtime = RuntimeConfig.model_validate({"dask": "slurm", "cluster": {"options": options}})
    with open_mapper(runtime, tmp_path) as mapper, pytest.raises(ConfigurationError, match=r"cluster\.options must be"):
        list(mapper(square, range(2)))


def test_tls_with_ones_own_certificates(tmp_path: Path) -> None:
    for line in TLS.strip().splitlines():
        subprocess.run(line, shell=True, cwd=tmp_path, check=True, capture_output=True)
    roles = [f"{role}.{what}" for role in ("client", "scheduler", "worker") for what in ("cert", "key")]
    files = {f"distributed.comm.tls.{name}": str(tmp_path / f"{name.split('.')[1]}.pem") for name in roles}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.comm.tls.ca-file": str(tmp_path / "ca.pem"), **files}))
        security = Security(require_encryption=True)
        local = stack.enter_context(threads(workers=1, protocol="tls://", security=security))
        assert local.scheduler_address.startswith("tls://")
        with open_mapper(at(local.scheduler_address), tmp_path) as mapper:
            assert sorted(mapper(square, range(3))) == [(0, 0), (1, 1), (2, 4)]
        stack.enter_context(dask.config.set({"distributed.comm.tls.ca-file": None}))
        mapper = stack.enter_context(open_mapper(at(local.scheduler_address), tmp_path))
        with pytest.raises(ConfigurationError, match=r"no scheduler answers at tls://"):
            list(mapper(square, range(2)))


def free_port() -> int:
    """Below those that a connection takes for its own end: one to a port where nobody listens may meet itself there."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `dask scheduler` or `dask worker` as a process, which is ended with the test."""
    with ExitStack() as stack:

        def run(*arguments: str, path: str = "") -> "subprocess.Popen[bytes]":
            variables = os.environ | {"PYTHONPATH": f"{path}:{ROOT}:{Path(__file__).parent}"}
            log = stack.enter_context((tmp_path / f"{arguments[0]}.log").open("ab"))
            command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:], "--no-dashboard"]
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=tmp_path)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


def start_scheduler(start: Start, port: int) -> "subprocess.Popen[bytes]":
    process = start("scheduler", "--host", "127.0.0.1", "--port", str(port))
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return process


def start_worker(start: Start, port: int, path: str = "") -> "subprocess.Popen[bytes]":
    return start("worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny", path=path)


@pytest.mark.slow
@pytest.mark.long
def test_a_scheduler_that_is_lost_is_waited_for_and_what_was_not_done_is_sent_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, said = free_port(), []
    first = start_scheduler(start, port)
    start_worker(start, port)
    items = [(str(tmp_path / "mark"), first.pid, value) for value in range(20)]

    def hear(line: str) -> None:
        said.append(line)
        if "is lost" in line:
            first.wait()
            start_scheduler(start, port)
            start_worker(start, port)

    monkeypatch.setattr(cluster, "warn", hear)
    with open_mapper(at(f"tcp://127.0.0.1:{port}"), tmp_path) as mapper:
        results = list(mapper(kill_scheduler_once, items))
    assert sorted(results) == [(n, n * n) for n in range(20)]
    assert ["is lost" in line for line in said] == [True, False]


@pytest.mark.slow
@pytest.mark.long
def test_a_scheduler_that_does_not_come_back_is_one_line(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(cluster, "_SCHEDULER_S", 0.0)
    monkeypatch.setattr(cluster, "_CONNECT_S", 5)
    port = free_port()
    scheduler = start_scheduler(start, port)
    start_worker(start, port)
    items = [(str(tmp_path / "mark"), scheduler.pid, value) for value in range(20)]
    with (
        open_mapper(at(f"tcp://127.0.0.1:{port}"), tmp_path) as mapper,
        pytest.raises(MeddiffError, match="must come back within 0 minutes, it did not; run again"),
    ):
        list(mapper(kill_scheduler_once, items))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["meddiff", "zarr"])
def test_a_worker_with_another_version_is_refused_also_if_it_comes_later(
    name: str, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "other" / f"{name}-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    port = free_port()
    start_scheduler(start, port)
    monkeypatch.setattr(mapping, "warn", lambda line: start_worker(start, port, str(tmp_path / "other")))
    for _ in ("comes later", "is there"):
        with (
            open_mapper(at(f"tcp://127.0.0.1:{port}"), tmp_path) as mapper,
            pytest.raises(ConfigurationError, match=rf"worker tcp://127.* has {name} 9\.9 instead of \d"),
        ):
            list(mapper(square, range(4)))
