"""Pictures that a training leaves in the study and in the lineage. Most show patients: internal only."""

from pathlib import Path

from meddiff_core.artefacts import digest_of, write_bytes
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.checkpoint_selection import read_selection
from meddiff_core.evidence.tuning import Tuning
from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.engine import open_engine
from meddiff_core.generation.schedule import request
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.images import unit_image
from meddiff_core.models.reconstruction import reconstructions
from meddiff_core.release import figures
from meddiff_core.workspace import Workspace
from tasks.device import choose_device
from tasks.tracking import log_file

SHOWN = 6


def draw_reconstructions(folder: Path) -> None:
    """Real validation volumes, what the autoencoder makes of them, and four times the difference."""
    volumes = Dataset.open(folder).volumes("validation")
    network, contract = load_autoencoder(Workspace.open(folder).path("autoencoder"))
    pairs = list(reconstructions(network, volumes, range(min(SHOWN, len(volumes))), contract))
    real, copies = ([unit_image(pair[side])[0].numpy() for pair in pairs] for side in (0, 1))
    _keep(folder, "reconstructions", figures.real_beside_reconstruction(real, copies, "png", contract.spacing_mm))


def draw_samples(folder: Path) -> None:
    """The first volumes of the cohort, as the denoiser that was just trained draws them."""
    workspace, dataset = Workspace.open(folder), Dataset.open(folder)
    study, device = workspace.study, choose_device(workspace.study.runtime.device)
    design = CohortDesign(study.cohort, dataset.contract.conditions, dataset.conditions("train"), folder)
    samples = [request(slot, 0, study.cohort.seed, design) for slot in range(SHOWN)]
    digest = digest_of([digest_checkpoint(workspace.path(name)) for name in ("autoencoder", "denoiser")])
    engine = open_engine(folder / "models", digest, study.sampling, device)
    images, labels = engine.sample(samples)
    units, spacing = [engine.contract.intensity.unit(image) for image in images], engine.contract.spacing_mm
    _keep(folder, "samples", figures.mosaic(units, columns=SHOWN, kind="png", spacing_mm=spacing))
    if labels is not None:
        _keep(
            folder, "sample-labels", figures.mosaic(units, list(labels), columns=SHOWN, kind="png", spacing_mm=spacing)
        )


def draw_choice(folder: Path) -> None:
    """How the weights of the denoiser that was just trained were chosen, if they were."""
    if record := read_selection(Workspace.open(folder).path("denoiser")):
        _keep(folder, "choice", figures.checkpoint_selection(record, "png"))


def draw_tuning(folder: Path, tuning: Tuning) -> None:
    """What each solver needs to draw as well as a fine walk."""
    _keep(folder, "solver", figures.tuning(tuning, "png"))


def _keep(folder: Path, name: str, picture: bytes) -> None:
    path = folder / "figures" / f"{name}.png"
    write_bytes(path, picture)
    log_file(path, "figures")
