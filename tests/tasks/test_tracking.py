"""What is logged arrives once and in order, whenever MLflow listens, and says nothing that it must not."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from meddiff_core.artefacts import digest_of, digest_tree
from meddiff_core.study import DataConfig, Study
from meddiff_core.types import Progress
from tasks import tracking
from tasks.tracking import runs
from tasks.tracking.machine import Machine
from tasks.tracking.outbox import Outbox
from tasks.tracking.runs import Run
from tasks.tracking.sender import Sender
from tasks.tracking.store import CHAMPION, RUN_TAG, Store

STUDY_DIGEST = "5" * 64
DATASET_DIGEST = "d" * 64
MODEL_DIGEST = "a" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study folder for all: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    (folder / ".meddiff").mkdir()
    return Store(folder, None)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process sends, but `deliver`."""
    monkeypatch.setattr(runs, "sending", lambda outbox: nullcontext())
    monkeypatch.setattr(Machine, "measure", lambda self: {})


def deliver(store: Store) -> Sender:
    """Send all that waits, as far as it goes."""
    sender = Sender(Outbox(store.folder), None)
    sender._store = store
    sender.send_waiting()
    return sender


def read_all(store: Store, run: Run) -> list[Any]:
    """MLflow's runs of one of ours."""
    of_run = f"tags.`{RUN_TAG}` = '{run.id}'"
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return list(store.client.search_runs(experiments, of_run, run_view_type=ViewType.ALL))


def read(store: Store, run: Run | None) -> Any:
    assert run is not None
    assert Outbox(store.folder).waiting() == []
    (found,) = read_all(store, run)
    return found


def write_model(folder: Path, name: str) -> str:
    """A checkpoint, and its digest."""
    (folder / "models" / name).mkdir(parents=True, exist_ok=True)
    (folder / "models" / name / "weights.safetensors").write_text(name)
    return digest_of(digest_tree(folder / "models" / name))


def test_with_no_run_open_nothing_is_logged(tmp_path: Path) -> None:
    with tracking.stage_run("train", STUDY_DIGEST) as run:
        tracking.log_parameters({"steps": 3})
        tracking.log_progress([Progress("train", 1, 2, {"loss": 1.0})])
        tracking.log_measurements({"recall": 0.5})
        tracking.log_artefact("dataset", DATASET_DIGEST, {})
        tracking.log_file(tmp_path / "absent.json")
        tracking.log_model(tmp_path, "autoencoder", MODEL_DIGEST)
        tracking.log_champions({"autoencoder": MODEL_DIGEST})
    assert run is None
    assert list(tmp_path.iterdir()) == []


def test_a_stage_is_a_child_of_its_study(store: Store) -> None:
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as parent:
        with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as same:
            assert same is parent
        with tracking.stage_run("train", MODEL_DIGEST) as child:
            pass
    deliver(store)
    assert read(store, child).data.tags["mlflow.parentRunId"] == read(store, parent).info.run_id
    assert read(store, parent).info.status == read(store, child).info.status == "FINISHED"
    assert read(store, child).info.start_time >= read(store, parent).info.start_time


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_tells_how_it_ended(store: Store, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        raise error
    deliver(store)
    assert read(store, run).info.status == status


def test_what_a_killed_process_left_open_is_closed_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Outbox, "put", _but_for_closed(Outbox.put))
        with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as lost:
            tracking.log_measurements({"recall": 0.5})
    deliver(store)
    assert read(store, lost).info.status == "RUNNING"
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        deliver(store)
        assert read(store, lost).info.status == "KILLED"
        assert read(store, run).info.status == "RUNNING"
    deliver(store)
    assert read(store, lost).info.end_time >= read(store, lost).info.start_time
    assert list(Outbox(store.folder).open.iterdir()) == []


def _but_for_closed(put: Callable[..., None]) -> Callable[..., None]:
    return lambda outbox, record: None if record.kind == "closed" else put(outbox, record)


def test_settings_are_flat_and_long_ones_are_cut(store: Store) -> None:
    study = Study(
        name="brains", data=DataConfig(images="scans", label_groups={"grey matter (all)": list(range(1, 400))})
    )
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        tracking.log_parameters(study)
    deliver(store)
    parameters = read(store, run).data.params
    assert parameters["train.denoiser.learning_rate"] == "0.0005"
    assert "... sha256 " in parameters["data.label_groups.grey matter _all_"]


