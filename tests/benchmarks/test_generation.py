"""Volumes a minute of our engine and of MONAI's inferer: same weights, same evaluations, one run, in turns.

MONAI's tutorials draw one volume at a time in PyTorch's default memory format; that is the rival here, and a
second one that is given our batches. Ratios are printed; absolute times mean little on a shared machine.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.diffusion.solvers import evaluations
from meddiff_core.generation.engine import Engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale
from meddiff_core.study import SamplingConfig

VOLUMES = 8
STEPS = 6
CONTRACT = Contract(
    spacing_mm=4.0,
    size=(40, 48, 40),
    intensity=IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5)),
    mask="none",
    labels={},
    conditions=(),
)


def test_engine_beside_monai_inferer() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(in_channels=1, channels=(16, 32, 64), latent_channels=4)).eval()
    denoiser = Denoiser(DenoiserShape(latent_channels=4, channels=(64, 128)), ()).eval()
    ours = _ours(autoencoder, denoiser)
    one_by_one, batched = (_monai(autoencoder, denoiser, batch) for batch in (1, VOLUMES))
    times = _in_turns([ours, one_by_one, batched], rounds=3)
    for name, seconds in zip(("meddiff", "MONAI, one by one", "MONAI, same batch"), times, strict=True):
        pace, ratio = 60 * VOLUMES / seconds, seconds / times[0]
        print(f"\n{name:<20} {pace:6.1f} volumes a minute, {ratio:.2f} x our time", end="")
    assert times[0] < times[1]


def _ours(autoencoder: Autoencoder, denoiser: Denoiser) -> Callable[[], object]:
    scale = LatentScale(mean=(0.0,) * 4, std=(1.0,) * 4)
    engine = Engine(autoencoder, denoiser, scale, CONTRACT, SamplingConfig(steps=STEPS, batch=VOLUMES))
    samples = [SampleRequest(f"s{n}", n, 0, n, {}) for n in range(VOLUMES)]
    return lambda: engine.draw(samples)


def _monai(autoencoder: Autoencoder, denoiser: Denoiser, batch: int) -> Callable[[], object]:
    """MONAI's networks with our weights, in the memory format that they come in."""
    first = autoencoder.network
    decoder = AutoencoderKL(
        spatial_dims=3, in_channels=1, out_channels=1, num_res_blocks=(1, 1, 1), channels=(16, 32, 64),
        attention_levels=(False,) * 3, latent_channels=4, norm_num_groups=8,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    )  # fmt: skip
    decoder.load_state_dict({name: tensor.contiguous() for name, tensor in first.state_dict().items()})
    network = DiffusionModelUNet(
        spatial_dims=3, in_channels=4, out_channels=4, num_res_blocks=(1, 1), channels=(64, 128),
        attention_levels=(False, True), norm_num_groups=16, num_head_channels=32,
    )  # fmt: skip
    own = denoiser.network.state_dict().items()
    network.load_state_dict({name: t.contiguous() for name, t in own if not name.startswith("class_embedding")})
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(evaluations("heun", STEPS))
    inferer = LatentDiffusionInferer(scheduler)

    def draw() -> None:
        for _ in range(VOLUMES // batch):
            noise = torch.randn(batch, 4, 10, 12, 10)
            with torch.no_grad():
                inferer.sample(noise, decoder.eval(), network.eval(), scheduler, verbose=False)

    return draw


def _in_turns(programs: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, run A B C A B C after a warm-up, so that a slow spell hits all."""
    times: list[list[float]] = [[] for _ in programs]
    for turn in range(rounds + 1):
        for program, taken in zip(programs, times, strict=True):
            started = time.perf_counter()
            program()
            if turn:
                taken.append(time.perf_counter() - started)
    return [median(taken) for taken in times]
