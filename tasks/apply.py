"""Tasks of trained models on scans: the stage over Dask, shown as it goes on, as a Prefect task where a flow asks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meddiff_core.stages.apply import Applied, Regenerated, apply_task, regenerate_result
from meddiff_core.stages.making import choose_device
from meddiff_core.types import Work
from meddiff_core.workspace import Workspace
from tasks.cluster import open_mapper
from tasks.environment import prepare_environment
from tasks.progress import console_for, show, speaking

MOST_LISTED = 20
"""Rows that the command prints; the table has all."""


def apply_work(
    study: Path | str, task: str, scans: Sequence[str], output: str, options: Mapping[str, Any]
) -> Work[Applied]:
    """The stage, over the study's mapper."""
    workspace = Workspace.open(study)
    runtime = workspace.study.runtime
    with open_mapper(runtime, workspace.folder, gpu=choose_device(runtime.device) != "cpu") as mapper:
        return (yield from apply_task(study, task, scans, output, options, mapper=mapper))


def apply_here(
    study: Path,
    task: str,
    scans: Sequence[str],
    output: Path,
    options: Mapping[str, Any],
    *,
    verbose: bool,
    quiet: bool,
) -> str:
    """Do a task without an engine besides Dask, and say what was done."""
    prepare_environment(Workspace.open(study).folder, verbose=verbose)
    with speaking(console_for(quiet=quiet)):
        return describe_applied(show(apply_work(study, task, scans, str(output), options)))


def regenerate_here(folder: Path, study: Path | None, *, quiet: bool) -> tuple[Regenerated, ...]:
    """Make a result again, and compare."""
    with speaking(console_for(quiet=quiet)):
        return show(regenerate_result(folder, study))


def describe_applied(applied: Applied) -> str:
    """What was done, in a few lines."""
    refused = len(applied.rows) - applied.done
    counts = f"{applied.done} done" + (f" ({applied.kept} of them before)" if applied.kept else "")
    lines = [f"{row.case}: {row.notes}" for row in applied.rows if row.outcome == "done" and row.notes]
    return "\n".join(
        [
            *lines[:MOST_LISTED],
            f"scans    {counts}, {refused} refused",
            f"table    {applied.table}",
            f"results  {applied.output} (patient data)",
        ]
    )
