"""Steps a second of our training and of the MONAI tutorial's loop: same networks, data and batch, in turns.

The tutorial's also in bfloat16, by the line of autocast that a user adds, where the processor has instructions for it.

    python tests/benchmarks/training.py

The tutorial loads with a DataLoader over volumes in memory, trains in PyTorch's default memory format, and
fetches every loss at every step. Its perceptual network needs a download, so it is left out of both; its
adversarial term is in both. The share of time that loading takes is measured by loading alone.
"""

import time
from collections.abc import Callable, Iterator
from itertools import count
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, PatchDiscriminator
from monai.networks.schedulers import DDPMScheduler
from torch.nn import functional
from torch.utils.data import DataLoader

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.images import load_images
from meddiff_core.models.inference.instructions import bfloat16_instructions
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.training.autoencoder import AutoencoderTraining
from meddiff_core.study import AutoencoderConfig, DenoiserConfig, Precision

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE, LATENT_SIZE = (40, 48, 40), (10, 12, 10)
ROUNDS = 5
CONTRACT = Contract(
    spacing_mm=4.0,
    size=SIZE,
    intensity=IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5)),
    mask="none",
    labels={},
    conditions=(),
)


class RandomVolumes:
    """Volumes in memory, as both loaders get them."""

    def __init__(self, number: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 255, (number, *SIZE)).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Any:
        return self.images[index]

    def label(self, index: int) -> None:
        return None


BF16 = DEVICE == "cpu" and bfloat16_instructions() is not None
"""Whether the processor computes in bfloat16; elsewhere a step of it takes minutes."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16") if BF16 else ("float32",)


def main() -> None:
    autoencoder_beside_the_tutorial()
    denoiser_beside_the_tutorial()


def autoencoder_beside_the_tutorial() -> None:
    volumes, batch = RandomVolumes(8), 2
    config = AutoencoderConfig(adversarial_start=0.0, perceptual="none")
    shape = AutoencoderShape(in_channels=1, channels=(16, 32, 64), latent_channels=4)
    ours = AutoencoderTraining(shape, CONTRACT, config, volumes, volumes, 1000, batch, 0, DEVICE)
    _compare("autoencoder", _steps(ours), lambda precision: _tutorial_autoencoder(volumes, batch, precision))
    loading = _median_of(lambda: load_images(volumes, range(batch), CONTRACT))
    print(f"loading is {loading / _median_of(_steps(ours)):.1%} of a step")


def denoiser_beside_the_tutorial() -> None:
    batch = 8
    mean = torch.randn(32, 4, *LATENT_SIZE)
    side = (LatentSet(mean, torch.full_like(mean, 0.1)), torch.zeros(32, 0))
    shape = DenoiserShape(latent_channels=4, channels=(64, 128))
    ours = DenoiserTraining(shape, (), DenoiserConfig(), side, side, 1000, batch, 0, DEVICE)
    _compare("denoiser", _steps(ours), lambda precision: _tutorial_denoiser(mean, batch, precision))


def _steps(training: AutoencoderTraining | DenoiserTraining) -> Callable[[], object]:
    steps = count()
    return lambda: training.step(next(steps))


def _tutorial_autoencoder(volumes: RandomVolumes, batch: int, precision: Precision) -> Callable[[], object]:
    network = AutoencoderKL(
        spatial_dims=3, in_channels=1, out_channels=1, num_res_blocks=(1, 1, 1), channels=(16, 32, 64),
        attention_levels=(False,) * 3, latent_channels=4, norm_num_groups=8,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    ).to(DEVICE)  # fmt: skip
    critic = PatchDiscriminator(3, channels=16, in_channels=1, num_layers_d=2, norm=None).to(DEVICE)
    adversarial = PatchAdversarialLoss(criterion="least_squares")
    optimizers = [torch.optim.Adam(part.parameters(), 1e-4) for part in (network, critic)]
    images = _endless([torch.from_numpy(volumes.image(n))[None].float() / 127.5 - 1 for n in range(8)], batch)

    def step() -> float:
        batch_of_images = next(images).to(DEVICE)
        optimizers[0].zero_grad(set_to_none=True)
        with _autocast(precision):
            reconstructed, mean, std = network(batch_of_images)
        reconstructed, mean, std = reconstructed.float(), mean.float(), std.float()
        divergence = 0.5 * (mean**2 + std**2 - torch.log(std**2) - 1).sum(dim=[1, 2, 3, 4]).mean()
        with _autocast(precision):
            judged = critic(reconstructed)[-1]
        fooled = adversarial(judged.float(), target_is_real=True, for_discriminator=False)
        loss = functional.l1_loss(reconstructed, batch_of_images) + 1e-6 * divergence + 0.01 * fooled
        loss.backward()
        optimizers[0].step()
        optimizers[1].zero_grad(set_to_none=True)
        with _autocast(precision):
            judged_fake, judged_real = critic(reconstructed.detach())[-1], critic(batch_of_images)[-1]
        fake = adversarial(judged_fake.float(), target_is_real=False, for_discriminator=True)
        real = adversarial(judged_real.float(), target_is_real=True, for_discriminator=True)
        critic_loss = (fake + real) / 2
        critic_loss.backward()
        optimizers[1].step()
        return loss.item() + critic_loss.item()

    return step


def _tutorial_denoiser(latents: torch.Tensor, batch: int, precision: Precision) -> Callable[[], object]:
    network = DiffusionModelUNet(
        spatial_dims=3, in_channels=4, out_channels=4, num_res_blocks=(1, 1), channels=(64, 128),
        attention_levels=(False, True), norm_num_groups=16, num_head_channels=32,
    ).to(DEVICE)  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    batches = _endless(list(latents), batch)

    def step() -> float:
        clean = next(batches).to(DEVICE)
        noise = torch.randn_like(clean)
        times = torch.randint(0, 1000, (len(clean),), device=DEVICE)
        optimizer.zero_grad(set_to_none=True)
        with _autocast(precision):
            predicted = network(scheduler.add_noise(clean, noise, times), times)
        loss = functional.mse_loss(predicted.float(), noise)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _endless(items: list[torch.Tensor], batch: int) -> Iterator[torch.Tensor]:
    loader = DataLoader(items, batch_size=batch, shuffle=True)  # type: ignore[arg-type]  # a list will do
    while True:
        yield from loader


def _autocast(precision: Precision) -> torch.autocast:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bfloat16")


def _compare(name: str, ours: Callable[[], object], tutorial: Callable[[Precision], Callable[[], object]]) -> None:
    programs = {"ours": ours} | {f"tutorial, {precision}": tutorial(precision) for precision in PRECISIONS}
    taken: dict[str, list[float]] = {program: [] for program in programs}
    for turn in range(ROUNDS + 1):
        for program, run in programs.items():
            seconds = _seconds(run)
            if turn:
                taken[program].append(seconds)
    times = {program: median(seconds) for program, seconds in taken.items()}
    best = min(seconds for program, seconds in times.items() if program.startswith("tutorial"))
    print(f"{name} on {DEVICE}")
    for program, seconds in times.items():
        print(f"{program:<20} {1 / seconds:.2f} steps a second, {best / seconds:.2f} x the tutorial's best")


def _median_of(program: Callable[[], object]) -> float:
    return median(_seconds(program) for _ in range(ROUNDS))


def _seconds(program: Callable[[], object]) -> float:
    started = time.perf_counter()
    program()
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
