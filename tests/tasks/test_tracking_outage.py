"""MLflow gone, stumbling, hanging or killed: work goes on at its pace, and the records arrive later, in order, once."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracking_servers import MlflowServer, Relay, free_port, mlflow_server

from meddiff_core.artefacts import digest_of, digest_tree
from meddiff_core.types import Progress, Work
from tasks import tracking
from tasks.progress import Console, show, speaking
from tasks.tracking import runs, sender
from tasks.tracking.outbox import Outbox
from tasks.tracking.store import CHAMPION, RUN_TAG

pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.timeout(900)]
STUDY_DIGEST, DATASET_DIGEST = "5" * 64, "d" * 64
PASSWORD = "cAnAry-Pa55"
STEPS = 40
SHORT_S = 2.0
"""What waits for a server that does not answer takes longer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def relay(server: MlflowServer) -> Iterator[Relay]:
    relay = Relay()
    relay.target = server.url
    yield relay
    relay.mode = "500"  # lets go of what hangs
    relay.shutdown()
    relay.server_close()


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study, with a model."""
    (tmp_path / "models" / "denoiser").mkdir(parents=True)
    (tmp_path / "models" / "denoiser" / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "plan.json").write_text("{}")
    return tmp_path


def train(met: Callable[[], bool]) -> Work[float]:
    """Reports every step, as a training does, and lasts until it has `met` a trouble; gives a report's longest time."""
    slowest, deadline = 0.0, time.monotonic() + 300
    for step in range(STEPS):
        began = time.monotonic()
        yield Progress("train", step, STEPS, {"loss": 1 / (step + 1)})
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.06)
        while step == STEPS // 2 and not met():
            assert time.monotonic() < deadline, "no trouble was met"
            time.sleep(0.1)
    return slowest


def run_study(folder: Path, met: Callable[[], bool] = lambda: True) -> tuple[str, float]:
    """A study whose stage trains; our id of its run, and the longest time that a report took."""
    with (
        speaking(Console(metrics_every_s=0.05)),
        tracking.study_run(folder, "brains", STUDY_DIGEST),
        tracking.stage_run("train", STUDY_DIGEST) as run,
    ):
        tracking.log_parameters({"steps": STEPS})
        slowest = show(train(met), on_metrics=tracking.log_progress)
        digest = digest_of(digest_tree(folder / "models" / "denoiser"))
        tracking.log_file(folder / "plan.json")
        tracking.log_model(folder / "models" / "denoiser", "denoiser", digest)
        tracking.log_artefact("denoiser", digest, {"dataset": DATASET_DIGEST})
        tracking.log_champions({"denoiser": digest})
    assert run is not None
    return run.id, slowest


def assert_arrived(url: str, folder: Path, run: str) -> None:
    """All of a study, once and in order."""
    from mlflow import MlflowClient

    outbox = Outbox(folder)
    assert outbox.waiting() == [], outbox.said_trouble()
    assert outbox.count_refused() == 0, [path.read_text() for path in outbox.refused.glob("*.txt")]
    client = MlflowClient(tracking_uri=url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{run}'")
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(STEPS)]
    assert [point.timestamp for point in history] == sorted(point.timestamp for point in history)
    assert found.info.status == "FINISHED"
    assert client.get_run(found.data.tags["mlflow.parentRunId"]).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["plan.json"]
    models = client.search_logged_models([found.info.experiment_id])
    assert len([model for model in models if model.source_run_id == found.info.run_id]) == 1
    digest = found.data.tags["artefact.denoiser"]
    assert client.get_model_version_by_alias("brains.denoiser", CHAMPION).tags["digest"] == digest
    assert len(client.search_model_versions("name = 'brains.denoiser'")) == 1


