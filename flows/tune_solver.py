"""Models to the settings that sample from them with the fewest evaluations."""

from typing import Any

from prefect import flow

from meddiff_core.stages.tune import measure_solvers
from tasks.stage import open_stage, work_on


@flow(name="tune-solver")
def tune_solver(study: str, samples: int = 64) -> dict[str, Any]:
    """Every solver is measured on the trained denoiser; the study itself stays as it is."""
    with open_stage(study, "tune-solver") as workspace:
        workspace.require("denoiser")
        return work_on(workspace, "tune-solver", lambda resources: measure_solvers(workspace, resources, samples))
