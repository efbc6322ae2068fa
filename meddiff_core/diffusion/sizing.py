"""Networks, batches and steps that fit the volumes, the device and the budget.

Time and memory are measured, not guessed: each training runs two real steps on random volumes when the plan is
made, and is made smaller until it fits. The plan keeps what came out, so that everything after it no longer
depends on how fast or how large the machine was. Of volumes that a CPU would take minutes for, a part is measured.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from meddiff_core.contract import CategoricalCondition, Contract
from meddiff_core.data.grid import Size, along_axes, latent_factor, latent_strides, require_halvable
from meddiff_core.diffusion.private import Guarantee, PrivateMechanism
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.models.training.autoencoder import SMALLEST_PATCH, AutoencoderTraining
from meddiff_core.models.training.guards import is_out_of_memory
from meddiff_core.study import Augmentation, Study
from meddiff_core.types import LabelArray, Progress, StoredArray

AUTOENCODER_SHARE = 0.55
"""Share of the budget for the autoencoder: no denoiser can restore detail that it loses."""
MOST_BESIDES = 0.15
"""Share of the budget that validations with samples to score may take."""
MOST_EPOCHS = 1500
"""Beyond that a small training set is memorised."""
AUGMENTED_FROM_EPOCHS = 50
"""Epochs from which augmented volumes help more than the steps that they take from the others cost. After 47 epochs of
phantoms without any, samples followed what was asked with r = 0.91 instead of 0.77, and an attack on the weights told
training subjects with an area of 0.90 instead of 0.49."""
VIEWS_OF_VARIANT, FEWEST_VARIANTS, MOST_VARIANTS = 6, 4, 16
"""How often a training sees each augmented variant of a volume, and how many variants there may be: encoding them takes
time, too."""
LATENTS_GB = 2.0
"""Memory for the latents of augmented volumes."""
PASSING, WORKSPACE_GB = 0.1, 0.1
"""On a CPU, gradients on their way as a share of what is kept for them, and what convolutions and the allocator take
beyond all tensors (`tests/benchmarks/plan.py`)."""
MOST_MEASURED, MOST_LATENTS_MEASURED = 200_000, 2_000
"""Voxels of a volume and of its latents that a CPU measures a step on; a plan left to itself has no more. Time and
memory of convolutions grow as the voxels do. A GPU measures whole volumes: it is quick, its memory ends abruptly."""


def infer_plan(
    contract: Contract,
    reasons: dict[str, str],
    study: Study,
    cases: int,
    device: str,
    standing: Mapping[str, Plan] | None = None,
    weights_judged: bool = False,
) -> Generator[Progress, None, Plan]:
    """Complete the contract with networks, batches and steps, for so many training volumes (`cases`).

    `weights_judged`: whether a gate will ask what the denoiser's weights tell of its training subjects.
    `standing` holds the last plan for each network whose size and training stay as they are; they are not measured.

    Raises:
        ConfigurationError: a setting that the networks cannot follow, or a training that does not fit the memory.
    """
    keep_freed_memory()
    standing = standing or {}
    last = standing.get("autoencoder")
    shape = last.autoencoder if last else _autoencoder_shape(contract, study, device)
    require_halvable(contract.size, contract.spacing_mm, study)
    latent_size = shape.latent_size(contract.size)
    last_denoiser = _for_latents(standing.get("denoiser"), latent_size, shape.latent_channels)
    denoiser_shape = (  # what it refuses is refused before anything is measured
        last_denoiser.denoiser if last_denoiser else _denoiser_shape(shape.latent_channels, latent_size, study, device)
    )
    autoencoder = (
        _standing(last, AUTOENCODER) if last else (yield from _plan_autoencoder(shape, contract, study, cases, device))
    )
    denoiser = (
        _standing(last_denoiser, DENOISER)
        if last_denoiser
        else (yield from _plan_denoiser(denoiser_shape, shape, contract, study, cases, device, weights_judged))
    )
    coarser = f"Latents are coarser by {along_axes(shape.downsampling)}; axes of thick slices or few voxels keep more."
    return Plan(
        contract=contract,
        device=next((plan.device for plan in standing.values()), device),
        reasons=reasons | {"autoencoder": coarser} | autoencoder.reasons | denoiser.reasons,
        **autoencoder.decisions,
        **denoiser.decisions,
    )


class Planned(NamedTuple):
    """What is decided of one network, by the names of the plan's fields, and why."""

    decisions: dict[str, Any]
    reasons: dict[str, str]


