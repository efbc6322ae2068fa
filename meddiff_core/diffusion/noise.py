"""Noise levels: which ones to train on, and which ones to walk through."""

import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.study import SamplingConfig
from meddiff_core.types import Sigma


def karras_sigmas(config: SamplingConfig) -> Float[Tensor, " steps_and_0"]:
    """Decreasing noise levels from sigma_max to sigma_min, then 0, in float64 (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, config.steps, dtype=torch.float64)
    high, low = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
    return torch.cat([(high + ramp * (low - high)) ** config.rho, torch.zeros(1, dtype=torch.float64)])


def noise_levels(config: SamplingConfig) -> Float[Tensor, " levels_and_0"]:
    """Those that a study gives, or Karras's, decreasing to 0, in float64."""
    return karras_sigmas(config) if config.sigmas is None else torch.tensor([*config.sigmas, 0.0], dtype=torch.float64)


def training_sigmas(count: int, mean: float, std: float, generator: torch.Generator) -> Sigma:
    """Log-normal noise levels, one stratum of the distribution each, so that a batch covers all of it."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal: Tensor = torch.special.ndtri(strata.clamp(1e-6, 1 - 1e-6))
    return (normal * std + mean).exp()[torch.randperm(count, generator=generator)]


def loss_weight(sigma: Sigma, sigma_data: float = 1.0) -> Sigma:
    """lambda(sigma) of Karras et al. 2022, table 1: equal weight to all levels at initialisation."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
