"""Training of the autoencoder: bit for bit the same after a kill, and it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.autoencoder_training import AutoencoderTraining
from meddiff_core.models.images import load_images
from meddiff_core.models.loop import run_training
from meddiff_core.models.randomness import batch_indices
from meddiff_core.study import AutoencoderConfig

Start = Callable[..., AutoencoderTraining]
STEPS = 6


@pytest.fixture
def start(contract: Contract, make_volumes: Callable) -> Start:
    """A fresh training of four volumes whose adversarial part begins at the third step, with changes."""

    def make(steps: int = STEPS, seed: int = 0, contract: Contract = contract, **changes: Any) -> AutoencoderTraining:
        shape = AutoencoderShape(in_channels=contract.channels, channels=(8, 8, 8), latent_channels=2)
        config = AutoencoderConfig(**({"adversarial_start": 0.3} | changes))
        volumes = make_volumes(4, labels=bool(contract.labels))
        return AutoencoderTraining(shape, contract, config, volumes, volumes, steps, batch=2, seed=seed)

    return make


def same(one: AutoencoderTraining, other: AutoencoderTraining) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize(("killed", "threads"), [(3, 1), (5, 1), (5, 2)])
def test_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, start: Start, finish: Callable, killed: int, threads: int
) -> None:
    """Killed before the adversarial part has begun, and within it."""
    torch.set_num_threads(threads)
    whole, first, second = start(), start(), start()
    expected = finish(run_training(whole, STEPS, tmp_path / "whole", "key", 100))
    for progress in run_training(first, STEPS, tmp_path / "resume", "key", 2):
        if progress.done == killed:
            break
    assert (tmp_path / "resume").exists()
    found = finish(run_training(second, STEPS, tmp_path / "resume", "key", 2))
    assert same(whole, second)
    assert found == expected


def test_the_seed_decides_the_weights_and_nothing_else_does(start: Start) -> None:
    torch.manual_seed(1)
    one = start()
    torch.manual_seed(2)
    other = start()
    assert same(one, other)
    one.step(0)
    other.step(0)
    assert same(one, other)
    assert not same(one, start(seed=1))


def test_losses_of_the_discriminator_act_from_their_start(start: Start) -> None:
    training = start()
    names = [set(training.step(step)) for step in range(3)]
    base = {"autoencoder/image", "autoencoder/kl", "autoencoder/label"}
    judged = {"autoencoder/perceptual", "autoencoder/adversarial", "autoencoder/discriminator"}
    assert names == [base, base, base | judged]


def test_training_lowers_the_loss(start: Start) -> None:
    training = start(steps=20, adversarial_start=1.0, learning_rate=1e-2)
    losses = [float(training.step(step)["autoencoder/label"]) for step in range(20)]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_the_discriminator_learns_and_leaves_no_gradient_in_the_autoencoder(start: Start) -> None:
    training = start(adversarial_start=0.0)
    before = [parameter.clone() for parameter in training.discriminator.parameters()]
    training.step(0)
    assert any(not torch.equal(old, new) for old, new in zip(before, training.discriminator.parameters(), strict=True))


def test_a_batch_is_its_volumes_or_their_mirror_image(start: Start, contract: Contract) -> None:
    training = start()
    mirrored = set()
    for step in range(8):
        chosen = batch_indices(4, 2, step, 0, "autoencoder").tolist()
        expected = load_images(training.train, chosen, contract)
        for images, volume in zip(training._batch(step), expected, strict=True):
            flipped = torch.equal(images, volume.flip(1))
            assert flipped or torch.equal(images, volume)
            mirrored.add(flipped)
    assert mirrored == {True, False}


def test_the_kl_term_is_that_of_torch(start: Start) -> None:
    training = start()
    images = training._batch(0)
    with torch.no_grad():
        _, losses = training._reconstruct(images, 0)
        mean, log_variance = training.network.encode(images)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    assert_close(losses["kl"], torch.distributions.kl_divergence(posterior, prior).mean())


def test_a_study_without_labels_trains_on_images_alone(start: Start, make_contract: Callable[..., Contract]) -> None:
    training = start(contract=make_contract(labels={}), adversarial_start=0.0)
    assert "autoencoder/label" not in training.step(0)
    assert training.validate().keys() == {"validation/psnr", "validation/ssim"}
