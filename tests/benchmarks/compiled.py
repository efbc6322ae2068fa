"""What `torch.compile` would give: of a training step of either network, and of an evaluation that samples.

    python tests/benchmarks/compiled.py

Each program is measured in turns with its compiled self, on the shapes of 40 x 48 x 40 volumes; the seconds that
compiling takes are told. Sampling is on one thread, beside the packed network that the engine samples with.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional

from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.denoiser import Denoiser, DenoiserShape
from meddiff_core.models.inference.packed import one_thread, packed

Program = Callable[[], object]
ROUNDS = 7
SIZE, LATENT = (40, 48, 40), (4, 10, 12, 10)


def main() -> None:
    for name, make in {
        "denoiser, a step of 8": denoiser_step,
        "autoencoder, a step of 2": autoencoder_step,
    }.items():
        compare(name, {"eager": make(compiled=False), "compiled": make(compiled=True)})
    with one_thread():
        compare("denoiser, an evaluation of 1", evaluations())


def denoiser_step(*, compiled: bool) -> Program:
    network = denoiser()
    noisy, sigma, nothing = torch.randn(8, *LATENT), torch.rand(8) + 0.1, torch.zeros(8, 0)
    run = torch.compile(network) if compiled else network
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        functional.mse_loss(run(noisy, sigma, nothing), noisy).backward()
        optimizer.step()

    return step


def autoencoder_step(*, compiled: bool) -> Program:
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderShape(in_channels=6, channels=(16, 32, 64), latent_channels=4))
    images = torch.randn(2, 6, *SIZE)
    encode, decode = (
        (torch.compile(network.encode), torch.compile(network.decode_logits))
        if compiled
        else (network.encode, network.decode_logits)
    )
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        mean, log_variance = encode(images)
        (functional.l1_loss(decode(mean), images) + 1e-4 * log_variance.square().mean()).backward()
        optimizer.step()

    return step


def evaluations() -> dict[str, Program]:
    network = denoiser().eval().requires_grad_(False)
    noisy, sigma, nothing = torch.randn(1, *LATENT), torch.ones(1), torch.zeros(1, 0)
    ways = {"eager": network, "compiled": torch.compile(network), "packed": packed(network)}
    return {name: lambda way=way: evaluate(way, noisy, sigma, nothing) for name, way in ways.items()}  # type: ignore[misc]


@torch.no_grad()
def evaluate(network: Callable[..., object], *told: torch.Tensor) -> object:
    return network(*told)


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(DenoiserShape(latent_channels=4, channels=(64, 128)), ())
    for parameter in network.parameters():  # MONAI starts with zeros where a residual ends
        torch.nn.init.normal_(parameter, std=0.02)
    return network


def compare(name: str, programs: dict[str, Program]) -> None:
    first = {way: seconds(program) for way, program in programs.items()}
    taken: dict[str, list[float]] = {way: [] for way in programs}
    for _ in range(ROUNDS):
        for way, program in programs.items():
            taken[way].append(seconds(program))
    times = {way: median(found) for way, found in taken.items()}
    for way, found in times.items():
        print(
            f"{name:<28} {way:<9} {1e3 * found:7.0f} ms, {found / times['eager']:.2f} x eager, "
            f"first call {first[way]:.0f} s",
            flush=True,
        )


def seconds(program: Program) -> float:
    started = time.perf_counter()
    program()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
