"""Guidance on denoised latents: away from what a worse guess says.

The worse guess is the denoiser without conditions (classifier-free, Ho & Salimans 2022) or an earlier version of it
with the same conditions (autoguidance, Karras et al. 2024, "Guiding a diffusion model with a bad version of itself").
"""

import math

import torch

from meddiff_core.diffusion.solvers import DenoisedAt
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.denoiser import Denoiser
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Sigma


def guided(
    denoiser: Denoiser,
    conditions: ConditionVectors,
    guidance: float,
    interval: tuple[float, float] = (0.0, math.inf),
    guide: Denoiser | None = None,
) -> DenoisedAt:
    """`worse + guidance * (conditioned - worse)`; a guidance of 1 costs one evaluation instead of two.

    `worse` is what the `guide` says under the same conditions, or without a guide what the denoiser says under none.

    It acts at noise levels within `interval` alone, ends included (Kynkaanniemi et al. 2024): at high ones it costs
    variety, at low ones it changes little. Outside, the denoiser follows the conditions as trained.
    """

    def conditioned(noisy: Latents, sigma: Sigma) -> Latents:
        denoised: Latents = denoiser(noisy, sigma, conditions)
        return denoised

    def weaker(noisy: Latents, sigma: Sigma) -> Latents:
        given = torch.full_like(conditions, torch.nan) if guide is None else conditions
        denoised: Latents = (guide or denoiser)(noisy, sigma, given)
        return denoised

    def contrasted(noisy: Latents, sigma: Sigma) -> Latents:
        if not interval[0] <= float(sigma[0]) <= interval[1]:
            return conditioned(noisy, sigma)
        worse = weaker(noisy, sigma)
        return worse + guidance * (conditioned(noisy, sigma) - worse)

    return conditioned if guidance == 1 else contrasted


def with_guidance(
    denoiser: Denoiser, conditions: ConditionVectors, config: SamplingConfig, guide: Denoiser | None = None
) -> DenoisedAt:
    """`guided` as the settings say.

    Raises:
        ValueError: they leave the weight open (`Workspace.sampling` has the chosen one).
    """
    if config.guidance is None:
        raise ValueError("sampling.guidance must be a number here, is null")
    interval = config.guidance_interval or (0.0, math.inf)
    return guided(denoiser, conditions, config.guidance, interval, guide)
