"""Solvers against a closed form: for Gaussian data the flow is known at every noise level."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from meddiff_core.diffusion.noise import karras_sigmas
from meddiff_core.diffusion.solvers import (
    SOLVERS,
    evaluations,
    solve_adams,
    solve_ancestral,
    solve_dpmpp_2m,
    solve_euler,
    solve_heun,
)
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Sigma

DEVIATION = 0.5
LOW, HIGH = 0.05, 20.0
Solver = Callable[..., Latents]


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise, for data of standard deviation 0.5, in double precision."""
    level = sigma.double().reshape(-1, 1, 1, 1, 1)
    return (noisy.double() * DEVIATION**2 / (level**2 + DEVIATION**2)).float()


def start() -> Latents:
    noise = torch.randn((2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    return noise * (HIGH**2 + DEVIATION**2) ** 0.5


def exact(level: float) -> Latents:
    """Where the flow from `start` is at a level: it keeps the ratio to the standard deviation of noisy data."""
    return start() * ((level**2 + DEVIATION**2) / (HIGH**2 + DEVIATION**2)) ** 0.5


def levels(steps: int) -> torch.Tensor:
    """Without the last step to 0, whose length does not shrink with the number of steps."""
    return karras_sigmas(SamplingConfig(steps=steps + 1, sigma_min=LOW, sigma_max=HIGH))[:-1]


def error(solve: Solver, steps: int) -> float:
    return float((solve(gaussian, start(), levels(steps)) - exact(LOW)).abs().max())


@pytest.mark.parametrize(("solve", "order"), [(solve_euler, 1), (solve_heun, 2), (solve_dpmpp_2m, 2), (solve_adams, 3)])
def test_the_error_falls_with_the_order_of_the_solver(solve: Solver, order: int) -> None:
    counts = np.array([16, 32, 64, 128]) if order < 3 else np.array([24, 32, 48, 64, 96])
    errors = [error(solve, steps) for steps in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.35 if order == 3 else 0.2)


def test_heun_is_nearer_than_euler_for_the_same_evaluations() -> None:
    assert error(solve_heun, 16) < error(solve_euler, 32) / 2


def test_default_settings_reach_the_deviation_of_the_data() -> None:
    config = SamplingConfig()
    noise = torch.randn((64, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    found = SOLVERS[config.solver](gaussian, noise * config.sigma_max, karras_sigmas(config))
    assert (found.std() / noise.std()).item() == pytest.approx(DEVIATION, rel=0.05)


def test_a_point_is_reached_from_anywhere() -> None:
    """All data at one place: the denoiser is a constant, the flow a straight line."""
    place = torch.full((2, 1, 4, 4, 4), 3.0)
    sigmas = karras_sigmas(SamplingConfig(steps=5))
    for solve in SOLVERS.values():
        assert_close(solve(lambda noisy, sigma: place, start(), sigmas), place)


@pytest.mark.parametrize("steps", [1, 2, 18])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_evaluates_as_often_as_it_says(solver: str, steps: int) -> None:
    calls: list[float] = []

    def counted(noisy: Latents, sigma: Sigma) -> Latents:
        calls.append(float(sigma[0]))
        return gaussian(noisy, sigma)

    SOLVERS[solver](counted, start(), karras_sigmas(SamplingConfig(steps=steps)))
    assert len(calls) == evaluations(solver, steps)
    assert min(calls) > 0


@pytest.mark.parametrize("solve", [solve_dpmpp_2m, solve_adams])
def test_a_multistep_solver_is_nearer_than_heun_for_the_same_evaluations(solve: Solver) -> None:
    assert error(solve, 24) < error(solve_heun, 12)


def test_dpm_solver_is_the_formula_of_its_paper() -> None:
    """x' = (s'/s) x - (exp(-h) - 1) ((1 + 1 / 2r) D - 1 / 2r D_before), with r the ratio of the steps in lambda."""
    sigmas = levels(3)
    x, before = start().double(), None
    for number, (sigma, lower) in enumerate(pairwise(sigmas)):
        now = x * DEVIATION**2 / (sigma**2 + DEVIATION**2)
        h = (sigma / lower).log()
        r = (sigmas[number - 1] / sigma).log() / h
        ahead = now if before is None else (1 + 1 / (2 * r)) * now - before / (2 * r)
        x, before = lower / sigma * x - ((-h).exp() - 1) * ahead, now
    assert_close(solve_dpmpp_2m(gaussian, start(), sigmas), x.float(), rtol=1e-5, atol=1e-6)


def test_adams_integrates_what_is_a_parabola_in_lambda_exactly() -> None:
    """Against many small steps of Euler's method in lambda, from the third level on."""

    def parabola(noisy: Latents, sigma: Sigma) -> Latents:
        place = -sigma.double().log().reshape(-1, 1, 1, 1, 1)
        return (1 + 2 * place - 0.5 * place**2).float().expand_as(noisy)

    def exactly(x: torch.Tensor, high: float, low: float) -> torch.Tensor:
        """A particular solution of dx/dl = d - x for d = 1 + 2 l - l^2 / 2 is -l^2 / 2 + 3 l - 2."""
        one, other = (-np.log(level) for level in (high, low))
        own = [-(place**2) / 2 + 3 * place - 2 for place in (one, other)]
        return own[1] + (x - own[0]) * low / high

    sigmas = levels(6)
    two = solve_adams(parabola, start(), sigmas[:3])
    found = solve_adams(parabola, start(), sigmas)
    assert_close(found.double(), exactly(two.double(), float(sigmas[2]), float(sigmas[-1])), rtol=1e-5, atol=1e-5)


def test_ancestral_noise_leaves_the_deviation_of_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (64, 1, 8, 8, 8)
    noise = torch.randn(shape, generator=generator) * (HIGH**2 + DEVIATION**2) ** 0.5
    sigmas = torch.cat([levels(300), torch.zeros(1, dtype=torch.float64)])
    found = solve_ancestral(gaussian, noise, sigmas, lambda n: torch.randn(shape, generator=generator))
    assert found.std().item() == pytest.approx(DEVIATION, rel=0.05)


def test_ancestral_without_noise_walks_towards_the_data() -> None:
    asked: list[int] = []

    def silent(number: int) -> Latents:
        asked.append(number)
        return torch.zeros_like(start())

    sigmas = torch.cat([levels(4), torch.zeros(1, dtype=torch.float64)])
    found = solve_ancestral(gaussian, start(), sigmas, silent)
    assert asked == [0, 1, 2, 3]
    assert found.std() < DEVIATION


def test_the_denoiser_is_asked_in_the_precision_of_networks_for_every_sample() -> None:
    def strict(noisy: Latents, sigma: Sigma) -> Latents:
        assert (noisy.dtype, sigma.dtype, sigma.shape) == (torch.float32, torch.float32, (2,))
        return gaussian(noisy, sigma)

    assert solve_heun(strict, start(), levels(3)).dtype == torch.float32


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_does_not_depend_on_its_batch_mates(solver: str) -> None:
    both = SOLVERS[solver](gaussian, start(), levels(9))
    assert torch.equal(SOLVERS[solver](gaussian, start()[1:], levels(9)), both[1:])
