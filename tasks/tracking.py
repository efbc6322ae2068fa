"""MLflow: which run made which artefact from which others, with what settings, how well. The only import of it.

A run belongs to the block that opened it, and what is logged goes to the innermost open run; with none
open, nothing is logged. Only what the study declares and what the core measured is written: no name of a
subject, a file or a machine. MLflow's fluent interface is not used, because it keeps process-wide state and
tags runs with the user's name.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from meddiff_core.artefacts import STATE, digest_of
from meddiff_core.stages.release import installed_versions
from meddiff_core.types import Progress
from tasks.environment import sqlite_url

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

T = TypeVar("T")
DATABASE = "mlflow.db"
_DIGEST = 32
"""MLflow takes at most 36 characters as the digest of a data set; the full one is a tag."""
_LONGEST_VALUE = 500
_BATCH = 100
_PACKAGES = ("meddiff", "torch", "monai", "numpy", "zarr", "prefect", "mlflow", "dask")


@dataclass(frozen=True)
class Run:
    """An open run."""

    client: MlflowClient
    experiment_id: str
    run_id: str


_current: ContextVar[Run | None] = ContextVar("run", default=None)


@contextmanager
def study_run(study_folder: Path, name: str, digest: str) -> Iterator[Run]:
    """One run of a study, parent of its stages; inside an open one, that one.

    Written to MLFLOW_TRACKING_URI, or without it to mlflow.db and mlruns/ in the study's folder.
    """
    if (run := _current.get()) is not None:
        yield run
        return
    client, experiment_id = _open_store(study_folder.absolute(), name)
    tags = {"study": name, "study.digest": digest, **_versions(), **_commit()}
    with _open_run(client, experiment_id, f"{name} {digest[:8]}", tags) as run:
        yield run


@contextmanager
def stage_run(stage: str, digest: str) -> Iterator[Run | None]:
    """A run below the open one, for one stage. `digest` is that of everything the stage depends on."""
    parent = _current.get()
    if parent is None:
        yield None
        return
    tags = {"stage": stage, "stage.digest": digest, "mlflow.parentRunId": parent.run_id}
    with _open_run(parent.client, parent.experiment_id, stage, tags) as run:
        yield run


def end_lost_runs() -> None:
    """Close what killed processes of the study left open. For a process that holds the study against all others; of a
    server that others write to as well, nothing is known.
    """
    run = _current.get()
    if run is None or os.environ.get("MLFLOW_TRACKING_URI"):
        return
    for other in run.client.search_runs([run.experiment_id], filter_string="attributes.status = 'RUNNING'"):
        if other.info.run_id != run.run_id:
            run.client.set_terminated(other.info.run_id, "KILLED")


def log_parameters(config: BaseModel | Mapping[str, Any]) -> None:
    """Log settings, one parameter per leaf: `autoencoder.steps`. Call it once per run."""
    if run := _current.get():
        from mlflow.entities import Param

        content = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
        for batch in _batches([Param(_name(key), _short(value)) for key, value in _flat(content)]):
            run.client.log_batch(run.run_id, params=batch)


def log_progress(records: Sequence[Progress]) -> None:
    """Log the metrics of a training or another long work; `done` is the step."""
    _log_metrics([(name, value, record.done) for record in records for name, value in record.metrics.items()])


def log_measurements(values: Mapping[str, float]) -> None:
    """Log measurements that have no step."""
    _log_metrics([(name, value, 0) for name, value in values.items()])


def log_figure(figure: Figure, name: str) -> None:
    """Log a figure under a file name: `screen/rejections.png`."""
    if run := _current.get():
        run.client.log_figure(run.run_id, figure, name)


def log_file(path: Path, folder: str | None = None) -> None:
    """Log a small file, such as a plan or a report."""
    if run := _current.get():
        run.client.log_artifact(run.run_id, str(path), folder)


def log_artefact(name: str, digest: str, parents: Mapping[str, str]) -> None:
    """Log that the open run made an artefact from others, by their digests, any of which finds the run."""
    if run := _current.get():
        run.client.set_tag(run.run_id, f"artefact.{_name(name)}", digest)
        run.client.set_tag(run.run_id, f"parents.{_name(name)}", json.dumps(dict(parents), sort_keys=True))
        made, read = _dataset(name, digest, "made"), [_dataset(*parent, "read") for parent in sorted(parents.items())]
        run.client.log_inputs(run.run_id, datasets=[made, *read])


def log_model(folder: Path, name: str, digest: str) -> str | None:
    """Log the files of a checkpoint as a model, without a flavour; its id, or None with no run open."""
    run = _current.get()
    if run is None:
        return None
    model = run.client.create_logged_model(
        run.experiment_id, name=_name(name), source_run_id=run.run_id, tags={"digest": digest}
    )
    run.client.log_model_artifacts(model.model_id, str(folder))
    run.client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _open_store(folder: Path, name: str) -> tuple[MlflowClient, str]:
    """The client and the experiment. Under a lock: two processes that make the tables at once corrupt them."""
    from filelock import FileLock
    from mlflow import MlflowClient

    remote = os.environ.get("MLFLOW_TRACKING_URI")
    lock = folder / STATE / "locks" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not remote:
            _make_database(folder)
        client = MlflowClient(tracking_uri=remote or sqlite_url(folder / DATABASE))
        return client, _experiment(client, name, None if remote else (folder / "mlruns").as_uri())


def _make_database(folder: Path) -> None:
    """MLflow's tables, made aside: half of them, after a kill, could neither be used nor completed."""
    if (folder / DATABASE).exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    partial = folder / STATE / DATABASE
    for leftover in partial.parent.glob(f"{DATABASE}*"):
        leftover.unlink()
    SqlAlchemyStore(sqlite_url(partial), (folder / "mlruns").as_uri()).engine.dispose()
    partial.replace(folder / DATABASE)


