"""Fitted noise levels against closed forms: they go where the flow bends, and a walk over them ends nearer."""

import pytest
import torch

from meddiff_core.diffusion.fitting import LEADING, Trace, fit_levels, trace_flow
from meddiff_core.diffusion.noise import karras_sigmas
from meddiff_core.diffusion.solvers import SOLVERS
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Sigma

LOW, HIGH = 0.01, 40.0
SHAPE = (2, 4, 4, 8)
DEVIATIONS = torch.logspace(-2, 0.7, 256, dtype=torch.float64).reshape(SHAPE)
"""Of each element: from nearly the same in all samples to more than unit."""


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise, where every element has a standard deviation of its own."""
    variance = sigma.double().reshape(-1, 1, 1, 1, 1) ** 2
    return (noisy.double() * DEVIATIONS**2 / (DEVIATIONS**2 + variance)).float()


def noise(count: int, seed: int) -> Latents:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_flow(gaussian, noise(8, 0), LOW, HIGH)


def error(solver: str, sigmas: torch.Tensor) -> float:
    """Of the ends of walks from noise that the levels were not fitted to."""
    start = noise(4, 1) * HIGH
    flow = DEVIATIONS / (DEVIATIONS**2 + HIGH**2).sqrt()
    return float((SOLVERS[solver](gaussian, start, sigmas) - start * flow).square().mean().sqrt())


@pytest.mark.parametrize(
    ("solver", "count", "gain"),
    [("euler", 10, 1.2), ("heun", 8, 1.1), ("heun", 15, 1.2), ("dpmpp_2m", 8, 4), ("dpmpp_2m", 15, 3),
     ("adams", 8, 1.5), ("adams", 12, 3)],
)  # fmt: skip
def test_fitted_levels_beat_karras_at_equal_evaluations(trace: Trace, solver: str, count: int, gain: float) -> None:
    fitted = torch.tensor([*fit_levels(trace, solver, count), 0.0], dtype=torch.float64)
    karras = karras_sigmas(SamplingConfig(steps=count, sigma_min=LOW, sigma_max=HIGH))
    assert gain * error(solver, fitted) < error(solver, karras)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [2, 3, 12, 40])
def test_fitted_levels_are_those_of_a_study(trace: Trace, solver: str, count: int) -> None:
    """They fall from end to end, and as many as were asked for."""
    sigmas = SamplingConfig.model_validate({"sigmas": fit_levels(trace, solver, count)}).sigmas
    assert sigmas is not None
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (count, HIGH, LOW)


def test_the_levels_are_the_same_each_time(trace: Trace) -> None:
    again = trace_flow(gaussian, noise(8, 0), LOW, HIGH)
    assert fit_levels(again, "adams", 12) == fit_levels(trace, "adams", 12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_levels_gather_where_the_flow_bends(solver: str) -> None:
    """All data nearly at two places: the denoiser decides between them at one noise level."""

    def deciding(noisy: Latents, sigma: Sigma) -> Latents:
        return torch.tanh(noisy / sigma.reshape(-1, 1, 1, 1, 1) ** 2)

    levels = torch.tensor(fit_levels(trace_flow(deciding, noise(4, 0), LOW, HIGH), solver, 20))
    inside = ((levels > 0.2) & (levels < 5)).sum()
    assert inside > 1.2 * 20 * torch.log(torch.tensor(25.0)) / torch.log(torch.tensor(HIGH / LOW))


def test_a_straight_flow_has_even_levels() -> None:
    place = torch.full((2, *SHAPE), 3.0)
    levels = torch.tensor(fit_levels(trace_flow(lambda noisy, sigma: place, noise(2, 0), LOW, HIGH), "adams", 9))
    ratios = levels[1:] / levels[:-1]
    assert ratios.std() < 1e-3 * ratios.mean()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_errs_by_its_leading_term(solver: str) -> None:
    """For data whose flow is D = exp(a l) with l = -ln(sigma), all of whose derivatives are powers of a at l = 0."""
    foretold = [sum(factor * a**power for power, factor in enumerate(LEADING[solver].terms, 1)) for a in (1.0, 2.0)]
    assert last_step(solver, 2.0) / last_step(solver, 1.0) == pytest.approx(foretold[1] / foretold[0], rel=0.15)


def last_step(solver: str, a: float, step: float = 0.05) -> float:
    """What the last of four even steps around l = 0 adds to the error, by the closed form of dx/dl = D - x."""
    sigmas = torch.exp(-step * torch.arange(-3, 2, dtype=torch.float64))

    def growing(noisy: Latents, sigma: Sigma) -> Latents:
        return (-a * sigma.double().log()).exp().float().reshape(-1, 1, 1, 1, 1).expand_as(noisy)

    errors = []
    for count in (4, 5):
        places = -sigmas[:count].log()
        found = SOLVERS[solver](growing, torch.zeros((1, 1, 1, 1, 1), dtype=torch.float64), sigmas[:count])
        own = (a * places).exp() / (1 + a)
        errors.append(float(found) - float(own[-1] - own[0] * (places[0] - places[-1]).exp()))
    return errors[1] - errors[0] * float(sigmas[4] / sigmas[3])
