"""The whole chain from Python: every artefact by its maker, in the order of `CHAIN`, with no engine at all.

Flows make the same artefacts by the same makers, each as a task; the record in the study's ledger is the same, so
that the one may go on where the other was stopped.
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from meddiff_core.artefacts import Record
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.plan import load_plan
from meddiff_core.stages import audit, generate, grain, guidance, prepare, release, screen, train
from meddiff_core.stages.lock import locked
from meddiff_core.stages.making import Made, Maker, Resources, choose_device
from meddiff_core.stages.readiness import version_taken
from meddiff_core.training import resume_points
from meddiff_core.types import Mapper, Message, Work, serial_map
from meddiff_core.workspace import CHAIN, Workspace

MAKERS: dict[str, Maker] = {
    name: maker
    for stage in (prepare, train, grain, guidance, generate, screen, audit, release)
    for name, maker in stage.MAKERS.items()
}
"""Maker of each artefact."""


@dataclass(frozen=True)
class Kept:
    """An artefact that needs no making, and why."""

    record: Record
    why: str


def kept(workspace: Workspace, name: str) -> Kept | None:
    """An artefact that stays as it is: it is up to date, or a plan that the user has edited.

    Raises:
        ConfigurationError: a plan was edited and what it was made from has changed, or it no longer fits.
    """
    state = workspace.state(name)
    if name == "plan" and state.record is not None and workspace.plan_is_edited():
        if state.condition != "done":
            raise ConfigurationError(
                "plan.json was edited, and the scans or the study changed since it was made; "
                "delete it to plan anew, then edit again"
            )
        load_plan(workspace.path("plan"))
        return Kept(state.record, "edited by hand, used as it is")
    if state.record is None or state.condition != "done" or CHAIN[name].always:
        return None
    return Kept(state.record, "up to date")


def make(workspace: Workspace, name: str, resources: Resources) -> Work[tuple[Record, Made]]:
    """Make an artefact and record it, whether or not it is up to date."""
    state, inputs, started = workspace.state(name), workspace.inputs(name), time.monotonic()
    if state.condition != "done":
        yield Message(f"{name}: {', '.join(state.reasons) or 'to be made'}")
    if not workspace.path(name).exists():
        workspace.ledger.forget(name)  # a part of it may lie there after a kill
    made = yield from MAKERS[name](workspace, resources)
    summary = made.summary | {"minutes": round((time.monotonic() - started) / 60, 2)}
    record = workspace.record(name, made.digest, inputs, summary)
    shutil.rmtree(resume_points(workspace.folder, name), ignore_errors=True)
    return record, made


def make_missing(workspace: Workspace, names: Iterable[str], resources: Resources) -> Work[dict[str, Record]]:
    """Make those of some artefacts that are not up to date, in their order; gives the records of all."""
    records = {}
    for name in names:
        if (found := kept(workspace, name)) is not None:
            yield Message(f"{name}: {found.why}")
            records[name] = found.record
        else:
            records[name], _ = yield from make(workspace, name, resources)
    return records


def run_study(study: Path | str, *, mapper: Mapper = serial_map, device: str | None = None) -> Work[dict[str, Record]]:
    """From scans to a release, or to what refuses it; run it again to continue where it stopped.

    `study` is a study.yaml or its folder. Cases and shards go through `mapper`; networks run on `device`, by default
    the one that the study names. Yields `Progress` and `Message`; returns the record of every artefact.

    Raises:
        MeddiffError: whatever the command would end with.
    """
    workspace = Workspace.open(study)
    resources = Resources(choose_device(device or workspace.study.runtime.device), mapper)
    with locked(workspace.folder):
        if warning := version_taken(workspace):
            yield Message(warning)
        return (yield from make_missing(workspace, CHAIN, resources))