def _experiment(client: MlflowClient, name: str, location: str | None) -> str:
    """MLflow remembers where an experiment's files are; one of a study that was moved is set aside."""
    found = client.get_experiment_by_name(name)
    if found is not None and location is not None and found.artifact_location != location:
        client.rename_experiment(found.experiment_id, f"{name} (before a move, {found.experiment_id})")
        found = None
    return str(found.experiment_id if found else client.create_experiment(name, artifact_location=location))


@contextmanager
def _open_run(client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str]) -> Iterator[Run]:
    run = Run(client, experiment_id, client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    token = _current.set(run)
    status = "KILLED"
    try:
        yield run
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _current.reset(token)
        client.set_terminated(run.run_id, status)


def _log_metrics(points: Sequence[tuple[str, float, int]]) -> None:
    if run := _current.get():
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        for batch in _batches([Metric(_name(name), float(value), now_ms, step) for name, value, step in points]):
            run.client.log_batch(run.run_id, metrics=batch)


def _dataset(name: str, digest: str, context: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"artefact": name, "sha256": digest})
    tags = [InputTag("mlflow.data.context", context)]
    return DatasetInput(Dataset(name, digest[:_DIGEST], source_type="meddiff", source=source), tags=tags)


def _batches(values: list[T]) -> Iterator[list[T]]:
    """Batches of as many values as MLflow takes."""
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(text: str) -> str:
    """Name that MLflow takes for a metric, a parameter or a tag."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 100]}... sha256 {digest_of(text)}"


@functools.cache
def _versions() -> dict[str, str]:
    return {f"version.{name}": version for name, version in installed_versions(_PACKAGES).items()}


@functools.cache
def _commit() -> dict[str, str]:
    """Commit of this code, and whether it was changed since; empty where it is not in a repository."""
    here = Path(__file__)
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return {
            "git.commit": _git(here.parent, "rev-parse", "HEAD"),
            "git.dirty": str(bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no"))).lower(),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
