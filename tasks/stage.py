"""What every stage has in common: one lock, one run in the lineage, and only what is missing gets made.

What is made, and how, is the core's. Here each artefact becomes a task, and its record a node of the lineage.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from meddiff_core.artefacts import Record, digest_of
from meddiff_core.errors import GatesFailed
from meddiff_core.objects.storage import probe
from meddiff_core.stages.chain import kept
from meddiff_core.stages.chain import make as make_artefact
from meddiff_core.stages.lock import locked
from meddiff_core.stages.making import Made, Resources, choose_device, fit_here
from meddiff_core.study import shareable_settings
from meddiff_core.training import Facts
from meddiff_core.types import Mapper, Message, Work
from meddiff_core.workspace import CHAIN, Workspace, artefacts_of
from tasks.cluster import open_mapper
from tasks.events import emit
from tasks.finished import wait_for_turn
from tasks.launch import choose_processes, fit_together
from tasks.progress import echo
from tasks.redaction import without_names
from tasks.tracking import (
    log_artefact,
    log_champions,
    log_file,
    log_measurements,
    log_model,
    log_parameters,
    stage_run,
    study_run,
)
from tasks.work import RETRIES, run_as_task

MODELS = ("autoencoder", "denoiser")
SIGNING_KEY = "MEDDIFF_SIGNING_KEY"
TRIED_ONCE = (*MODELS, "release")
"""A training has its own ways to recover; a release is refused or it is there."""


def make_stage(study: str, stage: str) -> dict[str, Any]:
    """Make what is missing of a stage; gives the figures of each of its artefacts."""
    with open_stage(study, stage) as workspace:
        workspace.require_for(stage)
        return make_missing(workspace, artefacts_of(stage))


@contextmanager
def open_stage(study: str, stage: str) -> Iterator[Workspace]:
    """The study's folder, locked against other processes, inside the stage's run in the lineage.

    Where another run is at work on the study, this one waits: runs of one study follow each other, whichever
    deployment they are of.
    """
    workspace = Workspace.open(study)
    digest = digest_of(workspace.study)
    with ExitStack() as stack:
        stack.enter_context(locked(workspace.folder, wait_for_turn))
        if workspace.study.runtime.storage:
            probe(workspace.study.runtime.storage)
        stack.enter_context(open_mapper(workspace.study.runtime, workspace.folder))
        stack.enter_context(study_run(workspace.folder, workspace.study.name, digest))
        stack.enter_context(stage_run(stage, digest))
        log_parameters(shareable_settings(workspace.study))
        yield workspace


def make_missing(workspace: Workspace, names: Iterable[str]) -> dict[str, Any]:
    """Make those of some artefacts that are not up to date, in their order; gives the figures of each."""
    return {name: make(workspace, name).summary for name in names}


def make(workspace: Workspace, name: str) -> Record:
    """Make an artefact as a task, unless it is up to date, and write it into the lineage."""
    if (found := kept(workspace, name)) is not None:
        echo(f"{name}: {found.why}")
        return found.record
    gpu = CHAIN[name].stage != "prepare" and choose_device(workspace.study.runtime.device) != "cpu"
    with open_mapper(workspace.study.runtime, workspace.folder, gpu=gpu) as mapper:
        resources, around = resources_of(workspace, mapper), partial(without_names, workspace)
        retries = 0 if name in TRIED_ONCE else RETRIES
        try:
            record, made = run_as_task(
                name, lambda: make_artefact(workspace, name, resources), retries=retries, around=around
            )
        except GatesFailed as error:
            emit("gates.failed", study=workspace.study.name, text=str(error))
            raise
    if name == "release":
        emit("released", study=workspace.study.name, text=f"release {workspace.study.release.version} is written")
    _log(workspace, record, made)
    return record


def work_on(workspace: Workspace, name: str, work: Callable[[Resources], Work[Made]]) -> dict[str, Any]:
    """Do, as a task that is tried once, what stands beside the chain; gives its figures."""
    with open_mapper(workspace.study.runtime, workspace.folder) as mapper:
        resources = resources_of(workspace, mapper)
        made = run_as_task(name, lambda: work(resources), retries=0, around=partial(without_names, workspace))
    _log_files(made)
    return made.summary


def resources_of(workspace: Workspace, mapper: Mapper) -> Resources:
    """What this machine and the engines lend to the study."""
    device = choose_device(workspace.study.runtime.device)
    return Resources(device, mapper, fit=fit_in_processes, signing_key=os.environ.get(SIGNING_KEY))


def fit_in_processes(workspace: Workspace, name: str, key: str, device: str) -> Work[Facts]:
    """Train a model in this process, or in as many as the study and its batch want."""
    count = choose_processes(workspace, name, device)
    if count == 1:
        return (yield from fit_here(workspace, name, key, device))
    yield Message(f"{name}: trained by {count} processes")
    return (yield from fit_together(workspace.folder, name, key, device, count))


def _log(workspace: Workspace, record: Record, made: Made) -> None:
    name = record.name
    _log_files(made)
    if name in MODELS:
        log_model(workspace.path(name), name, record.digest)
    if name == "release":
        records = workspace.records()
        log_champions({model: records[model].digest for model in MODELS})
    log_artefact(name, record.digest, {parent: record.inputs[parent] for parent in CHAIN[name].parents})
    figures = {key: value for key, value in record.summary.items() if isinstance(value, int | float)}
    log_measurements({f"{name}/{key}": value for key, value in (figures | made.metrics).items()})


def _log_files(made: Made) -> None:
    for path in made.files:
        log_file(path, "figures" if path.parent.name == "figures" else None)
