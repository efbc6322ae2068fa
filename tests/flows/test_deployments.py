"""Runs on a Prefect server as an institution has them: deployed, scheduled, killed, and gone on with.

Server and workers are processes of their own on loopback, from an empty PREFECT_HOME, as infra/README.md has them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "prefect.yaml"
Run = Callable[..., Any]
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]


class Service:
    """A server, its workers, and the commands that a user types beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        self.environment = kept | {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "http_proxy": "http://127.0.0.1:9",  # nobody answers there
            "no_proxy": "127.0.0.1",
        }
        self.started: list[subprocess.Popen[bytes]] = []
        self.server = self.serve()

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A process with its children in a group of its own, so that killing it leaves nothing."""
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", *arguments]
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self.started.append(process)
        return process

    def serve(self) -> "subprocess.Popen[bytes]":
        """The whole server, once it answers."""
        server = self.start(
            "server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"
        )
        wait_for(lambda: self.ask("GET", "health") is True, "the server")
        return server

    def work(self, pool: str = "gpu") -> "subprocess.Popen[bytes]":
        """A worker of a pool."""
        return self.start("worker", "prefect", "worker", "start", "--pool", pool, "--limit", "1")

    def ask(self, method: str, path: str, **content: Any) -> Any:
        """What the API answers; None while it does not."""
        with suppress(httpx.TransportError), httpx.Client(trust_env=False) as client:
            answer = client.request(method, f"{self.environment['PREFECT_API_URL']}/{path}", timeout=30, **content)
            return answer.json() if answer.content else None

    def deploy(self, *options: object) -> str:
        """What `meddiff deploy` says."""
        command = [sys.executable, "-m", "flows.cli", "deploy", *map(str, options)]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def deployment(self, name: str) -> Any:
        return self.ask("GET", f"deployments/name/{name}")

    def ask_for_a_run(self, name: str, **parameters: object) -> str:
        """Id of a run that waits."""
        path = f"deployments/{self.deployment(name)['id']}/create_flow_run"
        content = {
            "parameters": {key: value if isinstance(value, int) else str(value) for key, value in parameters.items()}
        }
        return str(self.ask("POST", path, json=content)["id"])

    def runs(self, **where: Any) -> list[Any]:
        """Runs of deployments: no subflows."""
        return list(
            self.ask("POST", "flow_runs/filter", json={"flow_runs": {"deployment_id": {"is_null_": False}, **where}})
            or []
        )

    def state(self, run: str) -> str:
        found = self.ask("GET", f"flow_runs/{run}")
        return str(found["state_name"]) if found else ""

    def stop(self) -> None:
        for process in reversed(self.started):
            kill(process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """With all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], object], what: str, within_s: float = 600) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server that lasts as long as this module's tests."""
    made = Service(tmp_path_factory.mktemp("prefect"))
    yield made
    made.stop()


