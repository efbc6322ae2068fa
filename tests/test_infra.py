"""The deployments name flows that exist, and the pinned Prefect does what they need."""

import ast
import datetime
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from meddiff_core.errors import ConfigurationError
from tasks.deployments import _schedule
from tasks.environment import sqlite_url

ROOT = Path(__file__).parents[1]
NAMES = [
    "prepare/cpu",
    "train/gpu",
    "generate/gpu",
    "screen/gpu",
    "audit/cpu",
    "release/cpu",
    "apply/on-demand",
    "synthesize/on-demand",
    "synthesize/nightly",
]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]


def parameters_of(entrypoint: str) -> list[str]:
    """Names of the parameters of the flow at `file.py:function`."""
    file, _, name = entrypoint.partition(":")
    tree = ast.parse((ROOT / file).read_text())
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return [argument.arg for argument in function.args.args + function.args.kwonlyargs]


def test_every_flow_has_a_deployment() -> None:
    names = [f"{deployment['entrypoint'].partition(':')[2]}/{deployment['name']}" for deployment in DEPLOYMENTS]
    assert names == NAMES


@pytest.mark.parametrize("entrypoint", sorted({deployment["entrypoint"] for deployment in DEPLOYMENTS}))
def test_every_deployment_names_a_flow_that_takes_a_study(entrypoint: str) -> None:
    assert "study" in parameters_of(entrypoint)


def test_nothing_runs_by_night_before_it_is_given_a_study() -> None:
    schedules = [schedule for deployment in DEPLOYMENTS for schedule in deployment.get("schedules", [])]
    assert [schedule["active"] for schedule in schedules] == [False]


def test_a_schedule_that_is_active_must_say_what_it_runs() -> None:
    nightly = {**DEPLOYMENTS[-1], "parameters": {"grow": 2}}
    with pytest.raises(ConfigurationError, match="synthesize/nightly: an active schedule must give study"):
        _schedule("synthesize/nightly", nightly, {"cron": "0 2 * * *"}, ["study"])
    made = _schedule("synthesize/nightly", nightly, {"cron": "0 2 * * *", "parameters": {"study": "/s"}}, ["study"])
    assert made == {"schedule": {"cron": "0 2 * * *"}, "parameters": {"study": "/s"}}


def test_compose_opens_no_port_to_the_network() -> None:
    services = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("address", ["", "http://someone:secret@127.0.0.1:9/api", "http://[/api", "127.0.0.1:4200"])
def test_without_a_server_deploy_ends_in_a_line(address: str) -> None:
    """In seconds, without a traceback, and without the password."""
    given = {"PREFECT_API_URL": address} if address else {}
    usual = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    command = [sys.executable, "-m", "flows.cli", "deploy"]
    done = subprocess.run(command, env=usual | given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("meddiff: PREFECT_API_URL")
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.server
def test_the_pinned_prefect_runs_a_flow(prefect_api: None) -> None:
    import prefect

    double = prefect.task(lambda value: 2 * value, name="double")
    assert prefect.flow(lambda: double(21), name="answer")() == 42


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A whole Prefect server, with its scheduler, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    with (tmp_path / "server.log").open("wb") as log:
        database = sqlite_url(tmp_path / "prefect.db", "sqlite+aiosqlite")
        own = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own)
    yield f"http://127.0.0.1:{port}/api"
    process.terminate()
    process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.server
def test_the_pinned_prefect_schedules_runs(server: str) -> None:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule
    from prefect.flows import flow

    with SyncPrefectClient(api=server) as client:
        deadline = time.monotonic() + 180
        while not _is_healthy(client):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        hourly = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=datetime.timedelta(hours=1)), active=True)
        flow_id = client.create_flow(flow(lambda: None, name="sleep"))
        client.create_deployment(flow_id, name="nightly", schedules=[hourly])
        while not client.read_flow_runs():
            assert time.monotonic() < deadline, "no run was scheduled"
            time.sleep(0.5)


def _is_healthy(client: Any) -> bool:
    return client.api_healthcheck() is None
