"""Models to the settings that draw from them with the fewest evaluations."""

from typing import Any

from prefect import flow

from meddiff_core.artefacts import digest_of
from tasks.caching import refreshing
from tasks.stage import open_stage
from tasks.tune import measure_solvers


@flow(name="tune-solver")
def tune_solver(study: str, samples: int = 64) -> dict[str, Any]:
    """Every solver is measured on the trained denoiser; the study itself stays as it is."""
    with open_stage(study, "tune-solver") as workspace, refreshing():
        workspace.require("denoiser")
        return measure_solvers(workspace.folder, samples, key=digest_of([digest_of(workspace.study), samples]))
