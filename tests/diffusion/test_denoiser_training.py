"""Training of the denoiser: bit for bit the same after a kill, and it learns what can be known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.diffusion import training as denoiser_training
from meddiff_core.diffusion.checkpoint_selection import (
    UNKNOWN,
    Denoise,
    MembershipAttack,
    MembershipScore,
    SampleScore,
)
from meddiff_core.diffusion.training import DenoiserTraining, drop_conditions
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.conditions import AUGMENT_DIM
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.latents import AugmentedLatents, LatentSet
from meddiff_core.models.training.loop import run_training
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.study import DenoiserConfig
from meddiff_core.types import Latents
from tests.diffusion.small import small_side

Start = Callable[..., DenoiserTraining]
STEPS = 5


@pytest.fixture(autouse=True)
def _few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples to score take most of the time of so small a training."""
    coarse = denoiser_training.SCORED_WITH.model_copy(update={"steps": 2})
    monkeypatch.setattr(denoiser_training, "SCORED_WITH", coarse)


@pytest.fixture
def start(contract: Contract) -> Start:
    """A fresh training on five latents, with changes of its settings."""

    def make(
        steps: int = STEPS,
        seed: int = 0,
        batch: int = 2,
        ranks: Ranks = Ranks(),
        attack: MembershipAttack | None = None,
        **changes: Any,
    ) -> DenoiserTraining:
        side = small_side(contract, centre=3, std=2)
        shape = DenoiserShape(latent_channels=2, channels=(32, 32))
        augmented = AugmentedLatents(LatentSet(side[0].mean.flip(2), side[0].std), torch.eye(AUGMENT_DIM)[[0] * 5], 5)
        config = DenoiserConfig(**changes)
        return DenoiserTraining(
            shape,
            contract.conditions,
            config,
            side,
            side,
            steps,
            batch,
            seed,
            augmented=augmented,
            scorer=score_spread,
            attack=attack,
            ranks=ranks,
        )

    return make


class FixedAttack:
    """An attack that succeeds or fails whatever the weights are, and notes whether they differ from the early ones."""

    def __init__(self, betrays: bool) -> None:
        self.betrays, self.asked = betrays, list[bool]()

    def __call__(self, denoise: Denoise, early: Denoise, device: str) -> MembershipScore:
        noisy, sigma = torch.ones(1, 2, 4, 4, 4), torch.ones(1)
        given = torch.full((1, 2), torch.nan)
        self.asked.append(bool((denoise(noisy, sigma, given) != early(noisy, sigma, given)).any()))
        return MembershipScore(auc=0.9, low=0.8, high=0.95, limit=0.75) if self.betrays else UNKNOWN


@pytest.mark.parametrize("betrays", [True, False])
def test_weights_are_attacked_at_each_scored_validation(start: Start, betrays: bool) -> None:
    attack = FixedAttack(betrays)
    training = start(steps=10, attack=attack)
    for step in range(10):
        training.step(step)
        if step in (1, 4, 9):
            assert all(map(math.isfinite, training.validate(step + 1).values()))
    assert len(attack.asked) == 4  # two averages, from 0.3 of the steps on
    assert any(attack.asked)
    curve = training.result()[1]["choice"]["curve"]  # type: ignore[index]
    assert [point["membership"]["auc"] for point in curve] == [0.9 if betrays else 0.5] * 4
    assert training.finished == betrays


def score_spread(samples: Latents) -> SampleScore:
    """Of the samples' spread, so that any other weights score differently."""
    far = float(samples.std())
    return SampleScore(validation_distance=far, train_distance=far, nearer_train=0.5, nearer_train_low=0.4)


