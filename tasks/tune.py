"""A trained denoiser to the solver that draws from it."""

from pathlib import Path
from typing import Any

from meddiff_core.artefacts import write_json
from meddiff_core.data.dataset import Dataset
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.sample_scoring import open_scorer
from meddiff_core.evidence.tuning import Tuning, describe_tuning, open_batches, tune_solver
from meddiff_core.generation.engine import open_guide
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import load_denoiser
from meddiff_core.models.latents import LatentSet
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.device import choose_device
from tasks.figures import draw_tuning
from tasks.progress import show
from tasks.tracking import log_file

TUNING = "tuning.json"


@task(retries=0)
def measure_solvers(folder: Path, samples: int, *, key: str) -> dict[str, Any]:
    """Draw with every solver, keep what was measured, and say which one to take."""
    workspace = Workspace.open(folder)
    study, device = workspace.study, choose_device(workspace.study.runtime.device)
    denoiser, scale, contract = load_denoiser(workspace.path("denoiser"), device)
    train, validation = (LatentSet.open(workspace.path("latents"), side) for side in ("train", "validation"))
    scorer = open_scorer(train, validation, scale, study.seed)
    if scorer is None:
        found = f"are {len(train)} and {len(validation)}"
        raise ConfigurationError(f"train and validation must have 2 volumes or more to compare samples with, {found}")
    conditions = encode_conditions(Dataset.open(folder).conditions("validation"), contract.conditions)
    shape = tuple(validation.mean.shape[1:])
    guide = open_guide(workspace.path("denoiser"), denoiser, study.sampling)
    batches = open_batches(denoiser, conditions, study.sampling, shape, samples, study.seed, device, guide)
    tuning = show(tune_solver(batches, scorer, study.sampling, study.seed))
    write_json(folder / TUNING, tuning)
    log_file(folder / TUNING)
    draw_tuning(folder, tuning)
    return tuning.chosen.model_dump(mode="json", include={"solver", "schedule", "evaluations"})


def describe_solvers(study: Path) -> str:
    """What was measured of the solvers, and the lines for study.yaml."""
    path = Workspace.open(study).folder / TUNING
    return describe_tuning(Tuning.model_validate_json(path.read_bytes()))
