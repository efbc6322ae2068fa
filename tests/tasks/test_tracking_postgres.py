"""MLflow and Prefect on Postgres: several writers at once, and pools that leave room below max_connections."""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from postgres_cluster import PASSWORD, Postgres, postgres_cluster
from tracking_servers import free_port, mlflow_server

from tasks.tracking.outbox import Outbox

pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.timeout(1200)]
WRITERS, STEPS = 6, 30
OF_MLFLOW_WORKER, OF_PREFECT_SERVER, OF_WRITER = 30, 30, 2
"""Most connections of each, as infra/README.md says."""

WRITE = """
import sys
from pathlib import Path
from meddiff_core.types import Progress
from tasks import tracking
from tasks.tracking import runs, sender

folder, experiment = Path(sys.argv[1]), sys.argv[2]
runs.sending = lambda outbox: sender.sending(outbox, sender.ENDLESS)
with tracking.study_run(folder, experiment, "5" * 64), tracking.stage_run("train", "d" * 64):
    tracking.log_parameters({"steps": 3})
    for step in range(int(sys.argv[3])):
        tracking.log_progress([Progress("train", step, 30, {"loss": 1 / (step + 1)})])
    tracking.log_artefact("denoiser", "a" * 64, {"dataset": "d" * 64})
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def tables(postgres: Postgres) -> str:
    """The one step that makes MLflow's tables, before any writer; the address of the database."""
    url = postgres.url("postgresql+psycopg2", "mlflow")
    upgraded = subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", url], capture_output=True, text=True)
    assert upgraded.returncode == 0, upgraded.stderr[-2000:]
    return url


@contextmanager
def counted(postgres: Postgres, database: str) -> Iterator[list[int]]:
    """The connections to a database, as often as can be counted while the block runs."""
    counts: list[int] = []
    done = threading.Event()

    def count() -> None:
        while not done.wait(0.1):
            counts.append(postgres.connections(database))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        done.set()
        thread.join()


def write_all(tmp_path: Path, uri: str) -> list[Path]:
    """Six processes at once, in two experiments; the folders of their studies."""
    folders = [tmp_path / f"writer-{number}" for number in range(WRITERS)]
    variables = os.environ | {"MLFLOW_TRACKING_URI": uri}
    writers = []
    for number, folder in enumerate(folders):
        folder.mkdir()
        command = [sys.executable, "-c", WRITE, folder, f"{tmp_path.name}-{number % 2}", str(STEPS)]
        writers.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
    said = "".join(writer.communicate()[1] for writer in writers)
    assert [writer.returncode for writer in writers] == [0] * WRITERS, said
    assert PASSWORD not in said
    return folders


def assert_arrived(postgres: Postgres, folders: list[Path], experiments: str) -> None:
    for folder in folders:
        outbox = Outbox(folder)
        assert outbox.waiting() == [], outbox.said_trouble()
        assert outbox.count_refused() == 0
        kept = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
        assert not any(PASSWORD in text for text in kept)
    of_these = f"FROM runs r JOIN experiments e USING (experiment_id) WHERE e.name LIKE '{experiments}%'"
    assert postgres.ask(f"SELECT count(DISTINCT e.name), count(*) {of_these}", "mlflow") == [(2, 2 * WRITERS)]
    assert postgres.ask(f"SELECT DISTINCT r.status {of_these}", "mlflow") == [("FINISHED",)]
    points = "SELECT count(*), count(DISTINCT (run_uuid, step)) FROM metrics WHERE key = 'loss' AND run_uuid IN"
    (counts,) = postgres.ask(f"{points} (SELECT run_uuid {of_these})", "mlflow")
    assert counts == (WRITERS * STEPS, WRITERS * STEPS)


def test_six_writers_at_once_write_through_one_server(postgres: Postgres, tables: str, tmp_path: Path) -> None:
    with (
        counted(postgres, "mlflow") as counts,
        mlflow_server(tmp_path, tables, workers=2) as server,
    ):
        folders = write_all(tmp_path, server.url)
    assert_arrived(postgres, folders, tmp_path.name)
    assert 0 < max(counts) <= 2 * OF_MLFLOW_WORKER


def test_six_writers_at_once_write_to_the_database_itself(postgres: Postgres, tables: str, tmp_path: Path) -> None:
    with counted(postgres, "mlflow") as counts:
        folders = write_all(tmp_path, tables)
    assert_arrived(postgres, folders, tmp_path.name)
    assert 0 < max(counts) <= WRITERS * OF_WRITER


FLOW = "import prefect; print(prefect.flow(lambda: sum(f.result() for f in [prefect.task(lambda: 7).submit() \
for _ in range(6)]), name='answer')())"


def test_prefect_runs_a_flow_on_postgres_within_its_connections(postgres: Postgres, tmp_path: Path) -> None:
    port = str(free_port())
    own = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url("postgresql+asyncpg", "prefect"),
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    log = tmp_path / "server.log"
    with counted(postgres, "prefect") as counts, log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | own)
        try:
            api = f"http://127.0.0.1:{port}/api"
            wait_until_healthy(api, process, log)
            variables = os.environ | {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path)}
            ran = subprocess.run([sys.executable, "-c", FLOW], env=variables, capture_output=True, text=True)
        finally:
            process.terminate()
            process.wait(timeout=60)
    assert ran.stdout.strip() == "42", ran.stderr
    assert 0 < max(counts) <= OF_PREFECT_SERVER
    assert PASSWORD not in log.read_text() + ran.stderr


def wait_until_healthy(api: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{api}/health", timeout=5):
            return
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.3)
