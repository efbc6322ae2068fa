"""Two processes that each keep a part of the denoiser train it as one does, and leave whole files behind."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing
from torch.testing import assert_close

from meddiff_core.contract import ContinuousCondition
from meddiff_core.diffusion import training as denoiser_training
from meddiff_core.diffusion.choice import Judgement
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.checkpoint import Tensors, load_checkpoint, optimizer_tensors, prefixed, save_checkpoint
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.sharding import whole
from meddiff_core.models.training.loop import run_training
from meddiff_core.models.training.processes import joined
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.study import DenoiserConfig
from meddiff_core.types import Latents

STEPS = 4
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
CASES = ((4, 1, False), (1, 1, False), (3, 2, True))
"""Batch, parts, gradient checkpointing. Of the last two the second process has one slice less than the first."""


def start(
    ranks: Ranks = Ranks(), sharded: bool = False, batch: int = 3, parts: int = 1, recomputed: bool = False
) -> DenoiserTraining:
    """A training on five latents that every process makes alike."""
    mean = 3 + 2 * torch.randn((5, 2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    specs = (ContinuousCondition(name="age", low=20, high=40, mean=30, std=2),)
    ages = [{"age": 30.0 + number} for number in range(5)]
    side = (LatentSet(mean, torch.full_like(mean, 0.2)), encode_conditions(ages, specs))
    config = DenoiserConfig(gradient_checkpointing=recomputed, ema_shares=(0.1,))
    shape = DenoiserShape(latent_channels=2, channels=(32, 32))
    training = DenoiserTraining(
        shape, specs, config, side, side, STEPS, batch, 0, judge=judge, ranks=ranks, sharded=sharded
    )
    training.parts = parts
    return training


def judge(samples: Latents) -> Judgement:
    """Of the samples' spread, so that other weights are judged otherwise."""
    far = float(samples.std())
    return Judgement(validation_distance=far, train_distance=far, nearer_train=0.5, nearer_train_low=0.4)


def two_steps(training: DenoiserTraining) -> Tensors:
    """The gradient of the first step, losses, and what they leave."""
    losses = [training.step(0)["denoiser/loss"]]
    gradients = {name: p.grad for name, p in training.network.named_parameters() if p.grad is not None}
    found = prefixed("gradient", whole({name: gradient.clone() for name, gradient in gradients.items()}))
    losses.append(training.step(1)["denoiser/loss"])
    return {**found, **prefixed("state", training.state()), "losses": torch.stack(losses)}


def sizes(training: DenoiserTraining) -> dict[str, int]:
    """Numbers that this process holds of each kind."""
    kinds = {
        "weights": training.network.parameters(),
        "gradients": (p.grad for p in training.network.parameters() if p.grad is not None),
        "moments": (t for name, t in optimizer_tensors(training.optimizer).items() if not name.endswith("step")),
        "averages": (p for average in training.averages.values() for p in average.network.parameters()),
    }
    return {kind: _held(tensors) for kind, tensors in kinds.items()}


def _held(tensors: Iterable[Any]) -> int:
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in local}
    return sum(storages.values()) // 4


def finished(training: DenoiserTraining, resume: Path) -> Tensors:
    """Train to the end, from the resume point of step 2 if there is one; gives the last state, and the result."""
    for _ in run_training(training, resume, "key", 2):
        pass
    state = {name: tensor.clone() for name, tensor in training.state().items()}  # the result may be put in its place
    network, _ = training.result()
    return {**prefixed("state", state), **prefixed("result", network.state_dict())}


def validate_little() -> None:
    """It is most of the time of so small a training."""
    coarse = denoiser_training.JUDGED_WITH.model_copy(update={"steps": 2})
    denoiser_training.JUDGED_WITH, denoiser_training.JUDGED, denoiser_training.VALIDATION_SIGMAS = coarse, 2, (0.8,)


def take_part(rank: int, folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    validate_little()
    with joined(Ranks(rank, 2), folder / "meeting", "cpu") as ranks:
        for batch, parts, recomputed in CASES:
            training = start(ranks, True, batch, parts, recomputed)
            found = two_steps(training)
            save_checkpoint(folder / f"{batch}-{parts}-{rank}", found, {"sizes": sizes(training)})
        for name, resume in (("uninterrupted", "parts"), ("resumed", "parts"), ("taken over", "undivided")):
            save_checkpoint(folder / f"{name}-{rank}", finished(start(ranks, True), folder / resume), {})


@pytest.fixture(scope="module", autouse=True)
def _validate_little() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUDGED", "JUDGED_WITH", "VALIDATION_SIGMAS"):
            patch.setattr(denoiser_training, name, getattr(denoiser_training, name))  # put back afterwards
        validate_little()
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes left what they found."""
    folder = tmp_path_factory.mktemp("sharded")
    finished(start(), folder / "undivided")
    multiprocessing.spawn(take_part, (folder,), nprocs=2)
    return folder


def assert_same_training(found: Tensors, expected: Tensors) -> None:
    """But for rounding, of which Adam can make a hundredth of a step (5e-4)."""
    assert found.keys() == expected.keys()
    assert_close(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("batch", "parts", "recomputed"), CASES)
def test_two_processes_with_parts_of_a_network_train_it_as_one_does(
    folder: Path, batch: int, parts: int, recomputed: bool
) -> None:
    alone, together = two_steps(start(batch=batch)), load_checkpoint(folder / f"{batch}-{parts}-0")[0]
    assert_same_training(together, alone)
    gradients = [float(tensor.abs().max()) for name, tensor in alone.items() if name.startswith("gradient")]
    assert max(gradients) > 0.01


@pytest.mark.parametrize(("batch", "parts", "recomputed"), CASES)
def test_each_process_holds_only_its_part(folder: Path, batch: int, parts: int, recomputed: bool) -> None:
    training = start(batch=batch)
    training.step(0)
    halves = [load_checkpoint(folder / f"{batch}-{parts}-{rank}")[1]["sizes"] for rank in (0, 1)]
    for kind, size in sizes(training).items():
        assert all(half[kind] <= 0.51 * size for half in halves), kind


@pytest.mark.parametrize("end", ["resumed-0", "uninterrupted-1"])
def test_a_resumed_training_and_every_process_end_with_the_same_bits(folder: Path, end: str) -> None:
    one, other = (load_checkpoint(folder / name)[0] for name in ("uninterrupted-0", end))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_goes_on_from_parts_to_whole_and_back(folder: Path, tmp_path: Path) -> None:
    expected = finished(start(), tmp_path / "resume")
    shutil.copytree(folder / "parts", tmp_path / "parts")
    assert_same_training(finished(start(), tmp_path / "parts"), expected)
    assert_same_training(load_checkpoint(folder / "taken over-0")[0], expected)


def test_one_process_cannot_keep_a_part() -> None:
    with pytest.raises(ConfigurationError, match=r"runtime\.sharded: must be false for one process"):
        start(sharded=True)
