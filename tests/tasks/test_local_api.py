"""The local API lives as long as its command, and not a moment longer."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from meddiff_core.errors import MeddiffError
from tasks import local_api

START = """
import os, sys, time
from pathlib import Path
from tasks.environment import prepare_environment
from tasks.local_api import local_api
folder = Path(sys.argv[1])
prepare_environment(folder)
with local_api(folder) as ready:
    print(*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(), flush=True)
    if "flow" in sys.argv:
        import prefect
        ready()
        think = prefect.task(lambda: 42, name="think")
        print(prefect.flow(lambda: think(), name="answer")(), flush=True)
    time.sleep(60)
"""


def start(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    command = subprocess.Popen([sys.executable, "-c", START, folder, *arguments], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    return command, int(command.stdout.readline())


def ends(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.05)
    return False


def becomes_completed(database: Path, within_s: float) -> bool:
    """States of tasks are events: services that were turned off by mistake would lose them."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as connection:
            if connection.execute("select state_name from task_run").fetchall() == [("Completed",)]:
                return True
        time.sleep(0.2)
    return False


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")


@linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_survives_a_killed_command(tmp_path: Path, how: signal.Signals) -> None:
    command, server = start(tmp_path)
    with command:
        os.kill(server, 0)
        command.send_signal(how)
    assert ends(server, within_s=10)


@linux
@pytest.mark.server
def test_a_flow_runs_on_it_behind_a_proxy_and_nothing_survives_a_killed_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ("PREFECT_HOME", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(engine)
    for proxy in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody answers there: loopback must not be sent to it
    study = tmp_path / "what?now"
    study.mkdir()
    command, server = start(study, "flow")
    with command:
        assert command.stdout is not None
        assert command.stdout.readline() == "42\n"
        assert becomes_completed(study / ".meddiff" / "prefect" / "prefect.db", within_s=30)
        command.kill()
    assert ends(server, within_s=15)
    assert (study / ".meddiff" / "prefect" / "prefect.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["what?now"]


def test_a_given_server_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    with local_api.local_api(tmp_path) as ready:
        ready()
        assert os.environ["PREFECT_API_URL"] == "http://prefect:4200/api"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_fails_is_reported_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_api, "_has_api", lambda: False)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with (
        local_api.local_api(tmp_path) as ready,
        pytest.raises(MeddiffError, match=r"it ended with status 1: see .*server\.log"),
    ):
        ready()
    assert "PREFECT_API_URL" not in os.environ


@pytest.mark.server
def test_an_api_that_prefect_knows_already_is_used(prefect_api: None, tmp_path: Path) -> None:
    with local_api.local_api(tmp_path) as ready:
        ready()
    assert list(tmp_path.iterdir()) == []
