"""What a stage logs. A run belongs to the block that opened it; what is logged goes to the innermost open run, and with
none open nowhere.

Only what the study declares and what the core measured is logged: no name of a subject, a file or a machine. MLflow's
fluent interface is not used, because it keeps process-wide state and tags runs with the user's name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel

from meddiff_core.artefacts import digest_of
from meddiff_core.types import Progress
from tasks.progress import echo
from tasks.tracking.links import Links, flow_run_id
from tasks.tracking.machine import Machine
from tasks.tracking.outbox import LARGEST, Outbox, now_ms
from tasks.tracking.provenance import code_tags
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
from tasks.tracking.sender import sending

_LONGEST_VALUE = 500
_LARGEST_FILE = LARGEST // 2
"""In a record its bytes are written as text, which is longer by a third."""


@dataclass(frozen=True)
class Run:
    """An open run."""

    id: str
    """Ours, which MLflow's run has as a tag."""
    experiment: str
    study_folder: Path
    outbox: Outbox
    links: Links
    machine: Machine

    def put(self, kind: type[Record], **content: Any) -> None:
        """Keep a record of this run until it is sent."""
        self.outbox.put(kind(run=self.id, experiment=self.experiment, **content))
        self.links.show(self.outbox.take_links())


_current: ContextVar[Run | None] = ContextVar("run", default=None)


@contextmanager
def study_run(study_folder: Path, name: str, digest: str) -> Iterator[Run]:
    """One run of a study, parent of its stages; inside an open one, that one. For a process that holds the study.

    Sent to MLFLOW_TRACKING_URI, or without it to mlflow.db and mlruns/ in the study's folder.
    """
    if (run := _current.get()) is not None:
        yield run
        return
    folder = study_folder.absolute()
    outbox, links = Outbox(folder), Links()
    with suppress(OSError):
        outbox.close_lost_runs()
    run = Run(uuid4().hex, name, folder, outbox, links, Machine())
    tags = {"study": name, "study.digest": digest, **code_tags()}
    try:
        with sending(outbox), _open(run, f"{name} {digest[:8]}", tags, parent=None):
            yield run
    finally:
        links.show(outbox.take_links())


@contextmanager
def stage_run(stage: str, digest: str) -> Iterator[Run | None]:
    """A run below the open one, for one stage. `digest` is that of everything the stage depends on."""
    parent = _current.get()
    if parent is None:
        yield None
        return
    run = Run(uuid4().hex, parent.experiment, parent.study_folder, parent.outbox, parent.links, parent.machine)
    with _open(run, stage, {"stage": stage, "stage.digest": digest}, parent.id):
        yield run


def log_parameters(config: BaseModel | Mapping[str, Any]) -> None:
    """Log settings, one parameter per leaf: `autoencoder.steps`. Call it once per run."""
    if run := _current.get():
        content = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
        run.put(Parameters, values={mlflow_name(key): _short(value) for key, value in _flat(content)})


def log_progress(records: Sequence[Progress]) -> None:
    """Log the metrics of a training or another long work, and now and then its machine's; `done` is the step."""
    if records and (run := _current.get()):
        points = [(name, value, record.done) for record in records for name, value in record.metrics.items()]
        _log_metrics(points + [(name, value, records[-1].done) for name, value in run.machine.measure().items()])


def log_measurements(values: Mapping[str, float]) -> None:
    """Log measurements that have no step."""
    _log_metrics([(name, value, 0) for name, value in values.items()])


def log_file(path: Path, folder: str | None = None) -> None:
    """Log a small file, such as a plan or a report."""
    if run := _current.get():
        try:
            if (size := path.stat().st_size) > _LARGEST_FILE:
                echo(f"tracking: {path.name} has {size} bytes, more than {_LARGEST_FILE}, and is not sent to MLflow")
                return
            content = path.read_bytes()
        except OSError as error:
            echo(f"tracking: {path.name} cannot be read and is not sent to MLflow: {error.strerror}")
            return
        run.put(File, path=f"{folder}/{path.name}" if folder else path.name, content=content)


def log_artefact(name: str, digest: str, parents: Mapping[str, str]) -> None:
    """Log that the open run made an artefact from others, by their digests, any of which finds the run."""
    if run := _current.get():
        run.put(MadeArtefact, name=name, digest=digest, parents=dict(parents))


def log_model(folder: Path, name: str, digest: str) -> None:
    """Log the files of a checkpoint in the study as a model, without a flavour."""
    if run := _current.get():
        relative = folder.absolute().relative_to(run.study_folder).as_posix()
        run.put(Model, name=name, digest=digest, folder=relative)


def log_champions(digests: Mapping[str, str]) -> None:
    """Log that the cohort of some models passed every gate: MLflow's registry calls them its champions."""
    if run := _current.get():
        run.put(Champions, digests=dict(digests))


@contextmanager
def _open(run: Run, name: str, tags: Mapping[str, str], parent: str | None) -> Iterator[None]:
    flow_run = flow_run_id()
    if flow_run is not None:
        tags = {**tags, "prefect.flow_run": flow_run}
        run.links.expect(run.id, flow_run)
    run.put(Opened, name=name, tags=dict(tags), parent=parent, time_ms=now_ms())
    token = _current.set(run)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _current.reset(token)
        run.put(Closed, status=status, time_ms=now_ms())


def _log_metrics(points: Sequence[tuple[str, float, int]]) -> None:
    if points and (run := _current.get()):
        named = [(mlflow_name(name), float(value), int(step)) for name, value, step in points]
        run.put(Metrics, points=named, time_ms=now_ms())


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 100]}... sha256 {digest_of(text)}"