def test_metrics_keep_their_steps_and_survive_more_than_a_batch(store: Store) -> None:
    records = [Progress("train", step, 150, {"loss": 1 / step}) for step in range(1, 151)]
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        tracking.log_progress(records)
        tracking.log_measurements({"recall@5": 0.5, "ratio": float("nan"), "far": float("inf")})
    deliver(store)
    found = read(store, run)
    history = store.client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 151)]
    assert found.data.metrics["recall_5"] == 0.5
    assert found.data.metrics["ratio"] != found.data.metrics["ratio"]


def test_runs_are_found_by_what_they_made_and_by_what_they_read(store: Store) -> None:
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST):
        with tracking.stage_run("prepare", STUDY_DIGEST) as prepare:
            tracking.log_artefact("dataset", DATASET_DIGEST, {})
        with tracking.stage_run("train", STUDY_DIGEST) as train:
            tracking.log_artefact("denoiser", MODEL_DIGEST, {"dataset": DATASET_DIGEST})
    deliver(store)
    trained = read(store, train)

    def found(digest: str) -> set[str]:
        by_digest = f"dataset.digest = '{digest[:32]}'"
        return {run.info.run_id for run in store.client.search_runs([trained.info.experiment_id], by_digest)}

    assert found(DATASET_DIGEST) == {read(store, prepare).info.run_id, trained.info.run_id}
    assert found(MODEL_DIGEST) == {trained.info.run_id}
    assert trained.data.tags["artefact.denoiser"] == MODEL_DIGEST


def test_files_and_models_lie_in_the_study_and_nowhere_else(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow has its own store, if it is not told each time
    digest = write_model(store.folder, "denoiser")
    (tmp_path / "plan.json").write_text("{}")
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST):
        tracking.log_file(tmp_path / "plan.json", "decisions")
        tracking.log_model(store.folder / "models" / "denoiser", "denoiser", digest)
        tracking.log_champions({"denoiser": digest})
    (tmp_path / "plan.json").write_text("another one by now")
    deliver(store)
    files = {path.name: path for path in (store.folder / "mlruns").rglob("*") if path.is_file()}
    assert files.keys() >= {"plan.json", "weights.safetensors"}
    assert files["plan.json"].read_text() == "{}"
    champion = store.client.get_model_version_by_alias("brains.denoiser", CHAMPION)
    assert champion.tags["digest"] == digest
    assert not (tmp_path / "mlflow.db").exists()


def test_a_model_that_was_replaced_before_it_was_sent_is_not_taken_for_the_one_that_was_made(store: Store) -> None:
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        tracking.log_model(store.folder / "models" / "autoencoder", "autoencoder", write_model(store.folder, "other"))
        write_model(store.folder, "autoencoder")
    deliver(store)
    assert read(store, run).info.status == "FINISHED"
    assert store.client.search_logged_models(["1"], filter_string="name = 'autoencoder'") == []
    (reason,) = reasons(store)
    assert "it was replaced meanwhile" in reason


def reasons(store: Store) -> list[str]:
    """Why records were refused, of which none are left."""
    refused = Outbox(store.folder).refused
    try:
        return [path.read_text() for path in sorted(refused.glob("*.txt"))]
    finally:
        shutil.rmtree(refused, ignore_errors=True)


