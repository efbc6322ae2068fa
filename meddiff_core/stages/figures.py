"""Figures that a training leaves in the study. Most show patients: internal only."""

from pathlib import Path

from meddiff_core.artefacts import write_bytes
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.checkpoint_selection import read_selection
from meddiff_core.evidence.guidance_choice import GuidanceChoice
from meddiff_core.evidence.tuning import Tuning
from meddiff_core.generation.engine import open_engine
from meddiff_core.generation.schedule import request
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.images import unit_image
from meddiff_core.models.reconstruction import reconstructions
from meddiff_core.release import figures
from meddiff_core.stages.generate import design_of
from meddiff_core.workspace import Workspace

SHOWN = 6


def plot_reconstructions(workspace: Workspace) -> tuple[Path, ...]:
    """Real validation volumes, what the autoencoder makes of them, and four times the difference."""
    volumes = Dataset.open(workspace.folder).volumes("validation")
    network, contract = load_autoencoder(workspace.path("autoencoder"))
    pairs = list(reconstructions(network, volumes, range(min(SHOWN, len(volumes))), contract))
    real, copies = ([unit_image(pair[side])[0].numpy() for pair in pairs] for side in (0, 1))
    picture = figures.real_beside_reconstruction(real, copies, "png", contract.spacing_mm)
    return (_keep(workspace, "reconstructions", picture),)


def plot_samples(workspace: Workspace, device: str, models_digest: str) -> tuple[Path, ...]:
    """The first volumes of the cohort, sampled from the denoiser that was just trained."""
    study, design = workspace.study, design_of(workspace)
    samples = [request(slot, 0, study.cohort.seed, design) for slot in range(SHOWN)]
    weight = study.sampling.guidance
    plain = study.sampling.model_copy(
        update={"guidance": 1.0 if weight is None else weight, "best_of": 1, "grain": False}  # it is not fitted yet
    )
    engine = open_engine(workspace.folder / "models", models_digest, plain, device)
    images, labels = engine.sample(samples)
    units, spacing = [engine.contract.intensity.unit(image) for image in images], engine.contract.spacing_mm
    pictures = {"samples": figures.mosaic(units, columns=SHOWN, kind="png", spacing_mm=spacing)}
    if labels is not None:
        named = figures.mosaic(units, list(labels), columns=SHOWN, kind="png", spacing_mm=spacing)
        pictures["sample-labels"] = named
    return tuple(_keep(workspace, name, picture) for name, picture in pictures.items())


def plot_checkpoint_selection(workspace: Workspace) -> tuple[Path, ...]:
    """Curves by which the checkpoint of the denoiser was selected, if it was."""
    record = read_selection(workspace.path("denoiser"))
    return (_keep(workspace, "choice", figures.checkpoint_selection(record, "png")),) if record else ()


def plot_guidance(workspace: Workspace, choice: GuidanceChoice) -> tuple[Path, ...]:
    """Fidelity and distance of samples at each weight of the guidance, if they were measured."""
    return (_keep(workspace, "guidance", figures.guidance(choice, "png")),) if choice.measured else ()


def plot_tuning(workspace: Workspace, tuning: Tuning) -> tuple[Path, ...]:
    """Evaluations that each solver needs to sample as well as a very fine discretisation."""
    return (_keep(workspace, "solver", figures.tuning(tuning, "png")),)


def _keep(workspace: Workspace, name: str, picture: bytes) -> Path:
    path = workspace.folder / "figures" / f"{name}.png"
    write_bytes(path, picture)
    return path