def with_schedules(folder: Path, *schedules: dict[str, Any]) -> Path:
    """A copy of the file with other schedules for the nights."""
    content = yaml.safe_load(FILE.read_text())
    content["deployments"][-1]["schedules"] = list(schedules)
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_deployed_twice_there_are_the_schedules_of_the_file_and_the_runs_that_waited(
    service: Service, tmp_path: Path
) -> None:
    said = service.deploy()
    assert [line.split()[1] for line in said.splitlines() if line.startswith("pool")] == ["cpu", "gpu"]
    assert service.ask("GET", "work_pools/gpu")["concurrency_limit"] == 1
    (schedule,) = service.deployment("synthesize/nightly")["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("nightly", False)
    described = service.deployment("synthesize/on-demand")["parameter_openapi_schema"]
    assert described["required"] == ["study"]
    assert all(one["description"] for one in described["properties"].values())

    every = {"cron": "0 2 * * *", "active": True, "parameters": {"study": "/nowhere"}}
    service.deploy("--file", with_schedules(tmp_path, {"slug": "one", **every}, {"slug": "two", **every}))
    wait_for(lambda: len(service.runs()) > 1, "a scheduled run")
    waiting = service.ask_for_a_run("synthesize/on-demand", study="/nowhere")
    late = service.runs(state={"type": {"any_": ["SCHEDULED"]}})[0]["id"]
    service.ask(
        "POST", f"flow_runs/{late}/set_state", json={"state": {"type": "SCHEDULED", "name": "Late"}, "force": True}
    )
    for _ in range(2):
        service.deploy("--file", with_schedules(tmp_path, {"slug": "two", **every}))
        assert [one["slug"] for one in service.deployment("synthesize/nightly")["schedules"]] == ["two"]
        assert service.state(waiting) in ("Scheduled", "Late")
        assert service.state(late) == "Late"
    names = [one["name"] for one in service.ask("POST", "automations/filter", json={})]
    assert sorted(names) == ["meddiff-pending", "meddiff-silent"]
    service.deploy()
    for run in service.runs():
        service.ask("DELETE", f"flow_runs/{run['id']}")


def test_a_run_that_ended_is_never_called_crashed(service: Service) -> None:
    """Neither the automation nor a worker that sees a slow exit can."""
    service.deploy()
    run = service.ask_for_a_run("synthesize/on-demand", study="/nowhere")
    service.ask("POST", f"flow_runs/{run}/set_state", json={"state": {"type": "COMPLETED"}, "force": True})
    answer = service.ask("POST", f"flow_runs/{run}/set_state", json={"state": {"type": "CRASHED"}, "force": False})
    assert answer["status"] == "ABORT"
    assert service.state(run) == "Completed"


def test_a_scheduled_run_grows_a_finished_study_by_a_version(service: Service, finished: Path, tmp_path: Path) -> None:
    """A schedule of every minute: the scheduler, the worker and the flow are all really there."""
    text = (finished / "study.yaml").read_text()
    (finished / "study.yaml").write_text(f"{text}release: {{version: 1.0.0}}\n")  # a schedule changes what stands there
    once = {"study": str(finished), "grow": 4}
    nightly = {"slug": "minutely", "cron": "* * * * *", "active": True, "parameters": once}
    service.deploy("--file", with_schedules(tmp_path, nightly))
    worker = service.work()
    wait_for(
        lambda: [run for run in service.runs() if run["state_type"] == "COMPLETED" and run["auto_scheduled"]], "it", 900
    )
    service.deploy("--file", with_schedules(tmp_path))
    study = yaml.safe_load((finished / "study.yaml").read_text())
    assert study["cohort"]["size"] >= 12
    kill(worker)


def test_a_run_whose_worker_and_server_were_killed_is_gone_on_with(
    service: Service, new_study: Run, chain: Any
) -> None:
    from meddiff_core.artefacts import digest_tree

    service.deploy()
    study = new_study("killed-worker")
    worker = service.work()
    first = service.ask_for_a_run("synthesize/on-demand", study=study)
    wait_for(
        lambda: (study / "models" / "autoencoder").exists() or (study / "dataset.zarr").exists(), "a first artefact"
    )
    kill(worker)
    for process in processes_of(study):
        os.kill(process, signal.SIGKILL)
    kill(service.server)
    service.server = service.serve()
    assert service.state(first) == "Running"
    worker = service.work()
    second = service.ask_for_a_run("synthesize/on-demand", study=study)
    wait_for(lambda: service.state(first) == "Crashed", "the automation's word on a silent run")
    wait_for(lambda: service.state(second) == "Completed", "the end of the second run", 900)
    assert digest_tree(study / "releases" / "heads-1.0.0") == digest_tree(chain.release)

    started = time.monotonic()
    third = service.ask_for_a_run("synthesize/on-demand", study=study)
    wait_for(lambda: service.state(third) == "Completed", "the end of a run with nothing to do", 120)
    found = service.ask("GET", f"flow_runs/{third}")
    print(json.dumps({"whole_s": time.monotonic() - started, "run_s": found["total_run_time"]}))
    assert found["total_run_time"] < 20
    kill(worker)


def processes_of(study: Path) -> list[int]:
    """Ids of processes whose working files are a study's: flows that were started by a worker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(os.readlink(link)).startswith(f"{study}/") for link in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found
