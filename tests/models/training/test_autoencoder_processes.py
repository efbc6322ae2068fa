"""Two processes that train an autoencoder together do what one does with the whole batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.testing import assert_close

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.checkpoint import Tensors, load_checkpoint, prefixed, save_checkpoint, unprefixed
from meddiff_core.models.training.autoencoder import AutoencoderTraining
from meddiff_core.models.training.processes import joined
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.study import AutoencoderConfig
from meddiff_core.types import LabelArray, StoredArray

SIDE = 16
BATCHES = (1, 3)
"""One leaves the second process without an item, three cannot be halved."""


class Noise:
    """Four volumes that every process makes alike."""

    def __len__(self) -> int:
        return 4

    def image(self, index: int) -> StoredArray:
        return np.random.default_rng(index).integers(0, 256, (SIDE,) * 3).astype(np.uint8)

    def label(self, index: int) -> LabelArray | None:
        return np.random.default_rng(index).integers(0, 3, (SIDE,) * 3).astype(np.uint8)


def one_step(ranks: Ranks, batch: int) -> Tensors:
    """Gradients and losses of an adversarial step, and the weights that it leaves."""
    contract = Contract(
        spacing_mm=2.0,
        size=(SIDE,) * 3,
        intensity=IntensityMapping(modality="MR", low=0, high=100, percentiles=(1, 99)),
        mask="none",
        labels={"left": (1,), "right": (2,)},
        conditions=(),
    )
    shape = AutoencoderShape(in_channels=contract.channels, channels=(8, 8), latent_channels=2)
    config = AutoencoderConfig(adversarial_start=0.0, perceptual="both")
    training = AutoencoderTraining(shape, contract, config, Noise(), Noise(), 10, batch, seed=0, ranks=ranks)
    training.adaptive_weight.fill_(0.7)  # as if left by a step before
    losses = training.step(3)
    networks = {"autoencoder": training.network, "discriminator": training.discriminator}
    gradients = {
        f"{label}.{name}": parameter.grad
        for label, network in networks.items()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return {
        **prefixed("gradients", gradients),
        **prefixed("losses", {name.replace("/", "."): loss for name, loss in losses.items()}),
        **prefixed("state", training.state()),
    }


def take_part(rank: int, folder: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    with joined(Ranks(rank, 2), folder / "meeting", "cpu") as ranks:
        for batch in BATCHES:
            save_checkpoint(folder / f"{batch}-{rank}", one_step(ranks, batch), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes left what they found."""
    folder = tmp_path_factory.mktemp("together")
    multiprocessing.spawn(take_part, (folder,), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES)
def test_the_gradient_of_two_processes_is_that_of_one(folder: Path, batch: int) -> None:
    alone, together = one_step(Ranks(), batch), load_checkpoint(folder / f"{batch}-0")[0]
    assert alone.keys() == together.keys()
    expected = unprefixed("gradients", alone)
    assert_close(unprefixed("gradients", together), expected, rtol=0, atol=1e-6)
    assert_close(unprefixed("losses", together), unprefixed("losses", alone), rtol=1e-5, atol=1e-6)
    assert_close(together["state.adaptive_weight"], alone["state.adaptive_weight"], rtol=1e-4, atol=0)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES)
def test_both_processes_hold_the_same_bits(folder: Path, batch: int) -> None:
    one, other = (load_checkpoint(folder / f"{batch}-{rank}")[0] for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