AUTOENCODER = ("autoencoder", "autoencoder_training")
DENOISER = ("denoiser", "denoiser_training", "augmentations", "variants")
"""Fields of a plan that stand or fall with a network."""


def _standing(last: Plan, fields: Sequence[str]) -> Planned:
    """What the last plan decided of a network."""
    reasons = {name: last.reasons[name] for name in fields if name in last.reasons and name != "autoencoder"}
    return Planned({name: getattr(last, name) for name in fields}, reasons)


def _plan_autoencoder(
    shape: AutoencoderShape, contract: Contract, study: Study, cases: int, device: str
) -> Generator[Progress, None, Planned]:
    training = yield from _fit(
        "autoencoder",
        lambda way: _autoencoder_cost(shape, contract, study, way, device),
        _autoencoder_ways(shape, contract, study, device),
        study.plan.memory_gb or _free_memory_gb(device),
        study.train.autoencoder.steps,
        study.plan.budget_minutes * 60 * AUTOENCODER_SHARE,
        cases,
    )
    why = _training_reason(training, study.train.autoencoder.steps, study, _where(shape, contract, device))
    return Planned({"autoencoder": shape, "autoencoder_training": training}, {"autoencoder_training": why})


def _plan_denoiser(
    shape: DenoiserShape,
    autoencoder: AutoencoderShape,
    contract: Contract,
    study: Study,
    cases: int,
    device: str,
    weights_judged: bool,
) -> Generator[Progress, None, Planned]:
    config, latent_size = study.train.denoiser, autoencoder.latent_size(contract.size)
    training = yield from _fit(
        "denoiser",
        lambda way: _denoiser_cost(shape, contract, latent_size, study, way, device),
        _ways(config.batch, 8 if device == "cpu" else 32, config.gradient_checkpointing),
        study.plan.memory_gb or _free_memory_gb(device),
        config.steps,
        study.plan.budget_minutes * 60 * (1 - AUTOENCODER_SHARE),
        cases,
    )
    if config.privacy is not None:
        training = training.model_copy(update={"scored": False, "private": True})
    epochs = training.steps * training.batch / cases
    augmentations, why = _augmentations(config.augmentations, epochs, weights_judged)
    return Planned(
        {
            "denoiser": shape,
            "denoiser_training": training,
            "augmentations": augmentations,
            "variants": augmented_variants(epochs * config.augmented_share, cases, autoencoder, latent_size),
        },
        {
            "denoiser_training": _training_reason(training, config.steps, study, _where(autoencoder, contract, device)),
            "augmentations": why,
        },
    )


def _autoencoder_shape(contract: Contract, study: Study, device: str) -> AutoencoderShape:
    config = study.train.autoencoder
    factor = latent_factor(contract.size, study)
    levels = {2: 2, 4: 3, 8: 4}[factor]
    base = 16 if device == "cpu" else 32
    channels = config.channels or tuple(base * 2**level for level in range(levels))
    if len(channels) != levels or any(width % 8 for width in channels):
        expected = f"{levels} multiples of 8 for a latent factor of {factor}"
        raise ConfigurationError(f"train.autoencoder.channels: must be {expected}, is {list(channels)}")
    strides = latent_strides(contract.size, contract.spacing_mm, study)
    return AutoencoderShape(
        in_channels=contract.channels, channels=channels, latent_channels=config.latent_channels, strides=strides
    )


