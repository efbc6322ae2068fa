"""Where a walk of a solver starts: at noise, at a scan with some noise, or at the noise that a scan comes from.

A start decides what a result keeps of a scan: nothing, what noise of a level leaves, or all that the models know of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.contract import Condition
from meddiff_core.diffusion.noise import noise_levels
from meddiff_core.diffusion.solvers import DenoisedAt, Sigmas, solve_heun
from meddiff_core.generation.engine import sample_noise
from meddiff_core.models.inference.packed import one_thread
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents

HIGHEST = 40.0
"""Noise level at which nothing of a scan is left, in standard deviations of the latents."""
LOWEST = 0.03
"""Noise level from which a walk upwards starts; below, latents of a scan hardly move."""


def noise(seed: int, shape: tuple[int, ...]) -> Latents:
    """Standard normal noise (1, *shape) of one sample."""
    return sample_noise(seed, shape)


def restarted(latents: Latents, sigma: float, seed: int) -> Latents:
    """Latents (1, z, u, v, w) with noise of a level, to walk down from again (SDEdit, Meng et al. 2022)."""
    return latents + sigma * noise(seed, tuple(latents.shape[1:])).to(latents)


def inverted(denoised_at: DenoisedAt, latents: Latents, sigmas: Sigmas) -> Latents:
    """The noisy latents at the highest level from which the solver comes to these: the probability flow run upwards.

    `denoised_at` must be without guidance. A guided flow is steep, so that its way up and its way down part, and what
    comes back is another subject (Mokady et al. 2023); `unguided` gives the right one.
    """
    return solve_heun(denoised_at, latents, upwards(sigmas))


def upwards(sigmas: Sigmas) -> Float[Tensor, " above_0"]:
    """The levels above 0, from the lowest."""
    return sigmas[sigmas > 0].flip(0)


def unguided(models: Models, condition: Condition) -> DenoisedAt:
    """The denoiser that a walk upwards may use."""
    return models.denoised_under(condition, guidance=1.0)


def levels(models: Models, steps: int, highest: float = HIGHEST) -> Sigmas:
    """Decreasing noise levels and 0, within those that the denoiser was trained at."""
    low, high = models.denoiser.clock.sigma_range
    lowest, highest = max(low, LOWEST), min(high, highest)
    return noise_levels(SamplingConfig(steps=steps, sigma_min=min(lowest, highest / 2), sigma_max=highest))


def seed_of(settings: TaskSettings, scan: GridScan, *purpose: object) -> int:
    """Seed of one use of noise for a scan: the same in any folder, and beside any other scan."""
    return derive_seed(settings.seed, scan.digest, *purpose)


@contextmanager
def exact_inference(models: Models) -> Iterator[None]:
    """Without gradients, and on a CPU on one thread, so that results have the same bits anywhere."""
    with torch.no_grad(), one_thread() if models.device == "cpu" else nullcontext():
        yield
