"""Solvers against a closed form: for Gaussian data the flow is known at every noise level."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from meddiff_core.diffusion.noise import karras_sigmas
from meddiff_core.diffusion.solvers import heun_evaluations, solve_euler, solve_heun
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Sigma

DEVIATION = 0.5
LOW, HIGH = 0.05, 20.0
Solver = Callable[..., Latents]


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise, for data of deviation 0.5, in double precision."""
    level = sigma.double().reshape(-1, 1, 1, 1, 1)
    return (noisy.double() * DEVIATION**2 / (level**2 + DEVIATION**2)).float()


def start() -> Latents:
    noise = torch.randn((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    return noise * (HIGH**2 + DEVIATION**2) ** 0.5


def exact(level: float) -> Latents:
    """Where the flow from `start` is at a level: it keeps the ratio to the deviation of noisy data."""
    return start() * ((level**2 + DEVIATION**2) / (HIGH**2 + DEVIATION**2)) ** 0.5


def levels(steps: int) -> torch.Tensor:
    """Without the last step to 0, whose length does not shrink with the number of steps."""
    return karras_sigmas(SamplingConfig(steps=steps + 1, sigma_min=LOW, sigma_max=HIGH))[:-1]


def error(solve: Solver, steps: int) -> float:
    return float((solve(gaussian, start(), levels(steps)) - exact(LOW)).abs().max())


@pytest.mark.parametrize(("solve", "order"), [(solve_euler, 1), (solve_heun, 2)])
def test_the_error_falls_with_the_order_of_the_solver(solve: Solver, order: int) -> None:
    counts = np.array([16, 32, 64, 128])
    errors = [error(solve, steps) for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.15)


def test_heun_is_nearer_than_euler_for_the_same_evaluations() -> None:
    assert error(solve_heun, 16) < error(solve_euler, 32) / 2


def test_default_settings_reach_the_deviation_of_the_data() -> None:
    config = SamplingConfig()
    noise = torch.randn((64, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    found = solve_heun(gaussian, noise * config.sigma_max, karras_sigmas(config))
    assert (found.std() / noise.std()).item() == pytest.approx(DEVIATION, rel=0.05)


def test_a_point_is_reached_from_anywhere() -> None:
    """All data at one place: the denoiser is a constant, the flow a straight line."""
    place = torch.full((2, 1, 4, 4, 4), 3.0)
    sigmas = karras_sigmas(SamplingConfig(steps=5))
    for solve in (solve_euler, solve_heun):
        assert_close(solve(lambda noisy, sigma: place, start(), sigmas), place)


@pytest.mark.parametrize("steps", [1, 2, 18])
def test_heun_evaluates_as_often_as_it_says(steps: int) -> None:
    calls: list[float] = []

    def counted(noisy: Latents, sigma: Sigma) -> Latents:
        calls.append(float(sigma[0]))
        return gaussian(noisy, sigma)

    solve_heun(counted, start(), karras_sigmas(SamplingConfig(steps=steps)))
    assert len(calls) == heun_evaluations(steps)
    assert min(calls) > 0
    calls.clear()
    solve_euler(counted, start(), karras_sigmas(SamplingConfig(steps=steps)))
    assert len(calls) == steps


def test_the_denoiser_is_asked_in_the_precision_of_networks_for_every_sample() -> None:
    def strict(noisy: Latents, sigma: Sigma) -> Latents:
        assert (noisy.dtype, sigma.dtype, sigma.shape) == (torch.float32, torch.float32, (2,))
        return gaussian(noisy, sigma)

    assert solve_heun(strict, start(), levels(3)).dtype == torch.float32


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    both = solve_heun(gaussian, start(), levels(9))
    assert torch.equal(solve_heun(gaussian, start()[1:], levels(9)), both[1:])