def _denoiser_shape(latent_channels: int, latent_size: tuple[int, ...], study: Study, device: str) -> DenoiserShape:
    deep = device != "cpu" and all(side % 4 == 0 for side in latent_size)
    channels = study.train.denoiser.channels or ((128, 256, 256) if deep else (64, 128))
    divisor = 2 ** (len(channels) - 1)
    if any(width % 32 for width in channels) or any(side % divisor for side in latent_size):
        expected = f"multiples of 32, and few enough levels for latents of {list(latent_size)}"
        raise ConfigurationError(f"train.denoiser.channels: must be {expected}, is {list(channels)}")
    return DenoiserShape(latent_channels=latent_channels, channels=channels)


ANY_GUARANTEE = Guarantee(epsilon=1, delta=1e-9, clip=1, noise_multiplier=1, sample_rate=1, steps=10)
"""A private training whose steps take whole batches, to be measured; what it promises costs no time."""


class Way(NamedTuple):
    """How a step is fitted into the memory."""

    batch: int
    gradient_checkpointing: bool = False
    patch: tuple[int, int, int] | None = None


class Cost(NamedTuple):
    """What a training takes."""

    seconds_per_step: float
    seconds_besides: float
    memory_gb: float
    fixed_gb: float = 0.0
    """Part of the memory that does not depend on the size of a volume: weights, averages, optimiser state."""

    def scaled(self, step: float, besides: float) -> "Cost":
        """Cost of steps and validations on so many times the voxels."""
        memory_gb = self.fixed_gb + step * (self.memory_gb - self.fixed_gb)
        return Cost(step * self.seconds_per_step, besides * self.seconds_besides, memory_gb, self.fixed_gb)


