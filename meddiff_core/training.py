"""Which training makes which model, from which artefacts of a study.

A training in the command's own process and one in several are the same call with other `ranks`, so that
what holds for the one holds for the other.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from meddiff_core.artefacts import STATE
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.private import PrivateMechanism, guarantee_for
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.evidence.gates import limit_on_weights
from meddiff_core.evidence.membership_probe import LatentSide, open_probe
from meddiff_core.evidence.sample_scoring import open_scorer
from meddiff_core.models.autoencoder import save_autoencoder
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import load_scale, save_denoiser
from meddiff_core.models.imported.adoption import adopt_model
from meddiff_core.models.latents import AugmentedLatents, LatentSet
from meddiff_core.models.plan import TrainingPlan, load_plan
from meddiff_core.models.training.autoencoder import AutoencoderTraining
from meddiff_core.models.training.loading import Remembered
from meddiff_core.models.training.loop import Training, deterministic, run_training
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.models.training.resume import Keep
from meddiff_core.study import PrivacyConfig
from meddiff_core.types import Progress
from meddiff_core.workspace import Workspace

Facts = dict[str, Any]
"""What a checkpoint says of its training."""
Save = Callable[[Facts], None]
"""All processes call it, and the first saves."""


def fit_model(
    folder: Path, name: str, key: str, device: str, ranks: Ranks = Ranks()
) -> Generator[Progress, None, Facts]:
    """Train the `autoencoder` or the `denoiser` of a study and save it; gives what its checkpoint says of it.

    `key` is the digest of everything that it is made from. Each of several processes makes this call; the first saves.
    """
    workspace = Workspace.open(folder)
    if _is_kept(workspace, name):
        return _keep_imported(workspace, name, ranks)
    config = workspace.study.train
    keep = Keep(config.checkpoints_kept, config.checkpoint_hourly)
    with deterministic(config.deterministic):
        training, save = _TRAININGS[name](workspace, device, ranks)
        outcome = yield from run_training(training, resume_points(folder, name), key, config.checkpoint_every, keep)
    facts = {
        "steps": outcome.steps,
        "metrics": outcome.metrics,
        "notes": list(outcome.notes),
        "threads": torch.get_num_threads(),
        "processes": ranks.count,
    }
    if ranks.first:
        workspace.ledger.forget(name)  # the recorded model is about to be replaced
    save(facts)
    return facts


def _is_kept(workspace: Workspace, name: str) -> bool:
    """Whether the weights that the plan starts from are used as they are."""
    plan = load_plan(workspace.path("plan"))
    return {"autoencoder": plan.autoencoder_training, "denoiser": plan.denoiser_training}[name].steps == 0


def _keep_imported(workspace: Workspace, name: str, ranks: Ranks) -> Facts:
    start, contract = workspace.start(name), Dataset.open(workspace.folder).contract
    assert start is not None, "load_plan refuses 0 steps without weights to start from"
    facts: Facts = {"steps": 0, "metrics": {}, "notes": []}
    if ranks.first:
        of = {"autoencoder": workspace.inputs("latents")["autoencoder"]} if name == "denoiser" else {}
        workspace.ledger.forget(name)
        adopt_model(start, workspace.path(name), contract, facts | of)
    return facts


def resume_points(folder: Path, name: str) -> Path:
    """Where the resume points of a model's training lie."""
    return folder / STATE / "resume" / name


def _autoencoder_training(workspace: Workspace, device: str, ranks: Ranks) -> tuple[AutoencoderTraining, Save]:
    study, plan, dataset = workspace.study, load_plan(workspace.path("plan")), Dataset.open(workspace.folder)
    patch = plan.autoencoder_training.patch
    train, validation = (Remembered(dataset.volumes(side), _spare_memory()) for side in ("train", "validation"))
    training = AutoencoderTraining(
        plan.autoencoder,
        dataset.contract,
        study.train.autoencoder.model_copy(update=_fitted(plan.autoencoder_training) | {"patch": patch}),
        train,
        validation,
        plan.autoencoder_training.steps,
        plan.autoencoder_training.batch,
        study.seed,
        device,
        ranks=ranks,
        initial=workspace.start("autoencoder"),
    )

    def save(facts: Facts) -> None:
        network, chosen = training.result()
        if ranks.first:
            save_autoencoder(workspace.path("autoencoder"), network, dataset.contract, facts | chosen)

    return training, save


def _denoiser_training(workspace: Workspace, device: str, ranks: Ranks) -> tuple[DenoiserTraining, Save]:
    study, plan, dataset = workspace.study, load_plan(workspace.path("plan")), Dataset.open(workspace.folder)
    latents, specs = workspace.path("latents"), dataset.contract.conditions
    train, validation = (LatentSet.open(latents, side) for side in ("train", "validation"))
    start = workspace.start("denoiser")
    scale = train.scale() if start is None else load_scale(start)
    conditions = [encode_conditions(dataset.conditions(side), specs) for side in ("train", "validation")]
    known = LatentSide(train, conditions[0], dataset.subjects("train"))
    unseen = LatentSide(validation, conditions[1], dataset.subjects("validation"))
    scored = plan.denoiser_training.scored
    training = DenoiserTraining(
        plan.denoiser,
        specs,
        study.train.denoiser.model_copy(update=_fitted(plan.denoiser_training)),
        (train, conditions[0]),
        (validation, conditions[1]),
        plan.denoiser_training.steps,
        plan.denoiser_training.batch,
        study.seed,
        device,
        augmented=AugmentedLatents.open(latents),
        scorer=open_scorer(train, validation, scale, study.seed) if scored else None,
        attack=open_probe(known, unseen, scale, study.seed, limit_on_weights(study)) if scored else None,
        ranks=ranks,
        initial=start,
        mechanism=_mechanism(study.train.denoiser.privacy, known.subjects, plan.denoiser_training),
    )

    def save(facts: Facts) -> None:
        network, chosen = training.result()
        autoencoder, path = workspace.inputs("latents")["autoencoder"], workspace.path("denoiser")
        if ranks.first:
            save_denoiser(path, network, dataset.contract, training.scale, autoencoder, facts | chosen, training.guide)

    return training, save


def _mechanism(privacy: PrivacyConfig | None, subjects: Sequence[str], plan: TrainingPlan) -> PrivateMechanism | None:
    if privacy is None:
        return None
    return PrivateMechanism(guarantee_for(privacy, len(set(subjects)), plan.batch, plan.steps), subjects)


def _spare_memory() -> int:
    """Bytes that volumes of one side may take: an eighth of what is free."""
    return int(psutil.virtual_memory().available // 8)


def _fitted(plan: TrainingPlan) -> dict[str, Any]:
    """What the plan decided to make a training fit the memory."""
    return {"gradient_checkpointing": plan.gradient_checkpointing}


_TRAININGS: dict[str, Callable[[Workspace, str, Ranks], tuple[Training, Save]]] = {
    "autoencoder": _autoencoder_training,
    "denoiser": _denoiser_training,
}
