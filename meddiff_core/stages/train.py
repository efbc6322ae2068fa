"""Data set to autoencoder, latents and denoiser."""

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.models.augmentation import random_augmentations
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.latents import encode_latents
from meddiff_core.models.plan import load_plan
from meddiff_core.stages.curves import record_curves
from meddiff_core.stages.figures import plot_checkpoint_selection, plot_reconstructions, plot_samples
from meddiff_core.stages.generate import design_of
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.stages.signer import find_signer
from meddiff_core.types import Work
from meddiff_core.workspace import Workspace


def train_autoencoder(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Fit the autoencoder on the train side."""
    digest, metrics = yield from _fit(workspace, resources, "autoencoder")
    return Made(digest, metrics, plot_reconstructions(workspace))


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
    digest, metrics = yield from _fit(workspace, resources, "denoiser")
    figures = plot_samples(workspace, resources.device, workspace.models_digest(denoiser=digest))
    return Made(digest, metrics, figures + plot_checkpoint_selection(workspace))


def _fit(workspace: Workspace, resources: Resources, name: str) -> Work[tuple[str, dict[str, float]]]:
    """Train and save a model; gives its digest and the metrics of its last validation.

    After a kill it continues from its resume points, which belong to this training by the digest of all its inputs.
    """
    design_of(workspace)  # what a later stage would refuse is refused before a night of training
    find_signer(workspace, resources)
    key = digest_of(workspace.inputs(name))
    training = resources.fit(workspace, name, key, resources.device)
    facts = yield from record_curves(workspace, name, key, training)
    metrics = {metric.removeprefix("validation/"): value for metric, value in facts["metrics"].items()}
    return digest_of(digest_checkpoint(workspace.path(name))), metrics


MAKERS: dict[str, Maker] = {
    "autoencoder": train_autoencoder,
    "latents": encode_dataset,
    "denoiser": train_denoiser,
}
