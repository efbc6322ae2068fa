"""Says one record to MLflow, so that saying it again changes nothing; nothing else writes to it.

Parameters, tags, inputs, files and metrics with their time are logged once by MLflow itself. Runs, models and their
versions it makes anew each time, so they are looked up by a tag of ours first: an answer may be lost after the work.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.exceptions import MlflowException

from meddiff_core.artefacts import STATE, digest_of, digest_tree
from meddiff_core.errors import IntegrityError
from tasks.environment import sqlite_url
from tasks.tracking.records import (
    Champions,
    Closed,
    File,
    MadeArtefact,
    Metrics,
    Model,
    Opened,
    Parameters,
    Record,
    mlflow_name,
)

T = TypeVar("T")
DATABASE = "mlflow.db"
RUN_TAG, MODEL_TAG = "meddiff.run", "digest"
CHAMPION = "champion"
_DIGEST = 32
"""MLflow takes at most 36 characters as the digest of a data set; the full one is a tag."""
_BATCH = 100
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
"""Answers that will not be others the next time."""


class Store:
    """An MLflow server or database, for the records of one study."""

    def __init__(self, study_folder: Path, uri: str | None) -> None:
        """`uri` None: the study's own database."""
        self.folder = study_folder
        self.uri = uri
        if uri is None:
            _make_database(study_folder)
        self.client = MlflowClient(tracking_uri=uri or sqlite_url(study_folder / DATABASE))
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    def send(self, record: Record) -> None:
        """Say a record.

        Raises:
            MlflowException: with a code of `REFUSALS`, MLflow will never take it; else it may take it later.
        """
        try:
            self._send(record)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._experiments.clear()  # the server may have lost them, or be another one behind the same address
            self._runs.clear()
            self._send(record)

    def link(self, record: Record) -> str | None:
        """Where MLflow shows a run that it was told of."""
        if self.uri is None or not self.uri.startswith("http"):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self._experiment(record)}/runs/{self._run(record)}"

    def _send(self, record: Record) -> None:
        run_id = self._run(record)
        match record:
            case Closed():
                self.client.set_terminated(run_id, record.status, record.time_ms)
                self._delete_twins(record, run_id)
            case Parameters():
                for params in _batches([Param(name, value) for name, value in record.values.items()]):
                    self.client.log_batch(run_id, params=params)
            case Metrics():
                for points in _batches(
                    [Metric(name, value, record.time_ms, step) for name, value, step in record.points]
                ):
                    self.client.log_batch(run_id, metrics=points)
            case File():
                self._log_file(run_id, record)
            case MadeArtefact():
                self._log_artefact(run_id, record)
            case Model():
                self._log_model(run_id, record)
            case Champions():
                for name, digest in record.digests.items():
                    self._crown(record, name, digest)
            case Opened():
                pass

    def _experiment(self, record: Record) -> str:
        """MLflow remembers where an experiment's files are; one of a study that was moved is set aside."""
        name = record.experiment
        if name not in self._experiments:
            location = None if self.uri else (self.folder / "mlruns").as_uri()
            found = self.client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            if found is not None and location is not None and found.artifact_location != location:
                self.client.rename_experiment(found.experiment_id, f"{name} (before a move, {found.experiment_id})")
                found = None
            self._experiments[name] = str(
                found.experiment_id if found else self.client.create_experiment(name, artifact_location=location)
            )
        return self._experiments[name]

    def _run(self, record: Record) -> str:
        """MLflow's id of a run, which is made where it is not known: its first record may have been lost."""
        if record.run not in self._runs:
            found = self._twins(record)
            self._runs[record.run] = found[0] if found else self._create_run(record)
        return self._runs[record.run]

    def _create_run(self, record: Record) -> str:
        tags, name, started = {RUN_TAG: record.run}, record.run, None
        if isinstance(record, Opened):
            tags, name, started = tags | record.tags, record.name, record.time_ms
            if record.parent is not None:
                parent = self._run(record.model_copy(update={"run": record.parent, "parent": None}))
                tags["mlflow.parentRunId"] = parent
        made = self.client.create_run(self._experiment(record), start_time=started, tags=tags, run_name=name)
        return str(made.info.run_id)

    def _twins(self, record: Record) -> list[str]:
        """MLflow's runs of one of ours, the oldest first."""
        found = self.client.search_runs(
            [self._experiment(record)],
            filter_string=f"tags.`{RUN_TAG}` = '{record.run}'",
            run_view_type=ViewType.ALL,
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        )
        return [str(run.info.run_id) for run in found]

    def _delete_twins(self, record: Record, kept: str) -> None:
        """A server that hung may have made a run after it was asked whether it had."""
        for twin in self._twins(record):
            if twin != kept:
                self.client.delete_run(twin)

    def _log_file(self, run_id: str, record: File) -> None:
        folder, _, name = record.path.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_bytes(record.content)
            self.client.log_artifact(run_id, str(path), folder or None)

    def _log_artefact(self, run_id: str, record: MadeArtefact) -> None:
        name = mlflow_name(record.name)
        self.client.set_tag(run_id, f"artefact.{name}", record.digest)
        self.client.set_tag(run_id, f"parents.{name}", json.dumps(record.parents, sort_keys=True))
        made = _dataset(record.name, record.digest, "made")
        read = [_dataset(*parent, "read") for parent in sorted(record.parents.items())]
        self.client.log_inputs(run_id, datasets=[made, *read])

    def _log_model(self, run_id: str, record: Model) -> None:
        folder = self.folder / record.folder
        if digest_of(digest_tree(folder)) != record.digest:
            raise IntegrityError(f"{record.folder} must have the digest {record.digest}, it was replaced meanwhile")
        found = [model for model in self._models(record, record.digest) if model.source_run_id == run_id]
        model = found[0] if found else self.client.create_logged_model(
            self._experiment(record), mlflow_name(record.name), run_id, tags={MODEL_TAG: record.digest}
        )  # fmt: skip
        if str(model.status) != "READY":
            self.client.log_model_artifacts(model.model_id, str(folder))
            self.client.finalize_logged_model(model.model_id, "READY")

    def _models(self, record: Record, digest: str) -> list[Any]:
        condition = f"tags.`{MODEL_TAG}` = '{digest}'"
        return list(self.client.search_logged_models([self._experiment(record)], filter_string=condition))

    def _crown(self, record: Champions, model: str, digest: str) -> None:
        """Register a model that was logged, and give it the alias."""
        if not (found := self._models(record, digest)):
            raise IntegrityError(f"{model} must be logged to be a champion, none has the digest {digest}")
        name = f"{record.experiment}.{mlflow_name(model)}"
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = [v for v in self.client.search_model_versions(f"name = '{name}'") if v.tags.get(MODEL_TAG) == digest]
        version = versions[0] if versions else self._register(name, found[0], digest)
        self.client.set_registered_model_alias(name, CHAMPION, version.version)

    def _register(self, name: str, model: Any, digest: str) -> Any:
        """By the place of its files: MLflow looks for a `models:/` address in the store of the process instead."""
        place, run_id, tags = model.artifact_location, model.source_run_id, {MODEL_TAG: digest}
        return self.client.create_model_version(name, place, run_id, tags, model_id=model.model_id)


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


def _dataset(name: str, digest: str, context: str) -> DatasetInput:
    source = json.dumps({"artefact": name, "sha256": digest})
    tags = [InputTag("mlflow.data.context", context)]
    return DatasetInput(Dataset(name, digest[:_DIGEST], source_type="meddiff", source=source), tags=tags)


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Batches of as many values as MLflow takes."""
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