def same(one: DenoiserTraining, other: DenoiserTraining) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, start: Start, finish: Callable, threads: int) -> None:
    torch.set_num_threads(threads)
    whole, first, second = start(), start(), start()
    expected = finish(run_training(whole, tmp_path / "whole", "key", 100))
    for progress in run_training(first, tmp_path / "resume", "key", 2):
        if progress.done == 3:
            break
    assert (tmp_path / "resume").exists()
    found = finish(run_training(second, tmp_path / "resume", "key", 2))
    assert same(whole, second)
    assert found == expected


def test_the_seed_decides_the_training_and_nothing_else_does(start: Start) -> None:
    torch.manual_seed(1)
    one = start()
    torch.manual_seed(2)
    other = start()
    assert float(one.step(0)["denoiser/loss"]) == float(other.step(0)["denoiser/loss"])
    assert same(one, other)
    assert not same(one, start(seed=1))


def test_latents_reach_the_network_standardised(start: Start) -> None:
    scale = start().scale
    assert scale.mean == pytest.approx([3, 3], abs=0.6)
    assert scale.std == pytest.approx([2, 2], abs=0.4)


def test_an_untrained_network_has_a_loss_of_about_one_at_every_level(start: Start) -> None:
    """The weights of table 1 are made for that; latents that were not standardised would show here."""
    for name, loss in start().validate(0).items():
        assert loss == pytest.approx(1, abs=0.35), name


def test_validation_is_the_same_whenever_it_is_asked_for(start: Start) -> None:
    training = start()
    assert training.validate(0) == training.validate(0)


def test_training_lowers_the_loss(start: Start) -> None:
    training = start(steps=100, learning_rate=5e-3, augmented_share=0.0)
    before = sum(training.validate(0).values())
    for step in range(100):
        training.step(step)
    assert sum(training.validate(0).values()) < 0.98 * before


@pytest.mark.parametrize("accumulation_steps", [2, 3, 5])
def test_micro_batches_give_the_gradients_of_the_whole(start: Start, accumulation_steps: int) -> None:
    whole, cut = start(batch=5), start(batch=5)
    cut.accumulation_steps = accumulation_steps
    losses = [float(training.step(0)["denoiser/loss"]) for training in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for one, other in zip(whole.network.parameters(), cut.network.parameters(), strict=True):
        assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)


