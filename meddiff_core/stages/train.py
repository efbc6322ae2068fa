"""Data set to autoencoder, latents and denoiser."""

from pathlib import Path

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.models.augmentation import random_augmentations
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.latents import encode_latents
from meddiff_core.models.plan import load_plan
from meddiff_core.stages.figures import draw_choice, draw_reconstructions, draw_samples
from meddiff_core.stages.generate import design_of
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.types import Work
from meddiff_core.workspace import Workspace


def train_autoencoder(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Fit the autoencoder on the train side."""
    metrics = yield from _fit(workspace, resources, "autoencoder")
    return _made(workspace, "autoencoder", metrics, draw_reconstructions(workspace))


def encode_dataset(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Latents of the train and validation sides; the holdout stays sealed."""
    dataset, device = Dataset.open(workspace.folder), resources.device
    network, contract = load_autoencoder(workspace.path("autoencoder"), device)
    sides = {side: dataset.volumes(side) for side in ("train", "validation")}
    plan, count = load_plan(workspace.path("plan")), len(sides["train"])
    augmentations = random_augmentations(count, plan.variants, plan.augmentations, workspace.study.seed)
    digest = yield from encode_latents(workspace.replaced("latents"), network, sides, contract, device, augmentations)
    return Made(digest, {side: len(volumes) for side, volumes in sides.items()})


def train_denoiser(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Fit the denoiser on the latents of the train side."""
    metrics = yield from _fit(workspace, resources, "denoiser")
    figures = draw_samples(workspace, resources.device) + draw_choice(workspace)
    return _made(workspace, "denoiser", metrics, figures)


def _fit(workspace: Workspace, resources: Resources, name: str) -> Work[dict[str, float]]:
    """Train and save a model; gives its last validation. Begun anew after a kill, it goes on from its resume points,
    which know by the digest of all inputs that they are of this training.
    """
    design_of(workspace)  # a cohort that cannot be asked for is refused before a night of training
    key = digest_of(workspace.inputs(name))
    metrics: dict[str, float] = (yield from resources.fit(workspace, name, key, resources.device))["metrics"]
    return metrics


def _made(workspace: Workspace, name: str, metrics: dict[str, float], figures: tuple[Path, ...]) -> Made:
    digest = digest_of(digest_checkpoint(workspace.path(name)))
    return Made(digest, {key.removeprefix("validation/"): value for key, value in metrics.items()}, figures)


MAKERS: dict[str, Maker] = {
    "autoencoder": train_autoencoder,
    "latents": encode_dataset,
    "denoiser": train_denoiser,
}
