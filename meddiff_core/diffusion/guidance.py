"""Classifier-free guidance (Ho & Salimans 2022) on denoised latents."""

import math

import torch

from meddiff_core.diffusion.solvers import DenoisedAt
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.denoiser import Denoiser
from meddiff_core.types import Latents, Sigma


def guided(
    denoiser: Denoiser,
    conditions: ConditionVectors,
    guidance: float,
    interval: tuple[float, float] = (0.0, math.inf),
) -> DenoisedAt:
    """`absent + guidance * (conditioned - absent)`; a guidance of 1 costs one evaluation instead of two.

    It acts at noise levels within `interval` alone, ends included (Kynkaanniemi et al. 2024): at high ones it costs
    variety, at low ones it changes little. Outside, the denoiser follows the conditions as trained.
    """

    def conditioned(noisy: Latents, sigma: Sigma) -> Latents:
        denoised: Latents = denoiser(noisy, sigma, conditions)
        return denoised

    def contrasted(noisy: Latents, sigma: Sigma) -> Latents:
        if not interval[0] <= float(sigma[0]) <= interval[1]:
            return conditioned(noisy, sigma)
        absent: Latents = denoiser(noisy, sigma, torch.full_like(conditions, torch.nan))
        return absent + guidance * (conditioned(noisy, sigma) - absent)

    return conditioned if guidance == 1 else contrasted