def test_the_micro_batches_of_two_processes_add_up_to_the_whole(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clipping: that needs the sum."""
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: None)
    monkeypatch.setattr(Ranks, "sum_gradients", lambda self, network: None)
    monkeypatch.setattr(Ranks, "sum_losses", lambda self, losses: losses)
    whole, *ranks = start(batch=3), start(batch=3, ranks=Ranks(0, 2)), start(batch=3, ranks=Ranks(1, 2))
    losses = [float(training.step(0)["denoiser/loss"]) for training in (whole, *ranks)]
    assert losses[1] + losses[2] == pytest.approx(losses[0], rel=1e-5)
    for one, *parts in zip(*(training.network.parameters() for training in (whole, *ranks)), strict=True):
        assert_close(parts[0].grad + parts[1].grad, one.grad, rtol=1e-4, atol=1e-6)


def test_recomputed_activations_change_no_gradient(start: Start) -> None:
    kept, recomputed = start(), start(gradient_checkpointing=True)
    for training in (kept, recomputed):
        training.step(0)
    for one, other in zip(kept.network.parameters(), recomputed.network.parameters(), strict=True):
        assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-7)


def test_the_weights_with_the_best_samples_are_kept(start: Start) -> None:
    training = start(steps=8, ema_std=(0.05, 0.2))
    for step in range(8):
        training.step(step)
        training.validate(step + 1)
    network, facts = training.result()
    points = facts["choice"]["curve"]
    assert {point["average"] for point in points} == {"0.05", "0.2"}
    assert {point["step"] for point in points} == {3, 4, 5, 6, 7, 8}
    best = min(points, key=lambda point: point["validation_distance"])
    assert (facts["choice"]["step"], facts["choice"]["average"]) == (best["step"], best["average"])
    assert score_spread(training.sample_latents(network)).validation_distance == best["validation_distance"]


def test_augmented_volumes_are_seen_at_their_rate_and_the_network_knows(start: Start) -> None:
    for share in (0.0, 0.3, 1.0):
        training = start(batch=2000, augmented_share=share, condition_dropout=0.0)
        clean, _, _, conditions = training._batch(0)
        augmented = conditions[:, 2:].any(dim=1)
        assert augmented.float().mean().item() == pytest.approx(share, abs=0.04)
        means = training.scale.standardise(training.train[0].mean)
        plain = torch.cdist(clean.flatten(1), means.flatten(1)).min(dim=1).values
        mirrored = torch.cdist(clean.flatten(1), means.flip(2).flatten(1)).min(dim=1).values
        assert ((mirrored < plain) == augmented).all()


def test_the_noise_levels_of_the_study_are_used(start: Start) -> None:
    _, _, sigma, _ = start(batch=4000, sigma_mean=0.7, sigma_std=0.3)._batch(0)
    assert sigma.log().mean().item() == pytest.approx(0.7, abs=0.02)
    assert sigma.log().std().item() == pytest.approx(0.3, abs=0.02)


def test_uncertainty_weighting_trains_the_expected_error_of_each_level(start: Start) -> None:
    training = start(steps=60, batch=4, learning_rate=5e-3, sigma_std=2.0)
    for step in range(60):
        training.step(step)
    low, high = training.uncertainty(torch.tensor([0.02, 20.0])).tolist()
    assert abs(low - high) > 0.05
    before = [parameter.clone() for parameter in start(uncertainty_weighting=False).uncertainty.parameters()]
    without = start(uncertainty_weighting=False)
    without.step(0)
    assert all(torch.equal(one, other) for one, other in zip(before, without.uncertainty.parameters(), strict=True))


def test_latents_of_another_scale_are_refused_by_channel(start: Start) -> None:
    from meddiff_core.models.latents import require_scale

    training = start()
    latents = training.train[0]
    wide = latents.mean.clone()
    wide[:, 1] = 3 + 4 * (wide[:, 1] - 3)
    with pytest.raises(ConfigurationError, match=r"latent channel 1 must have about mean .* and standard deviation 2"):
        require_scale(training.scale, LatentSet(wide, latents.std))
    with pytest.raises(ConfigurationError, match="latent channel 0 must have about"):
        require_scale(LatentSet(torch.ones_like(latents.mean), torch.zeros_like(latents.std)).scale(), latents)


def test_conditions_are_dropped_at_their_rates() -> None:
    """Each alone, and all of a sample together, with the same probability."""
    conditions = torch.zeros(20_000, 3)
    dropped = drop_conditions(conditions, 0.2, torch.Generator().manual_seed(0)).isnan()
    assert_close(dropped.float().mean(dim=0), torch.full((3,), 1 - 0.8**2), atol=0.015, rtol=0)
    assert dropped.all(dim=1).float().mean().item() == pytest.approx(0.2 + 0.8 * 0.2**3, abs=0.012)
    assert not conditions.isnan().any()


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_none_or_all_conditions_are_dropped_at_the_ends(dropout: float, share: float) -> None:
    dropped = drop_conditions(torch.zeros(50, 2), dropout, torch.Generator().manual_seed(0)).isnan()
    assert dropped.float().mean() == share


def test_a_kept_condition_is_unchanged_and_an_absent_one_stays_absent() -> None:
    conditions = torch.tensor([[1.5, torch.nan]]).repeat(100, 1)
    kept = drop_conditions(conditions, 0.3, torch.Generator().manual_seed(0))
    assert kept[:, 1].isnan().all()
    assert kept[:, 0][~kept[:, 0].isnan()].unique().tolist() == [1.5]


def test_a_study_without_conditions_drops_nothing() -> None:
    assert drop_conditions(torch.zeros(3, 0), 0.5, torch.Generator().manual_seed(0)).shape == (3, 0)
