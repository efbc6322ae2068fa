"""Data set to autoencoder, latents and denoiser."""

from pathlib import Path
from typing import Any

import torch

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.models.autoencoder import load_autoencoder, save_autoencoder
from meddiff_core.models.autoencoder_training import AutoencoderTraining
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import save_denoiser
from meddiff_core.models.latents import LatentSet, encode_latents
from meddiff_core.models.loop import forget_resume_point, run_training
from meddiff_core.models.plan import load_plan
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.device import choose_device
from tasks.environment import STATE
from tasks.figures import draw_reconstructions, draw_samples
from tasks.progress import show
from tasks.tracking import log_model, log_progress


@task(retries=0)
def train_autoencoder(folder: Path, *, key: str) -> dict[str, Any]:
    """Fit the autoencoder on the train side."""
    study, plan, dataset = Workspace.open(folder).study, load_plan(folder / "plan.json"), Dataset.open(folder)
    steps, resume = plan.autoencoder_training.steps, folder / STATE / "resume" / "autoencoder"
    training = AutoencoderTraining(
        plan.autoencoder,
        dataset.contract,
        study.train.autoencoder,
        dataset.volumes("train"),
        dataset.volumes("validation"),
        steps,
        plan.autoencoder_training.batch,
        study.seed,
        choose_device(study.runtime.device),
    )
    metrics = show(run_training(training, steps, resume, key, study.train.checkpoint_every), on_metrics=log_progress)
    facts = {"steps": steps, "metrics": metrics, "threads": torch.get_num_threads()}
    save_autoencoder(folder / "models" / "autoencoder", training.average.network, dataset.contract, facts)
    draw_reconstructions(folder)
    return _finished(folder, "autoencoder", resume, metrics)


@task()
def encode_dataset(folder: Path, *, key: str) -> dict[str, Any]:
    """Latents of the train and validation sides; the holdout stays sealed."""
    dataset, device = Dataset.open(folder), choose_device(Workspace.open(folder).study.runtime.device)
    network, contract = load_autoencoder(folder / "models" / "autoencoder", device)
    sides = {side: dataset.volumes(side) for side in ("train", "validation")}
    digest = show(encode_latents(folder / "latents.zarr", network, sides, contract, device))
    return {"digest": digest, "summary": {side: len(volumes) for side, volumes in sides.items()}}


@task(retries=0)
def train_denoiser(folder: Path, *, key: str) -> dict[str, Any]:
    """Fit the denoiser on the latents of the train side."""
    workspace, plan, dataset = Workspace.open(folder), load_plan(folder / "plan.json"), Dataset.open(folder)
    study, specs = workspace.study, dataset.contract.conditions
    steps, resume = plan.denoiser_training.steps, folder / STATE / "resume" / "denoiser"
    latents = {side: LatentSet.open(folder / "latents.zarr", side) for side in ("train", "validation")}
    conditions = {side: encode_conditions(dataset.conditions(side), specs) for side in ("train", "validation")}
    training = DenoiserTraining(
        plan.denoiser,
        specs,
        study.train.denoiser,
        (latents["train"], conditions["train"]),
        (latents["validation"], conditions["validation"]),
        steps,
        plan.denoiser_training.batch,
        study.seed,
        choose_device(study.runtime.device),
    )
    metrics = show(run_training(training, steps, resume, key, study.train.checkpoint_every), on_metrics=log_progress)
    facts = {"steps": steps, "metrics": metrics, "threads": torch.get_num_threads()}
    autoencoder = workspace.inputs("latents")["autoencoder"]
    network, scale = training.average.network, training.scale
    save_denoiser(folder / "models" / "denoiser", network, dataset.contract, scale, autoencoder, facts)
    draw_samples(folder)
    return _finished(folder, "denoiser", resume, metrics)


def _finished(folder: Path, name: str, resume: Path, metrics: dict[str, float]) -> dict[str, Any]:
    """Digest, lineage and figures of a trained model; its resume point is of no use any more."""
    forget_resume_point(resume)
    digest = digest_of(digest_checkpoint(folder / "models" / name))
    log_model(folder / "models" / name, name, digest)
    return {"digest": digest, "summary": {key.removeprefix("validation/"): value for key, value in metrics.items()}}