class LosesAnswers:
    """Does what is asked, and the first time of each says that it failed: the answer was lost, or came too late."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.lost: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            answer = method(*arguments, **options)
            if name not in self.lost:
                self.lost.add(name)
                raise MlflowException(f"{name}: the server hangs")
            return answer

        return call


def test_what_was_done_before_its_answer_was_lost_is_not_done_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    digest = write_model(store.folder, "twice")
    with tracking.study_run(store.folder, "lossy", STUDY_DIGEST) as run:
        tracking.log_parameters({"steps": 3})
        tracking.log_progress([Progress("train", step, 3, {"loss": 0.5}) for step in range(3)])
        tracking.log_file(tmp_path / "plan.json")
        tracking.log_artefact("twice", digest, {"dataset": DATASET_DIGEST})
        tracking.log_model(store.folder / "models" / "twice", "twice", digest)
        tracking.log_champions({"twice": digest})
    client = LosesAnswers(store.client)
    monkeypatch.setattr(store, "client", client)
    while deliver(store).failures:
        assert len(client.lost) < 20
    monkeypatch.undo()
    making = {"create_experiment", "create_run", "create_logged_model", "create_registered_model"}
    assert client.lost >= making | {"log_batch", "log_inputs", "log_artifact", "create_model_version", "set_terminated"}
    found = read(store, run)
    assert found.info.status == "FINISHED"
    assert [point.step for point in store.client.get_metric_history(found.info.run_id, "loss")] == [0, 1, 2]
    assert len(found.inputs.dataset_inputs) == 2
    assert len(store.client.search_logged_models([found.info.experiment_id])) == 1
    assert len(store.client.search_model_versions("name = 'lossy.twice'")) == 1
    assert reasons(store) == []


def test_a_run_that_a_hanging_server_made_twice_is_one_in_the_end(store: Store) -> None:
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        deliver(store)
        kept = read(store, run)
        twin = store.client.create_run(kept.info.experiment_id, tags={RUN_TAG: run.id})
    deliver(store)
    states = {found.info.run_id: found.info.lifecycle_stage for found in read_all(store, run)}
    assert states == {kept.info.run_id: "active", twin.info.run_id: "deleted"}


def test_records_wait_in_their_order_and_survive_the_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        for step in range(12):
            tracking.log_progress([Progress("train", step, 12, {"loss": 0.5})])
    log_batch = store.client.log_batch

    def fails_at_3(run_id: str, metrics: Any) -> None:
        if metrics[0].step == 3 and 3 not in steps[3:4]:
            steps.append(3)
            raise ConnectionError(f"at step {metrics[0].step}")
        steps.append(metrics[0].step)
        log_batch(run_id, metrics=metrics)

    monkeypatch.setattr(store.client, "log_batch", fails_at_3)
    assert deliver(store).failures == 1
    outbox = Outbox(store.folder)
    assert len(outbox.waiting()) == 10  # nine steps and the end
    assert outbox.said_trouble() == "ConnectionError: at step 3"
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as later:
        pass
    assert deliver(store).failures == 0
    assert steps == [0, 1, 2, 3, *range(3, 12)]
    assert read(store, run).info.status == read(store, later).info.status == "FINISHED"
    assert outbox.said_trouble() == ""


def test_what_mlflow_never_takes_and_what_nobody_wrote_hold_nothing_up(store: Store) -> None:
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        tracking.log_parameters({"steps": 3})
        tracking.log_parameters({"steps": 4})
        (run.outbox.records / "000000000000-cut.json").write_bytes(b"")  # by a power failure
        (run.outbox.records / "notes.txt").write_text("somebody's")
    deliver(store)
    (run.outbox.records / "notes.txt").unlink()
    assert read(store, run).info.status == "FINISHED"
    cut, taken = reasons(store)
    assert "Invalid JSON" in cut
    assert "Changing param values is not allowed" in taken


def test_a_server_that_lost_its_database_is_told_anew(store: Store) -> None:
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        deliver(store)
        store._runs[run.id] = "0" * 32  # a run that it knows no longer
        tracking.log_measurements({"recall": 0.5})
    deliver(store)
    assert read(store, run).data.metrics == {"recall": 0.5}


def test_a_full_disk_costs_records_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with tracking.study_run(tmp_path, "brains", STUDY_DIGEST), tracking.stage_run("train", STUDY_DIGEST):
        for step in range(3):
            tracking.log_progress([Progress("train", step, 3, {"loss": 0.5})])
    assert capsys.readouterr().err.count("\n") == 1


def test_no_user_and_no_machine_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "dr-who")
    with tracking.study_run(store.folder, "brains", STUDY_DIGEST) as run:
        pass
    deliver(store)
    tags = read(store, run).data.tags
    assert {name for name in tags if name.startswith("mlflow.")} == {"mlflow.runName"}
    assert tags["version.torch"].startswith("2.")
    assert "dr-who" not in "\n".join(tags.values())


def test_the_machine_is_measured_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    machine = Machine()
    measured = machine.measure()
    assert 0 < measured["system/process_memory_gb"] < 1000
    assert machine.measure() == {}


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Path:
    """The study, copied to another place with its database."""
    folder = tmp_path / "what?now#50%20ü"
    (folder / ".meddiff").mkdir(parents=True)
    with sqlite3.connect(store.folder / "mlflow.db") as source, sqlite3.connect(folder / "mlflow.db") as target:
        source.backup(target)
    source.close()
    target.close()
    return folder


def test_a_study_that_was_moved_does_not_write_to_its_former_place(store: Store, copied: Path) -> None:
    with tracking.study_run(copied, "brains", STUDY_DIGEST) as run:
        (copied / ".meddiff" / "moved.json").write_text("{}")
        tracking.log_file(copied / ".meddiff" / "moved.json", "figures")
    moved = Store(copied, None)
    deliver(moved)
    assert list((copied / "mlruns").rglob("figures/moved.json"))
    assert not list((store.folder / "mlruns").rglob("figures/moved.json"))
    assert read(moved, run).info.status == "FINISHED"
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]
    assert sorted(path.name for path in copied.iterdir()) == [".meddiff", "mlflow.db", "mlruns"]
