"""Volumes a minute of our engine and of MONAI's inferer: same weights, same evaluations, one run, in turns.

    python tests/benchmarks/generation.py [--compiled]

MONAI's is measured with each setting that takes a user one line, and with all of them together; `--compiled` adds that
with its denoiser compiled, which takes minutes. What counts is our time beside the best of them.

Each contender lives in processes of its own, which build their networks once and then sample when told to. Ours samples
on one thread, so two cores are two of its processes; MONAI's has both threads to itself. Ratios are printed, with the
memory that the processes grew to; absolute times mean little on a shared machine.
"""

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import torch
from torch import Tensor

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.generation.engine import Engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale
from meddiff_core.models.inference.instructions import bfloat16_instructions
from meddiff_core.models.inference.packed import packed
from meddiff_core.study import Precision, SamplingConfig

Draw = Callable[[], object]
Size = tuple[int, int, int]
EVALUATIONS = 12
BF16 = bfloat16_instructions() is not None
"""Whether the processor computes in bfloat16; one that does not takes minutes for a volume."""
OURS = "meddiff"


def _networks() -> tuple[Autoencoder, Denoiser]:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(in_channels=1, channels=(16, 32, 64), latent_channels=4))
    denoiser = Denoiser(DenoiserShape(latent_channels=4, channels=(64, 128)), ())
    for parameter in denoiser.parameters():  # MONAI starts with zeros where a residual ends
        torch.nn.init.normal_(parameter, std=0.02)
    return autoencoder.eval(), denoiser.eval()


