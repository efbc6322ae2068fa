"""What every stage has in common: one lock, one run in the lineage, and only what is missing gets made.

The ledger beside the data decides whether an artefact is made; Prefect's cache only saves a task that had
finished when the process died before the ledger was written.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from meddiff_core.artefacts import Record, digest_of, write_json
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.plan import load_plan
from meddiff_core.workspace import CHAIN, Workspace
from tasks.caching import refreshing
from tasks.cluster import open_mapper
from tasks.environment import STATE
from tasks.lock import lock_study
from tasks.progress import echo
from tasks.tracking import end_lost_runs, log_artefact, log_measurements, log_parameters, stage_run, study_run

StageTask = Callable[..., dict[str, Any]]


@contextmanager
def open_stage(study: str, stage: str) -> Iterator[Workspace]:
    """The study's folder, held against other processes, inside the stage's run in the lineage."""
    workspace = Workspace.open(study)
    digest = digest_of(workspace.study)
    with ExitStack() as stack:
        stack.enter_context(lock_study(workspace.folder))
        stack.enter_context(open_mapper(workspace.study.runtime, workspace.folder))
        stack.enter_context(study_run(workspace.folder, workspace.study.name, digest))
        end_lost_runs()
        stack.enter_context(stage_run(stage, digest))
        log_parameters(workspace.study)
        yield workspace


def make(workspace: Workspace, name: str, task: StageTask, scans: str | None = None, **arguments: Any) -> Record:
    """Run the task that makes an artefact, unless it is up to date, and record it.

    The task takes `folder` and `key`, and returns `digest` and a `summary` of small figures.
    """
    state = workspace.state(name, scans)
    if state.condition == "done" and state.record is not None:
        echo(f"{name}: up to date")
        return state.record
    echo(f"{name}: {', '.join(state.reasons) or 'to be made'}")
    inputs = workspace.inputs(name, scans)
    started = time.monotonic()
    with refreshing(not workspace.path(name).exists()):
        result = task(folder=workspace.folder, key=_attempt(workspace, name, inputs), **arguments)
    summary = result["summary"] | {"minutes": round((time.monotonic() - started) / 60, 2)}
    record = workspace.record(name, result["digest"], inputs, summary)
    log_artefact(name, record.digest, {parent: inputs[parent] for parent in CHAIN[name].parents})
    log_measurements({f"{name}/{key}": value for key, value in summary.items() if isinstance(value, int | float)})
    return record


def _attempt(workspace: Workspace, name: str, inputs: dict[str, str]) -> str:
    """Key of the attempt at an artefact: the same after a restart, a new one once anything was made or lost since.

    So a training goes on where it was, and a result from before is never taken for the present one.
    """
    note = workspace.folder / STATE / "attempts" / f"{name}.json"
    last = json.loads(note.read_text()) if note.exists() else {}
    lost = not workspace.path(name).exists() and workspace.ledger.read(name) is not None
    if lost or last.get("inputs") != digest_of(inputs):
        last = {"artefact": name, "inputs": digest_of(inputs), "since_ns": time.time_ns()}
        write_json(note, last)
    if lost:
        workspace.ledger.forget(name)
    return digest_of(last)


def make_plan(workspace: Workspace, task: StageTask) -> Record:
    """`make` for the plan, which a person may have edited: an edited plan is used, never overwritten."""
    path, record = workspace.path("plan"), workspace.ledger.read("plan")
    if record is None or not path.exists() or workspace.plan_digest() == record.digest:
        return make(workspace, "plan", task)
    if workspace.state("plan").condition != "done":
        raise ConfigurationError(
            "plan.json was edited, and the scans or the study changed since it was made; "
            "delete it to plan anew, then edit again"
        )
    load_plan(path)
    echo("plan: edited by hand, used as it is")
    return record
