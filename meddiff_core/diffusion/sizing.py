"""Networks, batches and steps that fit the volumes, the device and the budget.

Time is measured, not guessed: each training runs two real steps on random volumes when the plan is made.
The plan keeps what came out, so that everything after it no longer depends on how fast the machine was.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from meddiff_core.contract import CategoricalCondition, Contract
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.autoencoder_training import AutoencoderTraining
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.loop import Training
from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.study import Study
from meddiff_core.types import LabelArray, StoredArray

AUTOENCODER_SHARE = 0.55
"""Of the budget; detail that the autoencoder loses no denoiser can bring back."""
MOST_EPOCHS = 1500
"""Beyond that a small training set is learned by heart."""


def infer_plan(contract: Contract, reasons: dict[str, str], study: Study, train_cases: int, device: str) -> Plan:
    """Complete the contract with networks, batches and steps."""
    shape = _autoencoder_shape(contract, study, device)
    if wrong := [side for side in contract.size if side % (2 * shape.factor)]:
        raise ConfigurationError(f"plan.size: must be multiples of {2 * shape.factor}, is {wrong[0]} along one axis")
    latent_size = shape.latent_size(contract.size)
    denoiser_shape = _denoiser_shape(shape.latent_channels, latent_size, study, device)
    config = study.train
    budget_s = study.plan.budget_minutes * 60
    autoencoder = _fit(
        lambda batch: _autoencoder_probe(shape, contract, study, batch, device),
        config.autoencoder.steps,
        config.autoencoder.batch or (2 if device == "cpu" else 4),
        budget_s * AUTOENCODER_SHARE,
        train_cases,
    )
    denoiser = _fit(
        lambda batch: _denoiser_probe(denoiser_shape, contract, latent_size, study, batch, device),
        config.denoiser.steps,
        config.denoiser.batch or (8 if device == "cpu" else 32),
        budget_s * (1 - AUTOENCODER_SHARE),
        train_cases,
    )
    _require_memory(max(autoencoder.memory_gb, denoiser.memory_gb), study, device)
    reasons = reasons | _training_reasons(study, autoencoder, denoiser, device)
    return Plan(
        contract=contract,
        autoencoder=shape,
        autoencoder_training=autoencoder,
        denoiser=denoiser_shape,
        denoiser_training=denoiser,
        device=device,
        reasons=reasons,
    )


def _autoencoder_shape(contract: Contract, study: Study, device: str) -> AutoencoderShape:
    config = study.train.autoencoder
    factor = study.plan.latent_factor or (4 if int(np.prod(contract.size)) < 4_000_000 else 8)
    levels = {2: 2, 4: 3, 8: 4}[factor]
    base = 16 if device == "cpu" else 32
    channels = config.channels or tuple(base * 2**level for level in range(levels))
    if len(channels) != levels or any(width % 8 for width in channels):
        expected = f"{levels} multiples of 8 for a latent factor of {factor}"
        raise ConfigurationError(f"train.autoencoder.channels: must be {expected}, is {list(channels)}")
    return AutoencoderShape(in_channels=contract.channels, channels=channels, latent_channels=config.latent_channels)


def _denoiser_shape(latent_channels: int, latent_size: tuple[int, ...], study: Study, device: str) -> DenoiserShape:
    deep = device != "cpu" and all(side % 4 == 0 for side in latent_size)
    channels = study.train.denoiser.channels or ((128, 256, 256) if deep else (64, 128))
    divisor = 2 ** (len(channels) - 1)
    if any(width % 32 for width in channels) or any(side % divisor for side in latent_size):
        expected = f"multiples of 32, and few enough levels for latents of {list(latent_size)}"
        raise ConfigurationError(f"train.denoiser.channels: must be {expected}, is {list(channels)}")
    return DenoiserShape(latent_channels=latent_channels, channels=channels)


def _fit(
    probe: Callable[[int], Training], steps: int | None, batch: int, budget_s: float, train_cases: int
) -> TrainingPlan:
    seconds, memory_gb = _measure(probe(batch))
    affordable = min(int(budget_s / seconds), MOST_EPOCHS * train_cases // batch)
    steps = steps or max(20, affordable)
    return TrainingPlan(steps=steps, batch=batch, seconds_per_step=round(seconds, 3), memory_gb=round(memory_gb, 2))


def _measure(training: Training) -> tuple[float, float]:
    """Seconds of the second of two steps, and GB of weights, optimiser state and kept activations."""
    training.step(1)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        float(next(iter(training.step(1).values())))  # waits for the device
    seconds = time.perf_counter() - started
    state = sum(tensor.untyped_storage().nbytes() for tensor in training.state().values())
    return seconds, (sum(kept.values()) + state) / 2**30


class _RandomVolumes:
    """Volumes that cost nothing to load and say nothing of anybody."""

    def __init__(self, contract: Contract) -> None:
        random = np.random.default_rng(0)
        self._image = random.integers(0, 255, contract.size).astype(contract.intensity.storage)
        self._label = random.integers(0, len(contract.labels) + 1, contract.size).astype(np.uint8)
        self._has_labels = bool(contract.labels)

    def __len__(self) -> int:
        return 2

    def image(self, index: int) -> StoredArray:
        return self._image

    def label(self, index: int) -> LabelArray | None:
        return self._label if self._has_labels else None


def _autoencoder_probe(
    shape: AutoencoderShape, contract: Contract, study: Study, batch: int, device: str
) -> AutoencoderTraining:
    config = study.train.autoencoder.model_copy(update={"adversarial_start": 0.0})
    volumes = _RandomVolumes(contract)
    return AutoencoderTraining(shape, contract, config, volumes, volumes, 10, batch, seed=0, device=device)


def _denoiser_probe(
    shape: DenoiserShape, contract: Contract, latent_size: tuple[int, ...], study: Study, batch: int, device: str
) -> DenoiserTraining:
    mean = torch.randn(2, shape.latent_channels, *latent_size)
    latents = LatentSet(mean, torch.full_like(mean, 0.1))
    zeros = torch.tensor([[0.0 if isinstance(s, CategoricalCondition) else 0.5 for s in contract.conditions]])
    side = (latents, zeros.repeat(2, 1))
    return DenoiserTraining(shape, contract.conditions, study.train.denoiser, side, side, 10, batch, 0, device)


def _require_memory(needed_gb: float, study: Study, device: str) -> None:
    free_gb = study.plan.memory_gb or _free_memory_gb(device)
    if needed_gb > free_gb:
        advice = "raise plan.spacing_mm, or lower train.autoencoder.batch or channels"
        raise ConfigurationError(f"plan.memory_gb: training needs {needed_gb:.1f} GB, {free_gb:.1f} are free; {advice}")


def _free_memory_gb(device: str) -> float:
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    import psutil

    return float(psutil.virtual_memory().available / 2**30)


def _training_reasons(study: Study, autoencoder: TrainingPlan, denoiser: TrainingPlan, device: str) -> dict[str, str]:
    reasons = {}
    for name, plan, given in (
        ("autoencoder_training", autoencoder, study.train.autoencoder.steps),
        ("denoiser_training", denoiser, study.train.denoiser.steps),
    ):
        cost = f"{plan.seconds_per_step:.2f} s a step of {plan.batch} measured on {device}"
        why = "given by the study" if given else f"what fits the budget of {study.plan.budget_minutes:g} minutes"
        reasons[name] = f"{plan.steps} steps: {why}; {cost}, so about {plan.minutes:.1f} minutes."
    return reasons
