"""A password in MLFLOW_TRACKING_URI is in no database, log, state or line, whether a run succeeds or fails."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracking_servers import MlflowServer, Relay, free_port, mlflow_server

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1200)]
Run = Callable[..., Any]
USER, PASSWORD = "anna", "cAnAry-Pa55w0rd"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


def meddiff(uri: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command with all that it can say."""
    engines = ("PREFECT_", "MLFLOW_", "DASK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(engines)}
    own = {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    return subprocess.run(command, env=kept | own, capture_output=True, text=True)


def holding(*folders: Path) -> list[str]:
    """Files that hold the password."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if PASSWORD.encode() in path.read_bytes()]


def test_no_password_is_kept_of_a_run_that_is_told_and_of_one_that_fails(
    new_study: Run, server: MlflowServer, tmp_path: Path
) -> None:
    relay = Relay()
    relay.target, relay.mode, relay.user = server.url, "forward", f"{USER}:{PASSWORD}"
    good = new_study("canary-told")
    done = meddiff(relay.url(relay.user), "plan", "-v", good)
    assert done.returncode == 0, done.stderr
    assert relay.counts["forward"] > 10  # it was let in by the password, and told MLflow
    (tmp_path / "scan.nii.gz").write_bytes(b"no image")
    bad = new_study("canary-failed", data={"images": str(tmp_path), "labels": None, "mask": "none", "covariates": {}})
    failed = meddiff(f"http://{USER}:{PASSWORD}@127.0.0.1:{free_port()}", "plan", "-v", bad)
    assert failed.returncode != 0
    assert "all 1 were refused" in failed.stderr
    assert "records wait for MLflow" in failed.stderr
    assert PASSWORD not in "".join((done.stdout, done.stderr, failed.stdout, failed.stderr))
    assert (good / ".meddiff" / "prefect" / "prefect.db").exists()
    assert holding(good, bad, server.folder) == []
    relay.shutdown()
    relay.server_close()
