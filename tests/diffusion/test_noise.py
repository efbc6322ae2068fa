"""Noise levels fall from end to end, and those of training cover their distribution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from meddiff_core.diffusion.noise import karras_sigmas, loss_weight, noise_levels, training_sigmas
from meddiff_core.study import SamplingConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(st.integers(2, 60), st.floats(1e-3, 0.1), st.floats(0.5, 200), st.floats(1, 12))
def test_levels_fall_from_the_highest_to_the_lowest_and_then_to_zero(
    steps: int, low: float, high: float, rho: float
) -> None:
    sigmas = karras_sigmas(SamplingConfig(steps=steps, sigma_min=low, sigma_max=high, rho=rho))
    assert len(sigmas) == steps + 1
    assert sigmas.diff().max() < 0
    assert sigmas[0].item() == pytest.approx(high, rel=1e-12)
    assert sigmas[-2].item() == pytest.approx(low, rel=1e-9)
    assert sigmas[-1] == 0


def test_levels_are_those_of_equation_5() -> None:
    config = SamplingConfig(steps=5, sigma_min=0.02, sigma_max=50, rho=3)
    high, low = 50 ** (1 / 3), 0.02 ** (1 / 3)
    expected = [(high + step / 4 * (low - high)) ** 3 for step in range(5)]
    assert karras_sigmas(config).tolist() == pytest.approx([*expected, 0])


def test_one_step_goes_from_the_highest_level_to_zero() -> None:
    assert karras_sigmas(SamplingConfig(steps=1)).tolist() == pytest.approx([40, 0])


def test_levels_that_a_study_gives_are_taken_as_they_are() -> None:
    config = SamplingConfig(steps=9, sigmas=(30.0, 1.1, 0.02))
    assert noise_levels(config).tolist() == [30.0, 1.1, 0.02, 0.0]
    assert noise_levels(config).dtype == torch.float64
    without = config.model_copy(update={"sigmas": None})
    assert torch.equal(noise_levels(without), karras_sigmas(without))


def test_training_levels_are_log_normal() -> None:
    drawn = torch.cat([training_sigmas(8, -0.4, 1.2, generator(seed)) for seed in range(4000)]).log()
    assert drawn.mean().item() == pytest.approx(-0.4, abs=0.01)
    assert drawn.std().item() == pytest.approx(1.2, abs=0.01)
    skewness = (((drawn + 0.4) / 1.2) ** 3).mean()
    kurtosis = (((drawn + 0.4) / 1.2) ** 4).mean()
    assert_close(torch.stack([skewness, kurtosis]), torch.tensor([0.0, 3.0]), atol=0.1, rtol=0)


@pytest.mark.parametrize("count", [1, 4, 32])
def test_a_batch_has_one_level_of_each_stratum(count: int) -> None:
    sigmas = training_sigmas(count, 0.3, 0.7, generator(3))
    shares = torch.special.ndtr((sigmas.log() - 0.3) / 0.7)
    assert sorted((shares * count).floor().int().tolist()) == list(range(count))


def test_no_place_of_the_batch_is_kept_for_a_stratum() -> None:
    highest = [training_sigmas(4, 0, 1, generator(seed)).argmax().item() for seed in range(40)]
    assert set(highest) == {0, 1, 2, 3}


def test_levels_are_finite_at_the_far_ends() -> None:
    sigmas = torch.cat([training_sigmas(4096, 0, 1.2, generator(seed)) for seed in range(50)])
    assert sigmas.isfinite().all()
    assert (sigmas > 0).all()


def test_the_weight_makes_every_level_count_alike_before_training() -> None:
    """A network that says 0 has the error (sigma_data sigma)^2 / (sigma^2 + sigma_data^2) on Gaussians."""
    sigma = torch.logspace(-2, 2, 9)
    for data in (0.5, 1.0):
        error = (data * sigma) ** 2 / (sigma**2 + data**2)
        assert_close(loss_weight(sigma, data) * error, torch.ones(9))
