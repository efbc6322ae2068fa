"""Solvers of the probability flow dx/dsigma = (x - denoised(x, sigma)) / sigma, from noise to data.

A solver gets the noise levels, not a number of steps, and knows nothing of networks, conditions or
batches. Sums are made in float64, so that a long walk adds no rounding of its own.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.types import Latents, Sigma

DenoisedAt = Callable[[Latents, Sigma], Latents]
"""Noisy latents and noise level of each sample, to their expectation without noise."""
Sigmas = Float[Tensor, " levels"]
"""Decreasing, ending in 0."""


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


def heun_evaluations(steps: int) -> int:
    """Network evaluations of `solve_heun` over `steps` noise levels above 0."""
    return 2 * steps - 1


def _slope(denoiser: DenoisedAt, x: Float[Tensor, "b z u v w"], sigma: Float[Tensor, ""]) -> Tensor:
    levels = sigma.to(torch.float32).expand(len(x)).to(x.device)
    return (x - denoiser(x.float(), levels).double()) / sigma.to(x.device)
