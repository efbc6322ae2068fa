"""Data set to autoencoder, latents and denoiser."""

import shutil
from pathlib import Path
from typing import Any

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.latents import encode_latents, random_augmentations
from meddiff_core.models.plan import load_plan
from meddiff_core.training import fit_model, resume_points
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.device import choose_device
from tasks.figures import draw_choice, draw_reconstructions, draw_samples
from tasks.launch import choose_processes, fit_together
from tasks.progress import echo, show
from tasks.tracking import log_model, log_progress


@task(retries=0)
def train_autoencoder(folder: Path, *, key: str) -> dict[str, Any]:
    """Fit the autoencoder on the train side."""
    batch = load_plan(Workspace.open(folder).path("plan")).autoencoder_training.batch
    metrics = _fit(folder, "autoencoder", key, batch)
    draw_reconstructions(folder)
    return _finished(folder, "autoencoder", metrics)


@task()
def encode_dataset(folder: Path, *, key: str) -> dict[str, Any]:
    """Latents of the train and validation sides; the holdout stays sealed."""
    workspace, dataset = Workspace.open(folder), Dataset.open(folder)
    study, device = workspace.study, choose_device(workspace.study.runtime.device)
    network, contract = load_autoencoder(workspace.path("autoencoder"), device)
    sides = {side: dataset.volumes(side) for side in ("train", "validation")}
    augmentations = random_augmentations(
        len(sides["train"]), load_plan(workspace.path("plan")).augmentations, study.seed
    )
    digest = show(encode_latents(workspace.path("latents"), network, sides, contract, device, augmentations))
    return {"digest": digest, "summary": {side: len(volumes) for side, volumes in sides.items()}}


@task(retries=0)
def train_denoiser(folder: Path, *, key: str) -> dict[str, Any]:
    """Fit the denoiser on the latents of the train side."""
    batch = load_plan(Workspace.open(folder).path("plan")).denoiser_training.batch
    metrics = _fit(folder, "denoiser", key, batch)
    draw_samples(folder)
    draw_choice(folder)
    return _finished(folder, "denoiser", metrics)


def _fit(folder: Path, name: str, key: str, batch: int) -> dict[str, float]:
    """Train and save a model, in this process or in several; gives its last validation."""
    runtime = Workspace.open(folder).study.runtime
    device = choose_device(runtime.device)
    count = choose_processes(runtime, device, batch)
    if count == 1:
        work = fit_model(folder, name, key, device)
    else:
        echo(f"{name}: trained by {count} processes")
        work = fit_together(folder, name, key, device, count)
    metrics: dict[str, float] = show(work, on_metrics=log_progress)["metrics"]
    return metrics


def _finished(folder: Path, name: str, metrics: dict[str, float]) -> dict[str, Any]:
    """Digest, lineage and figures of a trained model; its resume points are of no use any more."""
    shutil.rmtree(resume_points(folder, name), ignore_errors=True)
    path = Workspace.open(folder).path(name)
    digest = digest_of(digest_checkpoint(path))
    log_model(path, name, digest)
    return {"digest": digest, "summary": {key.removeprefix("validation/"): value for key, value in metrics.items()}}
