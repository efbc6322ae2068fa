"""Starts against closed forms of Gaussian data."""

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.applications.tasks.starts import HIGHEST, LOWEST, inverted, levels, noise, restarted, upwards
from meddiff_core.diffusion.solvers import solve_adams
from meddiff_core.types import Latents, Sigma


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise of latents of unit variance."""
    return noisy / (1 + sigma.reshape(-1, 1, 1, 1, 1) ** 2)


def latents(count: int = 1) -> Latents:
    return torch.randn((count, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))


def test_a_restart_adds_noise_of_its_level_and_seed() -> None:
    many = torch.cat([restarted(latents(), 3.0, seed) for seed in range(200)])
    assert_close(many, torch.cat([latents() + 3 * noise(seed, (1, 4, 4, 4)) for seed in range(200)]))
    assert float((many - latents()).std()) == pytest.approx(3, rel=0.03)


def test_the_way_up_ends_where_the_flow_of_gaussian_data_does(models) -> None:  # type: ignore[no-untyped-def]
    exact = latents() * ((HIGHEST**2 + 1) / (LOWEST**2 + 1)) ** 0.5
    assert_close(inverted(gaussian, latents(), levels(models, 60)), exact, rtol=3e-3, atol=0)


def test_there_and_back_is_the_start_with_the_levels_of_a_task(models) -> None:  # type: ignore[no-untyped-def]
    sigmas = levels(models, 15)
    back = solve_adams(gaussian, inverted(gaussian, latents(), sigmas), sigmas[:-1])
    assert float((back - latents()).square().mean().sqrt()) < 0.05


def test_a_guided_way_up_does_not_come_back(models) -> None:  # type: ignore[no-untyped-def]
    def guided(noisy: Latents, sigma: Sigma) -> Latents:
        worse = gaussian(noisy - 1, sigma) + 1
        return worse + 7 * (gaussian(noisy + 1, sigma) - 1 - worse)

    sigmas = levels(models, 15)
    errors = []
    for denoised_at in (gaussian, guided):
        back = solve_adams(denoised_at, inverted(denoised_at, latents(), sigmas), sigmas[:-1])
        errors.append(float((back - latents()).square().mean().sqrt()))
    assert errors[1] > 3 * errors[0]


def test_a_way_up_has_the_same_bits_alone_and_in_a_batch(models) -> None:  # type: ignore[no-untyped-def]
    sigmas = levels(models, 8)
    assert torch.equal(inverted(gaussian, latents(3), sigmas)[1:2], inverted(gaussian, latents(3)[1:2], sigmas))


def test_the_levels_upwards_are_those_above_0() -> None:
    assert upwards(torch.tensor([2.0, 1.0, 0.5, 0.0])).tolist() == [0.5, 1.0, 2.0]
