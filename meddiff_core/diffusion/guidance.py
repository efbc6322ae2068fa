"""Classifier-free guidance (Ho & Salimans 2022) on denoised latents."""

import torch

from meddiff_core.diffusion.solvers import DenoisedAt
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.denoiser import Denoiser
from meddiff_core.types import Latents, Sigma


def guided(denoiser: Denoiser, conditions: ConditionVectors, guidance: float) -> DenoisedAt:
    """`absent + guidance * (conditioned - absent)`; a guidance of 1 costs one evaluation instead of two."""

    def conditioned(noisy: Latents, sigma: Sigma) -> Latents:
        denoised: Latents = denoiser(noisy, sigma, conditions)
        return denoised

    def contrasted(noisy: Latents, sigma: Sigma) -> Latents:
        absent: Latents = denoiser(noisy, sigma, torch.full_like(conditions, torch.nan))
        return absent + guidance * (conditioned(noisy, sigma) - absent)

    return conditioned if guidance == 1 else contrasted
