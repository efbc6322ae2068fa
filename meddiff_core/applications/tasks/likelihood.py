"""The log-likelihood of latents under the denoiser, by the change of variables along the probability flow.

The flow dx/dsigma = (x - denoised) / sigma carries data to Gaussian noise, whose density is known; the density changes
on the way by the flow's divergence (Chen et al. 2018; Song et al. 2021). The divergence is estimated by Hutchinson's
trace with signs of a seed. A high likelihood is no sign of a good scan: a blurred one is likelier than a sharp one.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from meddiff_core.applications.tasks.starts import upwards
from meddiff_core.diffusion.solvers import DenoisedAt, Sigmas
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import Latents

STEP = 0.02
"""Of the finite difference of the trace, in units of the noise level, over which a denoiser is nearly straight."""


def log_likelihood(denoised_at: DenoisedAt, latents: Latents, sigmas: Sigmas, seed: int, probes: int = 1) -> float:
    """Natural logarithm of the density of latents (1, z, u, v, w) with the noise of the lowest level.

    In u = ln(sigma) the flow is dx/du = x - denoised, with divergence n - trace(d denoised / dx). Path and integral
    are by Heun's method, one trace for each evaluation; at the highest level the data has unit variance.
    """
    x, total = latents.double(), 0.0
    rising = upwards(sigmas).tolist()
    slope, divergence = _flow(denoised_at, x, rising[0], (seed, 0), probes)
    for number, (sigma, higher) in enumerate(pairwise(rising), 1):
        length = math.log(higher / sigma)
        predicted = x + length * slope
        ahead, _ = _flow(denoised_at, predicted, higher, (seed, number), 0)
        x = x + length * (slope + ahead) / 2
        before = divergence
        slope, divergence = _flow(denoised_at, x, higher, (seed, number), probes)
        total += length * (before + divergence) / 2
    variance = rising[-1] ** 2 + 1
    return float(-0.5 * (x.square().sum() / variance + x.numel() * math.log(2 * math.pi * variance))) + total


def bits_per_dimension(log_likelihood: float, dimensions: int) -> float:
    """The negative of it in bits, per latent dimension: lower is likelier."""
    return -log_likelihood / (dimensions * math.log(2))


def _flow(denoised_at: DenoisedAt, x: Tensor, sigma: float, seed: tuple[int, int], probes: int) -> tuple[Tensor, float]:
    """dx/du and its divergence."""
    level = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
    denoised = denoised_at(x.float(), level).double()
    traces = [_trace(denoised_at, x, denoised, level, (*seed, probe)) for probe in range(probes)]
    return x - denoised, x.numel() - sum(traces) / max(1, probes)


def _trace(denoised_at: DenoisedAt, x: Tensor, denoised: Tensor, level: Tensor, seed: tuple[int, ...]) -> float:
    """Hutchinson's estimate (1990) by a forward difference, which packed networks without gradients allow."""
    signs = torch.randint(0, 2, x.shape, generator=generator_for("trace", *seed)).to(x) * 2 - 1
    step = STEP * float(level[0])
    moved = denoised_at((x + step * signs).float(), level).double()
    return float((signs * (moved - denoised)).sum() / step)
