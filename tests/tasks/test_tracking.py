"""What is logged is found again, by digest, and says nothing that it must not."""

import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from meddiff_core.study import DataConfig, Study
from meddiff_core.types import Progress
from tasks import tracking

STUDY_DIGEST = "5" * 64
DATASET_DIGEST = "d" * 64
MODEL_DIGEST = "a" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One study folder for all: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("study")


def read(run: tracking.Run) -> Any:
    return run.client.get_run(run.run_id)


def test_with_no_run_open_nothing_is_logged(tmp_path: Path) -> None:
    with tracking.stage_run("train", STUDY_DIGEST) as run:
        tracking.log_parameters({"steps": 3})
        tracking.log_progress([Progress("train", 1, 2, {"loss": 1.0})])
        tracking.log_measurements({"recall": 0.5})
        tracking.log_artefact("dataset", DATASET_DIGEST, {})
        tracking.log_file(tmp_path / "absent.json")
        assert tracking.log_model(tmp_path, "autoencoder", MODEL_DIGEST) is None
    assert run is None
    assert list(tmp_path.iterdir()) == []


def test_a_stage_is_a_child_of_its_study(folder: Path) -> None:
    with (
        tracking.study_run(folder, "brains", STUDY_DIGEST) as parent,
        tracking.stage_run("train", MODEL_DIGEST) as child,
    ):
        assert child is not None
    assert read(child).data.tags["mlflow.parentRunId"] == parent.run_id
    assert read(parent).info.status == read(child).info.status == "FINISHED"


def test_a_study_run_inside_another_is_the_same(folder: Path) -> None:
    with tracking.study_run(folder, "brains", STUDY_DIGEST) as outer:
        with tracking.study_run(folder, "brains", STUDY_DIGEST) as inner:
            assert inner is outer
        assert read(outer).info.status == "RUNNING"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_tells_how_it_ended(folder: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracking.study_run(folder, "brains", STUDY_DIGEST) as run:
        raise error
    assert read(run).info.status == status


def test_what_a_killed_process_left_open_is_closed_by_who_holds_the_study(folder: Path) -> None:
    with tracking.study_run(folder, "brains", STUDY_DIGEST) as run:
        lost = run.client.create_run(run.experiment_id)
        tracking.end_lost_runs()
        assert run.client.get_run(lost.info.run_id).info.status == "KILLED"
        assert read(run).info.status == "RUNNING"


def test_settings_are_flat_and_long_ones_are_cut(folder: Path) -> None:
    study = Study(
        name="brains", data=DataConfig(images="scans", label_groups={"grey matter (all)": list(range(1, 400))})
    )
    with tracking.study_run(folder, "brains", STUDY_DIGEST) as run:
        tracking.log_parameters(study)
    parameters = read(run).data.params
    assert parameters["train.denoiser.learning_rate"] == "0.0005"
    assert "... sha256 " in parameters["data.label_groups.grey matter _all_"]


def test_metrics_keep_their_steps_and_survive_more_than_a_batch(folder: Path) -> None:
    records = [Progress("train", step, 150, {"loss": 1 / step}) for step in range(1, 151)]
    with tracking.study_run(folder, "brains", STUDY_DIGEST) as run:
        tracking.log_progress(records)
        tracking.log_measurements({"recall@5": 0.5, "ratio": float("nan")})
    history = run.client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 151)]
    assert read(run).data.metrics["recall_5"] == 0.5


def test_runs_are_found_by_what_they_made_and_by_what_they_read(folder: Path) -> None:
    with tracking.study_run(folder, "brains", STUDY_DIGEST):
        with tracking.stage_run("prepare", STUDY_DIGEST) as prepare:
            tracking.log_artefact("dataset", DATASET_DIGEST, {})
        with tracking.stage_run("train", STUDY_DIGEST) as train:
            tracking.log_artefact("denoiser", MODEL_DIGEST, {"dataset": DATASET_DIGEST})
    assert prepare is not None
    assert train is not None

    def found(digest: str) -> set[str]:
        runs = train.client.search_runs([train.experiment_id], filter_string=f"dataset.digest = '{digest[:32]}'")
        return {run.info.run_id for run in runs}

    assert found(DATASET_DIGEST) == {prepare.run_id, train.run_id}
    assert found(MODEL_DIGEST) == {train.run_id}
    assert read(train).data.tags["artefact.denoiser"] == MODEL_DIGEST


def test_files_figures_and_models_lie_in_the_study(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "denoiser"
    checkpoint.mkdir()
    (checkpoint / "weights.safetensors").write_bytes(b"weights")
    (tmp_path / "plan.json").write_text("{}")
    with tracking.study_run(folder, "brains", STUDY_DIGEST) as run:
        tracking.log_file(tmp_path / "plan.json")
        tracking.log_figure(Figure(), "screen/rejections.png")
        model = tracking.log_model(checkpoint, "denoiser", MODEL_DIGEST)
    assert model is not None
    assert run.client.get_logged_model(model).tags["digest"] == MODEL_DIGEST
    names = {path.name for path in (folder / "mlruns").rglob("*") if path.is_file()}
    assert names >= {"plan.json", "rejections.png", "weights.safetensors"}


def test_no_user_and_no_machine_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "dr-who")
    with tracking.study_run(folder, "brains", STUDY_DIGEST) as run:
        pass
    tags = read(run).data.tags
    assert {name for name in tags if name.startswith("mlflow.")} == {"mlflow.runName"}
    assert tags["version.torch"].startswith("2.")
    assert "dr-who" not in "\n".join(tags.values())


def test_a_study_that_was_moved_does_not_write_to_its_former_place(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    with sqlite3.connect(folder / "mlflow.db") as source, sqlite3.connect(copied / "mlflow.db") as target:
        source.backup(target)
    source.close()
    target.close()
    with tracking.study_run(copied, "brains", STUDY_DIGEST) as run:
        tracking.log_figure(Figure(), "moved.png")
    assert list((copied / "mlruns").rglob("moved.png"))
    assert not list((folder / "mlruns").rglob("moved.png"))
    assert read(run).info.experiment_id == run.experiment_id


def open_and_close(folder: Path) -> None:
    with tracking.study_run(folder, "brains", STUDY_DIGEST):
        pass


@pytest.mark.slow
def test_processes_that_start_together_make_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_and_close, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("name", ["what?now", "a#b;c", "50%20ü"])
def test_a_study_of_any_name_keeps_its_lineage_to_itself(tmp_path: Path, name: str) -> None:
    study = tmp_path / name
    study.mkdir()
    with tracking.study_run(study, "brains", STUDY_DIGEST) as run:
        tracking.log_figure(Figure(), "screen/rejections.png")
        assert read(run).info.status == "RUNNING"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in study.iterdir()) == [".meddiff", "mlflow.db", "mlruns"]
    assert [path.name for path in (study / "mlruns").rglob("*.png")] == ["rejections.png"]
