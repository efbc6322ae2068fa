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
    workspace, dataset = Workspace.open(folder), Dataset.open(folder)
    study, plan = workspace.study, load_plan(workspace.path("plan"))
    training = AutoencoderTraining(
        plan.autoencoder,
        dataset.contract,
        study.train.autoencoder,
        dataset.volumes("train"),
        dataset.volumes("validation"),
        plan.autoencoder_training.steps,
        plan.autoencoder_training.batch,
        study.seed,
        choose_device(study.runtime.device),
    )
    facts = _run(training, workspace, "autoencoder", key)
    save_autoencoder(workspace.path("autoencoder"), training.average.network, dataset.contract, facts)
    draw_reconstructions(folder)
    return _finished(workspace, "autoencoder", facts)


@task()
def encode_dataset(folder: Path, *, key: str) -> dict[str, Any]:
    """Latents of the train and validation sides; the holdout stays sealed."""
    workspace, dataset = Workspace.open(folder), Dataset.open(folder)
    device = choose_device(workspace.study.runtime.device)
    network, contract = load_autoencoder(workspace.path("autoencoder"), device)
    sides = {side: dataset.volumes(side) for side in ("train", "validation")}
    digest = show(encode_latents(workspace.path("latents"), network, sides, contract, device))
    return {"digest": digest, "summary": {side: len(volumes) for side, volumes in sides.items()}}


@task(retries=0)
def train_denoiser(folder: Path, *, key: str) -> dict[str, Any]:
    """Fit the denoiser on the latents of the train side."""
    workspace, dataset = Workspace.open(folder), Dataset.open(folder)
    study, plan, specs = workspace.study, load_plan(workspace.path("plan")), dataset.contract.conditions
    latents = {side: LatentSet.open(workspace.path("latents"), side) for side in ("train", "validation")}
    conditions = {side: encode_conditions(dataset.conditions(side), specs) for side in ("train", "validation")}
    training = DenoiserTraining(
        plan.denoiser,
        specs,
        study.train.denoiser,
        (latents["train"], conditions["train"]),
        (latents["validation"], conditions["validation"]),
        plan.denoiser_training.steps,
        plan.denoiser_training.batch,
        study.seed,
        choose_device(study.runtime.device),
    )
    facts = _run(training, workspace, "denoiser", key)
    autoencoder = workspace.inputs("latents")["autoencoder"]
    network, scale = training.average.network, training.scale
    save_denoiser(workspace.path("denoiser"), network, dataset.contract, scale, autoencoder, facts)
    draw_samples(folder)
    return _finished(workspace, "denoiser", facts)


def _run(training: AutoencoderTraining | DenoiserTraining, workspace: Workspace, name: str, key: str) -> dict[str, Any]:
    """Train to the end, and give what the checkpoint is to say of it."""
    every, resume = workspace.study.train.checkpoint_every, _resume_point(workspace, name)
    metrics = show(run_training(training, training.steps, resume, key, every), on_metrics=log_progress)
    workspace.ledger.forget(name)  # the recorded model is about to be replaced
    return {"steps": training.steps, "metrics": metrics, "threads": torch.get_num_threads()}


def _resume_point(workspace: Workspace, name: str) -> Path:
    return workspace.folder / STATE / "resume" / name


def _finished(workspace: Workspace, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Digest, lineage and figures of a trained model; its resume point is of no use any more."""
    forget_resume_point(_resume_point(workspace, name))
    digest = digest_of(digest_checkpoint(workspace.path(name)))
    log_model(workspace.path(name), name, digest)
    metrics = {key.removeprefix("validation/"): value for key, value in facts["metrics"].items()}
    return {"digest": digest, "summary": metrics}