def _ways(given: int | None, usual: int, checkpointing: bool | None) -> list[Way]:
    """Ways to fit a step, from the fastest to the one that needs least memory; all follow the study's settings."""
    batch = given or usual
    halved = [] if given else [batch // 2**n for n in range(1, batch.bit_length())]
    if checkpointing is not None:
        return [Way(size, checkpointing) for size in (batch, *halved)]
    return [Way(batch), *(Way(size, True) for size in (batch, *halved))]


def _autoencoder_ways(shape: AutoencoderShape, contract: Contract, study: Study, device: str) -> list[Way]:
    """Those of `_ways`, then patches of half the volume's sides, and of a quarter.

    Two volumes are the fewest on a CPU: for a single one PyTorch chooses convolutions that take twice the time.
    """
    config = study.train.autoencoder
    usual = 2 * (study.runtime.processes or 1) if device == "cpu" else 4
    ways = _ways(config.batch, usual, config.gradient_checkpointing)
    if config.patch is not None:
        return [way._replace(patch=config.patch) for way in ways]
    patches = []
    for part in (2, 4):
        i, j, k = (
            min(side, max(SMALLEST_PATCH, side // part // factor * factor))
            for side, factor in zip(contract.size, shape.downsampling, strict=True)
        )
        patches.append((i, j, k))
    return [*ways, *(ways[-1]._replace(patch=patch) for patch in patches if patch != contract.size)]


def _for_latents(last: Plan | None, latent_size: Size, channels: int) -> Plan | None:
    """The last plan, if its denoiser is one of latents of this size and so many channels."""
    same = last and (last.latent_size, last.denoiser.latent_channels) == (latent_size, channels)
    return last if same else None


def _fit(
    network: str,
    cost_of: Callable[[Way], Cost],
    ways: Sequence[Way],
    free_gb: float,
    steps: int | None,
    budget_s: float,
    train_cases: int,
) -> Generator[Progress, None, TrainingPlan]:
    """The first way that fits; steps as given, or as many as the budget allows.

    Raises:
        ConfigurationError: none fits.
    """
    way, cost = yield from _first_that_fits(network, cost_of, ways, free_gb)
    scored = steps is not None or cost.seconds_besides <= MOST_BESIDES * budget_s
    cost = cost if scored else cost._replace(seconds_besides=0.0)
    affordable = min(
        int((budget_s - cost.seconds_besides) / cost.seconds_per_step), MOST_EPOCHS * train_cases // way.batch
    )
    return TrainingPlan(
        steps=steps or max(20, affordable),
        batch=way.batch,
        seconds_per_step=round(cost.seconds_per_step, 3),
        seconds_besides=round(cost.seconds_besides, 1),
        memory_gb=round(cost.memory_gb, 2),
        gradient_checkpointing=way.gradient_checkpointing,
        patch=way.patch,
        scored=scored,
    )


def _first_that_fits(
    network: str, cost_of: Callable[[Way], Cost], ways: Sequence[Way], free_gb: float
) -> Generator[Progress, None, tuple[Way, Cost]]:
    label = f"measure {network}"
    for tried, way in enumerate(ways):
        yield Progress(label, tried, len(ways))
        cost = _unless_out_of_memory(cost_of, way)
        if cost.memory_gb <= free_gb:
            yield Progress(label, len(ways), len(ways))
            return way, cost
    advice = "raise plan.spacing_mm, or lower train.autoencoder.channels or train.denoiser.channels"
    raise ConfigurationError(f"plan.memory_gb: training must fit {free_gb:.1f} GB, it does not; {advice}")


def _autoencoder_cost(shape: AutoencoderShape, contract: Contract, study: Study, way: Way, device: str) -> Cost:
    """Cost of a training on whole volumes or patches, measured on as many voxels as is quick."""
    trained = way.patch or contract.size
    part = _measured_part(contract.size, shape.downsampling, device, MOST_MEASURED)
    i, j, k = (min(sides) for sides in zip(trained, part, strict=True))
    smaller = contract.model_copy(update={"size": part})
    cost = _measure(_autoencoder_probe(shape, smaller, study, way._replace(patch=way.patch and (i, j, k)), device))
    return cost.scaled(math.prod(trained) / (i * j * k), math.prod(contract.size) / math.prod(part))


def _denoiser_cost(
    shape: DenoiserShape, contract: Contract, latent_size: Size, study: Study, way: Way, device: str
) -> Cost:
    """Cost of a training on latents, measured on as many of them as is quick."""
    halved = 2 ** (len(shape.channels) - 1)
    part = _measured_part(latent_size, (halved,) * 3, device, MOST_LATENTS_MEASURED)
    ratio = math.prod(latent_size) / math.prod(part)
    return _measure(_denoiser_probe(shape, contract, part, study, way, device)).scaled(ratio, ratio)


def _measured_part(size: Size, steps: Size, device: str, most: int) -> Size:
    """A volume's size, or a part with its longest sides halved, in multiples of `steps`, that a CPU is quick with."""
    sides = list(size)
    while device == "cpu" and math.prod(sides) > most:
        longest = sides.index(max(sides))
        sides[longest] = max(1, sides[longest] // 2 // steps[longest]) * steps[longest]
    i, j, k = sides
    return i, j, k


def _unless_out_of_memory(cost_of: Callable[[Way], Cost], way: Way) -> Cost:
    """Cost of a way; infinite where a step runs out of memory."""
    try:
        return cost_of(way)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return Cost(float("inf"), float("inf"), float("inf"))


def _measure(training: AutoencoderTraining | DenoiserTraining) -> Cost:
    """Cost of the second of two steps, on the device of the training."""
    training.step(1)
    cuda = training.device != "cpu"
    if cuda:
        torch.cuda.reset_peak_memory_stats(training.device)
    started = time.perf_counter()
    with _kept_for_gradients() as kept:
        float(next(iter(training.step(1).values())))  # waits for the device
    seconds = time.perf_counter() - started
    besides = min(training.validation_seconds() for _ in range(2))  # the first time, libraries are loaded
    if cuda:
        return Cost(seconds, besides, torch.cuda.max_memory_allocated(training.device) / 2**30)
    own = sum(tensor.untyped_storage().nbytes() for tensor in training.state().values())
    tensors = (1 + PASSING) * sum(kept.values()) + own
    return Cost(seconds, besides, tensors / 2**30 + WORKSPACE_GB, own / 2**30 + WORKSPACE_GB)


@contextmanager
def _kept_for_gradients() -> Iterator[dict[int, int]]:
    """Bytes of each storage that is kept for a backward pass within the block."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


class _RandomVolumes:
    """Random volumes, which cost nothing to load."""

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
    shape: AutoencoderShape, contract: Contract, study: Study, way: Way, device: str
) -> AutoencoderTraining:
    changes = {"adversarial_start": 0.0, "gradient_checkpointing": way.gradient_checkpointing, "patch": way.patch}
    config = study.train.autoencoder.model_copy(update=changes)
    volumes = _RandomVolumes(contract)
    return AutoencoderTraining(shape, contract, config, volumes, volumes, 10, way.batch, seed=0, device=device)


def _denoiser_probe(
    shape: DenoiserShape, contract: Contract, latent_size: Size, study: Study, way: Way, device: str
) -> DenoiserTraining:
    count = way.batch if study.train.denoiser.privacy else 2
    mean = torch.randn(count, shape.latent_channels, *latent_size)
    latents = LatentSet(mean, torch.full_like(mean, 0.1))
    zeros = torch.tensor([[0.0 if isinstance(s, CategoricalCondition) else 0.5 for s in contract.conditions]])
    side = (latents, zeros.repeat(count, 1))
    mechanism = PrivateMechanism(ANY_GUARANTEE, list(map(str, range(count)))) if study.train.denoiser.privacy else None
    config = study.train.denoiser.model_copy(update={"gradient_checkpointing": way.gradient_checkpointing})
    return DenoiserTraining(
        shape, contract.conditions, config, side, side, 10, way.batch, 0, device, mechanism=mechanism
    )


def _augmentations(
    given: tuple[Augmentation, ...] | None, epochs: float, weights_judged: bool
) -> tuple[tuple[Augmentation, ...], str]:
    """The kinds of augmentation, and the reason for them."""
    if given is not None:
        return given, "Given by the study."
    why = f"About {epochs:.0f} epochs are trained; augmentation pays from {AUGMENTED_FROM_EPOCHS} on."
    if epochs >= AUGMENTED_FROM_EPOCHS:
        return get_args(Augmentation), why
    if weights_judged:
        return get_args(Augmentation), f"{why} All the same: a gate asks what the weights tell of training subjects."
    return (), f"{why} Without it the weights tell who was trained on."


def augmented_variants(epochs: float, train_cases: int, shape: AutoencoderShape, latent_size: Size) -> int:
    """Variants of each training volume: so many that each is seen a few times in `epochs` of augmented volumes, and as
    fit the memory, where the training keeps all of their latents.
    """
    wanted = min(max(round(epochs / VIEWS_OF_VARIANT), FEWEST_VARIANTS), MOST_VARIANTS)
    bytes_of_volume = 2 * 4 * shape.latent_channels * math.prod(latent_size)
    return max(1, min(wanted, int(LATENTS_GB * 2**30 / (bytes_of_volume * train_cases))))


def _free_memory_gb(device: str) -> float:
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    import psutil

    return float(psutil.virtual_memory().available / 2**30)


def _where(shape: AutoencoderShape, contract: Contract, device: str) -> str:
    """What a training was measured on."""
    part = _measured_part(contract.size, shape.downsampling, device, MOST_MEASURED) != contract.size
    return f"{device}, on a part of a volume" if part else device


def _training_reason(plan: TrainingPlan, given: int | None, study: Study, where: str) -> str:
    why = "given by the study" if given else f"what fits the budget of {study.plan.budget_minutes:g} minutes"
    fits = ", with patches" if plan.patch else ", activations computed again to save memory"
    how = fits if plan.patch or plan.gradient_checkpointing else ""
    return f"{plan.steps} steps{how}: {why}; {_length(plan, where)}."


def _length(plan: TrainingPlan, where: str) -> str:
    cost = f"{plan.seconds_per_step:.2f} s a step of {plan.batch} measured on {where}"
    return f"{cost}, so about {plan.minutes:.1f} minutes"
