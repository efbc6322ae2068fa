"""Training of the denoiser: bit for bit the same after a kill, and it learns what can be known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.diffusion.training import DenoiserTraining, hide_conditions
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.loop import run_training
from meddiff_core.study import DenoiserConfig

Start = Callable[..., DenoiserTraining]
STEPS = 5


@pytest.fixture
def start(contract: Contract) -> Start:
    """A fresh training on five latents, with changes of its settings."""

    def make(steps: int = STEPS, seed: int = 0, batch: int = 2, **changes: Any) -> DenoiserTraining:
        mean = 3 + 2 * torch.randn((5, 2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
        latents = LatentSet(mean, torch.full_like(mean, 0.2))
        ages = [{"age": 30.0 + number, "sex": "FM"[number % 2]} for number in range(5)]
        side = (latents, encode_conditions(ages, contract.conditions))
        shape = DenoiserShape(latent_channels=2, channels=(32, 32))
        return DenoiserTraining(
            shape, contract.conditions, DenoiserConfig(**changes), side, side, steps, batch=batch, seed=seed
        )

    return make


def same(one: DenoiserTraining, other: DenoiserTraining) -> bool:
    states = one.state(), other.state()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, start: Start, finish: Callable, threads: int) -> None:
    torch.set_num_threads(threads)
    whole, first, second = start(), start(), start()
    expected = finish(run_training(whole, STEPS, tmp_path / "whole", "key", 100))
    for progress in run_training(first, STEPS, tmp_path / "resume", "key", 2):
        if progress.done == 3:
            break
    assert (tmp_path / "resume").exists()
    found = finish(run_training(second, STEPS, tmp_path / "resume", "key", 2))
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
    for name, loss in start().validate().items():
        assert loss == pytest.approx(1, abs=0.35), name


def test_validation_is_the_same_whenever_it_is_asked_for(start: Start) -> None:
    training = start()
    assert training.validate() == training.validate()


def test_training_lowers_the_loss(start: Start) -> None:
    training = start(steps=25, learning_rate=2e-3)
    before = sum(training.validate().values())
    for step in range(25):
        training.step(step)
    assert sum(training.validate().values()) < 0.98 * before


def test_conditions_are_hidden_at_their_rates() -> None:
    """Each alone, and all of a sample together, with the same probability."""
    conditions = torch.zeros(20_000, 3)
    hidden = hide_conditions(conditions, 0.2, torch.Generator().manual_seed(0)).isnan()
    assert_close(hidden.float().mean(dim=0), torch.full((3,), 1 - 0.8**2), atol=0.015, rtol=0)
    assert hidden.all(dim=1).float().mean().item() == pytest.approx(0.2 + 0.8 * 0.2**3, abs=0.012)
    assert not conditions.isnan().any()


@pytest.mark.parametrize(("dropout", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_none_or_all_conditions_are_hidden_at_the_ends(dropout: float, share: float) -> None:
    hidden = hide_conditions(torch.zeros(50, 2), dropout, torch.Generator().manual_seed(0)).isnan()
    assert hidden.float().mean() == share


def test_a_kept_condition_is_unchanged_and_an_absent_one_stays_absent() -> None:
    conditions = torch.tensor([[1.5, torch.nan]]).repeat(100, 1)
    kept = hide_conditions(conditions, 0.3, torch.Generator().manual_seed(0))
    assert kept[:, 1].isnan().all()
    assert kept[:, 0][~kept[:, 0].isnan()].unique().tolist() == [1.5]


def test_a_study_without_conditions_hides_nothing() -> None:
    assert hide_conditions(torch.zeros(3, 0), 0.5, torch.Generator().manual_seed(0)).shape == (3, 0)
