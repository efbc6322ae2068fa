"""Trained models to a table of what their tasks are worth."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from meddiff_core.stages.measure_tasks import measure_study
from tasks.stage import open_stage, work_on


@flow(name="tasks")
def measure_tasks(study: str, only: Sequence[str] = (), scans: int | None = None, samples: int = 4) -> dict[str, Any]:
    """Every task is measured beside its baselines on the holdout; the study itself stays as it is."""
    with open_stage(study, "tasks") as workspace:
        workspace.require("denoiser")
        return work_on(workspace, "tasks", lambda resources: measure_study(workspace, resources, only, scans, samples))
