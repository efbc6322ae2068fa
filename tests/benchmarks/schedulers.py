"""What MONAI's schedulers make of Gaussian data whose exact denoiser is known, beside our solvers.

    python tests/benchmarks/schedulers.py

Nothing is trained: any error of the standard deviation of the samples is the scheduler's own. `infra/THEORY.md` quotes
what this prints.
"""

import warnings
from itertools import pairwise

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from torch import Tensor

from meddiff_core.diffusion.noise import karras_sigmas
from meddiff_core.diffusion.solvers import SOLVERS
from meddiff_core.study import SamplingConfig

COUNT = 50_000


def main() -> None:
    warnings.filterwarnings("ignore")
    unit = ("DDIM, 50 steps, as it comes", ddim(1.0, 50)), ("the same, without clip_sample", ddim(1.0, 50, False))
    for name, samples in unit:
        print(f"std 1    {name:<34} std {samples.std():.3f}, largest {samples.abs().max():.2f}")
    for steps in (1000, 250, 50):
        print(f"std 0.3  {f'DDPM, {steps} steps':<34} std {ddpm(0.3, steps).std():.3f}")
    for solver in ("heun", "adams"):
        for std in (1.0, 0.3):
            samples = ours(std, solver)
            print(
                f"std {std:<4g} {f'{solver}, 15 levels':<34} std {samples.std():.3f}, largest {samples.abs().max():.2f}"
            )
    for shape in ((1, 4, 64, 64, 32), (1, 4, 64, 64, 64)):
        print(f"rectified flow {shape}, 30 steps: the steps add up to {flow_length(shape):.4f}")


def expected_noise(noisy: Tensor, kept: Tensor, std: float) -> Tensor:
    """E[noise | noisy] where data are N(0, std^2) and noisy = sqrt(kept) data + sqrt(1 - kept) noise."""
    return noisy * (1 - kept).sqrt() / (kept * std**2 + 1 - kept)


def ddim(std: float, steps: int, clip: bool = True) -> Tensor:
    """Samples of DDIM without added noise."""
    scheduler = DDIMScheduler(clip_sample=clip)
    scheduler.set_timesteps(steps)
    x = torch.randn((COUNT, 1), generator=torch.Generator().manual_seed(0))
    for step in scheduler.timesteps:
        x, _ = scheduler.step(expected_noise(x, scheduler.alphas_cumprod[step], std), int(step), x)
    return x


def ddpm(std: float, steps: int) -> Tensor:
    """Samples of DDPM over fewer steps than it was made for."""
    generator = torch.Generator().manual_seed(0)
    scheduler = DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)
    x = torch.randn((COUNT, 1), generator=generator)
    for step in scheduler.timesteps:
        noise = expected_noise(x, scheduler.alphas_cumprod[step], std)
        x, _ = scheduler.step(noise, int(step), x, generator=generator)
    return x


def ours(std: float, solver: str) -> Tensor:
    """Samples of one of our solvers."""
    sigmas = karras_sigmas(SamplingConfig())
    noise = torch.randn((1, 1, COUNT, 1, 1), generator=torch.Generator().manual_seed(0)) * float(sigmas[0])

    def denoised(noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy * std**2 / (sigma[0] ** 2 + std**2)

    return SOLVERS[solver](denoised, noise, sigmas)


def flow_length(shape: tuple[int, ...]) -> float:
    """Sum of the steps of MONAI's rectified flow from noise to data, which should be 1."""
    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True, base_img_size_numel=32**3)
    scheduler.set_timesteps(30, input_img_size_numel=int(torch.tensor(shape[2:]).prod()))
    times = [*scheduler.timesteps, 0]
    x = torch.zeros(shape)
    for now, after in pairwise(times):
        x, _ = scheduler.step(torch.ones(shape), float(now), x, float(after))
    return float(x.mean())


if __name__ == "__main__":
    main()
