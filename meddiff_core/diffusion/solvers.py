"""Solvers of the probability flow dx/dsigma = (x - denoised(x, sigma)) / sigma, from noise to data.

A solver gets the noise levels, not a number of steps, and knows nothing of networks, conditions or
batches. Sums are made in float64, so that a long walk adds no rounding of its own.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.types import Latents, Sigma

DenoisedAt = Callable[[Latents, Sigma], Latents]
"""Noisy latents and noise level of each sample, to their expectation without noise."""
Sigmas = Float[Tensor, " levels"]
"""Decreasing, ending in 0."""
NoiseAt = Callable[[int], Latents]


def solve_euler(denoiser: DenoisedAt, latents: Latents, sigmas: Sigmas) -> Latents:
    """First order, one evaluation a level."""
    x = latents.double()
    for sigma, lower in pairwise(sigmas):
        x = x + (lower - sigma) * _slope(denoiser, x, sigma)
    return x.to(latents.dtype)


def solve_heun(denoiser: DenoisedAt, latents: Latents, sigmas: Sigmas) -> Latents:
    """Second order, two evaluations a level and one for the last (Karras et al. 2022, algorithm 1, no churn)."""
    x = latents.double()
    for sigma, lower in pairwise(sigmas):
        slope = _slope(denoiser, x, sigma)
        predicted = x + (lower - sigma) * slope
        if lower > 0:
            slope = (slope + _slope(denoiser, predicted, lower)) / 2
            predicted = x + (lower - sigma) * slope
        x = predicted
    return x.to(latents.dtype)


def solve_dpmpp_2m(denoiser: DenoisedAt, latents: Latents, sigmas: Sigmas) -> Latents:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, one evaluation a level.

    In lambda = -ln(sigma) the flow is dx = (denoised - x) dlambda, of which the linear part is solved exactly.
    """
    x, before, length = latents.double(), None, 0.0
    for sigma, lower in pairwise(sigmas.tolist()):
        now = _denoised(denoiser, x, sigma)
        step = math.log(sigma / lower) if lower > 0 else math.inf
        ahead = now
        if before is not None and lower > 0:
            ahead = now + (now - before) * (step / (2 * length))
        x = lower / sigma * x - math.expm1(-step) * ahead
        before, length = now, step
    return x.to(latents.dtype)


def solve_adams(denoiser: DenoisedAt, latents: Latents, sigmas: Sigmas) -> Latents:
    """Exponential Adams-Bashforth of third order, one evaluation a level (Hochbruck & Ostermann 2010, section 2.5).

    The denoised latents of the last three levels are continued by a polynomial in lambda = -ln(sigma), whose
    part of the step is integrated exactly. The first two steps have fewer levels to look back on.
    """
    x, seen = latents.double(), list[tuple[float, Tensor]]()
    for sigma, lower in pairwise(sigmas.tolist()):
        seen = [(-math.log(sigma), _denoised(denoiser, x, sigma)), *seen[:2]]
        if lower == 0:
            return seen[0][1].to(latents.dtype)
        weights = _adams_weights([place - seen[0][0] for place, _ in seen], math.log(sigma / lower))
        x = lower / sigma * x + sum(weight * denoised for weight, (_, denoised) in zip(weights, seen, strict=True))
    return x.to(latents.dtype)


def _adams_weights(places: Sequence[float], step: float) -> list[float]:
    """Weights of values at `places` in the integral of exp(s - step) times their polynomial, s from 0 to `step`."""
    moments = [-math.expm1(-step)]
    for power in range(1, len(places)):
        moments.append(step**power - power * moments[-1])
    powers = np.vander(places, increasing=True).T
    return [float(weight) for weight in np.linalg.solve(powers, moments)]


def solve_ancestral(denoiser: DenoisedAt, latents: Latents, sigmas: Sigmas, noise_at: NoiseAt) -> Latents:
    """Ancestral sampling: first order with new noise at each level that keeps the marginals (Song et al. 2021).

    `noise_at(n)` is standard normal noise for the n-th level, of the latents' shape.
    """
    x = latents.double()
    for number, (sigma, lower) in enumerate(pairwise(sigmas.tolist())):
        sigma_up = lower * math.sqrt(1 - (lower / sigma) ** 2)
        sigma_down = math.sqrt(lower**2 - sigma_up**2)
        denoised = _denoised(denoiser, x, sigma)
        x = denoised + sigma_down / sigma * (x - denoised)
        if sigma_up > 0:
            x = x + sigma_up * noise_at(number).to(x)
    return x.to(latents.dtype)


def evaluations(solver: str, levels: int) -> int:
    """Network evaluations of a solver, by its name in a study, over so many noise levels above 0."""
    return 2 * levels - 1 if solver == "heun" else levels


def _slope(denoiser: DenoisedAt, x: Float[Tensor, "b z u v w"], sigma: Float[Tensor, ""]) -> Tensor:
    return (x - _denoised(denoiser, x, float(sigma))) / sigma.to(x.device)


def _denoised(denoiser: DenoisedAt, x: Float[Tensor, "b z u v w"], sigma: float) -> Float[Tensor, "b z u v w"]:
    levels = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
    return denoiser(x.float(), levels).double()


SOLVERS: dict[str, Callable[[DenoisedAt, Latents, Sigmas], Latents]] = {
    "heun": solve_heun,
    "euler": solve_euler,
    "dpmpp_2m": solve_dpmpp_2m,
    "adams": solve_adams,
}
"""The deterministic ones, by their names in a study."""
