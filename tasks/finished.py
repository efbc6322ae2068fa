"""What a flow asks before anything that computes is imported: whether there is something to do at all.

Networks, MLflow and Dask take most of a minute to start on a small machine. A nightly run, a retry, or a command typed
twice, that find everything up to date shall not wait for them.
"""

from pathlib import Path
from typing import Any

from meddiff_core.stages.grow import grow_cohort
from meddiff_core.stages.lock import locked
from meddiff_core.stages.readiness import all_done
from meddiff_core.workspace import CHAIN, Workspace, artefacts_of
from tasks.progress import echo


def figures_if_finished(study: Path | str, stage: str) -> dict[str, Any] | None:
    """Figures of each artefact of a stage, or of all for `run`, and a line for each, if none is to be made.

    Raises:
        ConfigurationError: the study is wrong, or a stage before this one has to be run.
    """
    workspace = Workspace.open(study)
    workspace.require_for(stage)
    names = list(CHAIN) if stage == "run" else artefacts_of(stage)
    if not all_done(workspace, names):
        return None
    for name in names:
        echo(f"{name}: up to date")
    return {name: record.summary for name, record in workspace.records().items() if name in names}


def grow_study(study: str, volumes: int) -> None:
    """Make a finished study's cohort larger, if the night of this flow run was not made up for already."""
    from prefect.runtime import flow_run

    workspace = Workspace.open(study)
    with locked(workspace.folder, wait_for_turn):
        if grown := grow_cohort(workspace, volumes, due=flow_run.scheduled_start_time):
            echo(grown)


def wait_for_turn() -> None:
    """Say why nothing goes on: runs of one study follow each other, whichever deployment they are of."""
    echo("another run is at work on this study: waiting")


def run_stage(study: str, stage: str) -> dict[str, Any]:
    """Make what is missing of a stage; gives the figures of each of its artefacts."""
    if (figures := figures_if_finished(study, stage)) is not None:
        return figures
    from tasks.stage import make_stage

    return make_stage(study, stage)
