"""A trained denoiser to the solver that samples from it."""

from pathlib import Path

from meddiff_core.artefacts import digest_file, write_json
from meddiff_core.data.dataset import Dataset
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.sample_scoring import open_scorer
from meddiff_core.evidence.tuning import Tuning, describe_tuning, open_batches, tune_solver
from meddiff_core.generation.engine import open_guide
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import load_denoiser
from meddiff_core.models.latents import LatentSet
from meddiff_core.stages.figures import plot_tuning
from meddiff_core.stages.making import Made, Resources
from meddiff_core.types import Work
from meddiff_core.workspace import Workspace

TUNING = "tuning.json"


def measure_solvers(workspace: Workspace, resources: Resources, samples: int) -> Work[Made]:
    """Sample with every solver, keep what was measured, and say which one to take."""
    study, device, path = workspace.study, resources.device, workspace.folder / TUNING
    sampling = workspace.sampling
    if sampling.guidance is None:  # it is chosen when volumes are sampled first
        sampling = sampling.model_copy(update={"guidance": 1.0})
    denoiser, scale, contract = load_denoiser(workspace.path("denoiser"), device)
    train, validation = (LatentSet.open(workspace.path("latents"), side) for side in ("train", "validation"))
    scorer = open_scorer(train, validation, scale, study.seed)
    if scorer is None:
        found = f"are {len(train)} and {len(validation)}"
        raise ConfigurationError(f"train and validation must have 2 volumes or more to compare samples with, {found}")
    conditions = encode_conditions(Dataset.open(workspace.folder).conditions("validation"), contract.conditions)
    shape = tuple(validation.mean.shape[1:])
    guide = open_guide(workspace.path("denoiser"), denoiser, sampling)
    batches = open_batches(denoiser, conditions, sampling, shape, samples, study.seed, device, guide)
    tuning = yield from tune_solver(batches, scorer, sampling, study.seed)
    write_json(path, tuning)
    chosen = tuning.chosen.model_dump(mode="json", include={"solver", "schedule", "evaluations"})
    return Made(digest_file(path), chosen, (path, *plot_tuning(workspace, tuning)))


def describe_solvers(study: Path) -> str:
    """What was measured of the solvers, and the lines for study.yaml."""
    path = Workspace.open(study).folder / TUNING
    return describe_tuning(Tuning.model_validate_json(path.read_bytes()))
