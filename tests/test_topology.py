"""What compose.yaml, the Dockerfile and the manifests describe can be started, and `make cluster` has started it."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
FOREIGN = {"minio"}
"""Programs of images that are not ours."""
SERVICES: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
FILES = sorted((INFRA / "kubernetes").glob("*.yaml"))
MANIFESTS = [document for path in FILES for document in yaml.safe_load_all(path.read_text())]
PODS = [document["spec"]["template"]["spec"] for document in MANIFESTS if document["kind"] == "Deployment"]


def programs() -> Iterator[str]:
    """The first word of every command, and of the lines of every script."""
    for service in SERVICES.values():
        command = service.get("command", [])
        lines = command[2].splitlines() if command[:1] == ["sh"] else [" ".join(command)]
        yield from (line.split()[0] for line in lines if line)
    yield from (container["command"][0] for pod in PODS for container in pod["containers"])


def test_every_command_is_one_that_the_image_has() -> None:
    installed = {script.name for script in entry_points(group="console_scripts")}
    found = set(programs())
    assert {"dask", "prefect", "mlflow"} <= found
    assert found - installed - FOREIGN == set()


def test_every_image_is_pinned() -> None:
    images = [service["image"] for service in SERVICES.values()]
    images += [container["image"] for pod in PODS for container in pod["containers"]]
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    images += [image for image, _ in stages if image not in {name for _, name in stages}]
    assert {name for _, name in stages} == {"base", "cpu", "cuda"}
    assert [
        image for image in images if not re.fullmatch(r"[a-z/]+:(\d+(\.\d+)+(-\w+)*|RELEASE\.[\dTZ-]+)", image)
    ] == []


def test_nothing_runs_as_root() -> None:
    text = (INFRA / "Dockerfile").read_text()
    assert all(part.count("USER 1000\n") == 1 for part in text.split("FROM base AS ")[1:])
    assert not any("user" in service for service in SERVICES.values())
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in PODS)


def test_leases_outlive_a_restart_of_the_server() -> None:
    server = SERVICES["prefect"]
    assert server["environment"]["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("lease_storage.filesystem")
    assert f"prefect:{server['environment']['PREFECT_HOME']}" in server["volumes"]


def test_pods_of_dask_speak_tls_alone() -> None:
    (settings,) = [document["data"] for document in MANIFESTS if document["kind"] == "ConfigMap"]
    assert settings["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    assert "tcp://" not in (INFRA / "kubernetes" / "dask.yaml").read_text()
    assert {source["configMapRef"]["name"] for pod in PODS for source in pod["containers"][0]["envFrom"]} == {
        "dask-tls"
    }


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.server
@pytest.mark.timeout(900)
def test_make_cluster_serves_what_it_says_and_leaves_nothing_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The parent is a shell, as below `make`."""
    folder = tmp_path / "cluster"
    folder.parent.chmod(0o755)
    command = f"{sys.executable} {INFRA / 'cluster.py'} {folder} --workers 1; true"
    variables = os.environ | {"PYTHONPATH": str(ROOT), "MEDDIFF_TEST": str(tmp_path)}
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True, env=variables) as shell:
        try:
            assert shell.stdout is not None
            said = "".join(iter(shell.stdout.readline, "Ctrl-C ends all of it and keeps the databases.\n"))
            api, tracking = re.findall(r"(?:PREFECT_API_URL|MLFLOW_TRACKING_URI)=(\S+)", said)
            for address in (f"{api}/health", f"{tracking}/health"):
                with urllib.request.urlopen(address, timeout=30) as answer:
                    assert answer.status == 200
            (scheduler,) = re.findall(r'dask: "(tcp://\S+)"', said)
            assert squares(scheduler) == [0, 1, 4]
            assert len(processes(tmp_path)) >= 6
        finally:
            shell.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 120
    while (left := processes(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    assert not (folder / "cluster.lock").exists()
    assert not (folder / "postgres" / "postmaster.pid").exists()


def squares(scheduler: str) -> list[int]:
    """Computed by the workers, through a study's mapper."""
    from meddiff_core.study import RuntimeConfig
    from tasks.cluster import open_mapper

    with open_mapper(RuntimeConfig(dask=scheduler, device="cpu"), ROOT) as mapper:
        return [found for _, found in sorted(mapper(int, ["0", "1", "4"]))]


def processes(folder: Path) -> list[str]:
    """Command lines of what runs with the environment of a test."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MEDDIFF_TEST={folder}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or it is not ours
            continue
    return found