def test_a_server_that_is_not_there_delays_nothing_and_gets_everything_later(
    study: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:{PASSWORD}@127.0.0.1:{port}")
    run, slowest = run_study(study, lambda: bool(Outbox(study).said_trouble()))
    assert slowest < SHORT_S
    said = capsys.readouterr().err
    waiting = len(Outbox(study).waiting())
    assert f"tracking: {waiting} records wait for MLflow" in said
    assert f"`meddiff track {study}` sends them" in said
    assert PASSWORD not in said + holding(study)
    relay = Relay(port)
    relay.target, relay.mode, relay.user = server.url, "forward", f"anna:{PASSWORD}"
    assert sender.send_what_waits(study) == f"tracking: {waiting} records were sent"
    assert_arrived(server.url, study, run)
    relay.shutdown()
    relay.server_close()


def holding(folder: Path) -> str:
    """All that the files of a study say."""
    return "".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("trouble", ["500", "hang", "lose"])
def test_a_server_that_stumbles_in_mid_training_is_waited_for_by_nobody(
    study: Path, relay: Relay, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", relay.url())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    relay.mode = trouble
    run, slowest = run_study(study, lambda: relay.counts.get(trouble, 0) > 0)
    assert slowest < SHORT_S
    assert Outbox(study).waiting()
    relay.mode = "forward"
    sender.send_what_waits(study)
    assert_arrived(server.url, study, run)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_is_killed_or_stopped_in_mid_training_misses_nothing(
    study: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    with mlflow_server(tmp_path_factory.mktemp("killed")) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        with speaking(Console(quiet=True)), tracking.study_run(study, "brains", STUDY_DIGEST):
            wait_until_sent(study)  # in the middle of a study that it knows
            server.kill() if how == signal.SIGKILL else server.send_signal(how)
            run, slowest = run_study(study, lambda: bool(Outbox(study).said_trouble()))
            assert slowest < SHORT_S
            assert Outbox(study).waiting()
            if how == signal.SIGKILL:
                server.start()
            else:
                server.send_signal(signal.SIGCONT)
            wait_until_sent(study)
        assert_arrived(server.url, study, run)


def wait_until_sent(study: Path) -> None:
    deadline = time.monotonic() + 180
    while waiting := len(Outbox(study).waiting()):
        assert time.monotonic() < deadline, f"{waiting} records wait: {Outbox(study).said_trouble()}"
        time.sleep(0.2)


def test_a_sender_ends_with_its_command_also_where_the_server_hangs(
    study: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", relay.url())
    relay.mode = "hang"
    outbox = Outbox(study)
    with tracking.study_run(study, "brains", STUDY_DIGEST) as run:
        outbox = run.outbox
        while "hang" not in relay.counts:
            time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 3 * sender.Patience().silent_s
    assert len(outbox.waiting()) == 2


def test_prefects_run_and_mlflows_lead_to_each_other(
    prefect_api: None, study: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prefect
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setattr(runs, "sending", lambda outbox: sender.sending(outbox, sender.ENDLESS))
    state = prefect.flow(lambda: run_study(study)[0], name="tracked")(return_state=True)
    client = MlflowClient(tracking_uri=server.url)
    experiment = client.get_experiment_by_name("brains")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{RUN_TAG}` = '{state.result()}'")
    assert run.data.tags["prefect.flow_run"] == str(state.state_details.flow_run_id)
    with get_client(sync_client=True) as api:
        artifacts = api.read_artifacts()
    (data,) = {
        artifact.data
        for artifact in artifacts
        if artifact.key == "mlflow-run" and run.info.run_id in str(artifact.data)
        and artifact.flow_run_id == state.state_details.flow_run_id
    }  # fmt: skip
    assert data == f"[run in MLflow]({server.url}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id})"


def test_a_locked_database_of_the_study_stops_nothing(study: Path) -> None:
    import sqlite3

    run_study(study)
    with sqlite3.connect(study / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        _, slowest = run_study_briefly(study)
        assert slowest < SHORT_S
        assert Outbox(study).waiting()
        other.execute("ROLLBACK")
    other.close()
    sender.send_what_waits(study)
    assert Outbox(study).waiting() == []


def run_study_briefly(study: Path) -> Any:
    """Without the minute that the end of a command gives the study's own database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "sending", lambda outbox: sender.sending(outbox, sender.Patience(silent_s=3.0)))
        return run_study(study)
