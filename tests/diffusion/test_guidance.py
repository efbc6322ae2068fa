"""Guidance goes from the unconditional through the conditional and beyond, at the cost that it says."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.diffusion.guidance import guided
from meddiff_core.diffusion.noise import karras_sigmas
from meddiff_core.diffusion.solvers import evaluations, solve_heun
from meddiff_core.models.denoiser import Denoiser, DenoiserShape
from meddiff_core.study import SamplingConfig

CONDITIONS = torch.tensor([[1.0, 0.0], [math.nan, 1.0]])
SIGMA = torch.tensor([0.5, 2.0])


@pytest.fixture(scope="module")
def denoiser(contract: Contract) -> Denoiser:
    """With random weights everywhere: MONAI starts with zeros where a residual ends."""
    torch.manual_seed(0)
    network = Denoiser(DenoiserShape(latent_channels=2, channels=(32,)), contract.conditions).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def noisy() -> torch.Tensor:
    return torch.randn((2, 2, 4, 4, 4), generator=torch.Generator().manual_seed(0))


def test_a_guidance_of_one_is_the_conditioned_denoiser(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    assert torch.equal(guided(denoiser, CONDITIONS, 1.0)(noisy, SIGMA), denoiser(noisy, SIGMA, CONDITIONS))


def test_a_guidance_of_zero_is_the_unconditional_denoiser(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    absent = torch.full_like(CONDITIONS, torch.nan)
    assert_close(guided(denoiser, CONDITIONS, 0.0)(noisy, SIGMA), denoiser(noisy, SIGMA, absent))


def test_more_guidance_goes_further_along_the_same_line(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    at = {guidance: guided(denoiser, CONDITIONS, guidance)(noisy, SIGMA) for guidance in (0.0, 1.0, 2.5)}
    assert (at[1.0] - at[0.0]).abs().max() > 1e-3
    assert_close(at[2.5] - at[0.0], 2.5 * (at[1.0] - at[0.0]))


def test_autoguidance_leads_away_from_the_earlier_weights(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    guide = copy.deepcopy(denoiser)
    for parameter in guide.parameters():
        parameter.mul_(0.5)
    now, before = (network(noisy, SIGMA, CONDITIONS) for network in (denoiser, guide))
    found = guided(denoiser, CONDITIONS, 3.0, guide=guide)(noisy, SIGMA)
    assert (now - before).abs().max() > 1e-3
    assert_close(found - before, 3.0 * (now - before))
    assert torch.equal(guided(denoiser, CONDITIONS, 1.0, guide=guide)(noisy, SIGMA), now)


@pytest.mark.parametrize(("guidance", "calls_each"), [(1.0, 1), (0.0, 2), (2.0, 2)])
def test_evaluations_are_counted_right(
    denoiser: Denoiser, noisy: torch.Tensor, guidance: float, calls_each: int
) -> None:
    calls = []
    handle = denoiser.register_forward_hook(lambda *_: calls.append(1))
    solve_heun(guided(denoiser, CONDITIONS, guidance), noisy, karras_sigmas(SamplingConfig(steps=4)))
    handle.remove()
    assert len(calls) == calls_each * evaluations("heun", 4)


@pytest.mark.parametrize(("level", "acts"), [(0.4, False), (0.5, True), (1.0, True), (2.0, True), (2.1, False)])
def test_guidance_acts_within_its_interval_alone(
    denoiser: Denoiser, noisy: torch.Tensor, level: float, acts: bool
) -> None:
    sigma = torch.full((2,), level)
    found = guided(denoiser, CONDITIONS, 3.0, (0.5, 2.0))(noisy, sigma)
    same = guided(denoiser, CONDITIONS, 3.0 if acts else 1.0)(noisy, sigma)
    assert torch.equal(found, same)
    assert not torch.equal(found, guided(denoiser, CONDITIONS, 1.0 if acts else 3.0)(noisy, sigma))