def _ours(latent: Size, volumes: int, precision: Precision = "float32") -> Draw:
    """What one process samples of `volumes` that two share."""
    i, j, k = (4 * side for side in latent)
    contract = Contract(
        spacing_mm=4.0,
        size=(i, j, k),
        intensity=IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5)),
        mask="none",
        labels={},
        conditions=(),
    )
    config = SamplingConfig(guidance=1.0, steps=EVALUATIONS, solver="adams", precision=precision)
    engine = Engine(*_networks(), LatentScale(mean=(0.0,) * 4, std=(1.0,) * 4), contract, config)
    samples = [SampleRequest(f"s{n}", n, 0, n, {}) for n in range(volumes // 2)]
    return lambda: engine.sample(samples)


def _monai(
    latent: Size,
    volumes: int,
    *,
    batched: bool = False,
    flash: bool = False,
    half: bool = False,
    compiled: bool = False,
) -> Draw:
    """MONAI's networks with our weights, in the memory format that they come in."""
    from monai.inferers import LatentDiffusionInferer
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
    from monai.networks.schedulers import DDIMScheduler

    autoencoder, denoiser = _networks()
    decoder = AutoencoderKL(
        spatial_dims=3, in_channels=1, out_channels=1, num_res_blocks=(1, 1, 1), channels=(16, 32, 64),
        attention_levels=(False,) * 3, latent_channels=4, norm_num_groups=8,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    ).eval()  # fmt: skip
    decoder.load_state_dict({name: tensor.contiguous() for name, tensor in autoencoder.network.state_dict().items()})
    network = DiffusionModelUNet(
        spatial_dims=3, in_channels=4, out_channels=4, num_res_blocks=(1, 1), channels=(64, 128),
        attention_levels=(False, True), norm_num_groups=16, num_head_channels=32, use_flash_attention=flash,
    ).eval()  # fmt: skip
    own = denoiser.network.state_dict().items()
    network.load_state_dict({name: t.contiguous() for name, t in own if not name.startswith("class_embedding")})
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(EVALUATIONS)
    inferer = LatentDiffusionInferer(scheduler)
    evaluated = torch.compile(network) if compiled else network
    batch = volumes if batched else 1

    def sample() -> None:
        for _ in range(volumes // batch):
            noise = torch.randn(batch, 4, *latent)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
                inferer.sample(noise, decoder, evaluated, scheduler, verbose=False)

    return sample


CONTENDERS: dict[str, tuple[int, Callable[[Size, int], Draw]]] = {
    OURS: (2, _ours),
    "MONAI, default": (1, _monai),
    "MONAI, flash": (1, partial(_monai, flash=True)),
    "MONAI, flash, batch": (1, partial(_monai, flash=True, batched=True)),
}
"""Processes of each, and what they sample with."""
if BF16:
    CONTENDERS |= {
        f"{OURS}, bfloat16": (2, partial(_ours, precision="bfloat16")),
        "MONAI, flash, bf16": (1, partial(_monai, flash=True, half=True)),
        "MONAI, flash, bf16, batch": (1, partial(_monai, flash=True, half=True, batched=True)),
    }
COMPILED = "MONAI, all, compiled"
CONTENDERS[COMPILED] = 1, partial(_monai, flash=True, half=BF16, batched=True, compiled=True)


def _serve(name: str, latent: Size, volumes: int, pipe: Connection) -> None:
    """Draw once per message, and answer with this process's largest memory in MB."""
    processes, build = CONTENDERS[name]
    torch.set_num_threads(2 // processes)
    sample = build(latent, volumes)
    while pipe.recv():
        sample()
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true")
    compiled = parser.parse_args().compiled
    names = [name for name in CONTENDERS if compiled or name != COMPILED]
    compare((10, 12, 10), volumes=8, rounds=3, names=names)
    compare((20, 28, 20), volumes=2, rounds=2, names=names)
    difference_from_the_plain_network()


def compare(latent: Size, volumes: int, rounds: int, names: Sequence[str]) -> None:
    context, pipes = get_context("spawn"), dict[str, list[Connection]]()
    for name in names:
        processes, _ = CONTENDERS[name]
        for _ in range(processes):
            here, there = context.Pipe()
            context.Process(target=_serve, args=(name, latent, volumes, there), daemon=True).start()
            pipes.setdefault(name, []).append(here)
    taken: dict[str, list[float]] = {name: [] for name in names}
    memory = dict[str, float]()
    for turn in range(rounds + 1):
        for name, ends in pipes.items():
            seconds, memory[name] = _timed(ends)
            if turn:  # the first one warms up
                taken[name].append(seconds)
    for ends in pipes.values():
        for end in ends:
            end.send(False)
    times = {name: median(seconds) for name, seconds in taken.items()}
    best = min(seconds for name, seconds in times.items() if not name.startswith(OURS))
    print(f"{EVALUATIONS} evaluations, latents {latent}, {volumes} volumes")
    for name, seconds in times.items():
        pace, ratio = 60 * volumes / seconds, best / seconds
        print(f"{name:<26} {pace:6.1f} volumes a minute, {ratio:5.2f} x MONAI's best, {memory[name]:6.0f} MB in all")


def _timed(ends: Sequence[Connection]) -> tuple[float, float]:
    started = time.perf_counter()
    for end in ends:
        end.send(True)
    memory = sum(end.recv() for end in ends)
    return time.perf_counter() - started, memory


def difference_from_the_plain_network() -> None:
    """Of one evaluation of packed networks from the same one in float64, beside that of the plain float32 one."""
    _, denoiser = _networks()
    x, sigma, nothing = torch.randn(4, 4, 10, 12, 10), torch.tensor([0.05, 0.5, 3.0, 20.0]), torch.zeros(4, 0)
    with torch.inference_mode():
        plain = denoiser(x, sigma, nothing)
        ours = packed(denoiser)(x, sigma, nothing)
        rounded = packed(denoiser, torch.bfloat16 if BF16 else torch.float32)(x, sigma, nothing)
        exact = denoiser.double()(x.double(), sigma.double(), nothing.double())

    def far(found: Tensor) -> float:
        return float((found - exact).abs().max() / exact.abs().max())

    print(f"largest difference from float64: {far(ours):.1e} packed, {far(plain):.1e} plain")
    if BF16:
        print(f"and {far(rounded):.1e} packed in bfloat16")


if __name__ == "__main__":
    main()
