"""Time, memory and exactness of decoding a volume in tiles, beside decoding it at once and beside MONAI's ways.

    python tests/benchmarks/tiled_decode.py [--size 96 112 96]

Each contender has a process of its own, with one thread, and they decode in turns. Memory is what a process grows by
while it decodes. Differences are from the same weights' decoding in float64. MAISI's decoder doubles by trilinear
interpolation, so of these weights it makes another volume: it is held to its own decoding without splits.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Event, Thread

import numpy as np
import psutil
import torch
from torch import Tensor

from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.inference.packed import packed
from meddiff_core.models.inference.tiled import decode_tiled

Size = tuple[int, int, int]
Decode = Callable[[Tensor], Tensor]
CHANNELS, LATENT, GROUPS, ROUNDS = (16, 32, 64), 4, 8, 3
WINDOW = 12
"""Latent voxels along a side of MONAI's sliding window."""
SPLITS = 8
"""Into which MAISI's decoder divides a layer. It loses what does not divide."""


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderShape(in_channels=1, channels=CHANNELS, latent_channels=LATENT))
    return network.eval().requires_grad_(False)


def untiled() -> Decode:
    return packed(autoencoder()).decode


def tiled() -> Decode:
    network = packed(autoencoder())
    return lambda latents: decode_tiled(network, latents)


def monai() -> Decode:
    """MONAI's own network, in the memory format that it comes in."""
    from monai.networks.nets import AutoencoderKL

    network = AutoencoderKL(
        spatial_dims=3, in_channels=1, out_channels=1, num_res_blocks=(1,) * 3, channels=CHANNELS,
        attention_levels=(False,) * 3, latent_channels=LATENT, norm_num_groups=GROUPS,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    ).eval()  # fmt: skip
    weights = autoencoder().network.state_dict()
    network.load_state_dict({name: tensor.contiguous() for name, tensor in weights.items()})
    return network.decode


def sliding() -> Decode:
    """MONAI's sliding window over the same decoder, with its default overlap and seams blended by a Gaussian."""
    from monai.inferers import SlidingWindowInferer

    inferer, decode = SlidingWindowInferer((WINDOW,) * 3, overlap=0.25, mode="gaussian"), monai()
    return lambda latents: inferer(latents, decode)


def maisi(splits: int = 1) -> Decode:
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

    network = AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, num_res_blocks=(1,) * 3, num_channels=CHANNELS,
        attention_levels=(False,) * 3, latent_channels=LATENT, norm_num_groups=GROUPS, num_splits=splits,
    ).eval()  # fmt: skip
    weights = autoencoder().network.state_dict().values()  # under other names, in the same order
    network.load_state_dict({name: w.contiguous() for name, w in zip(network.state_dict(), weights, strict=True)})
    return network.decode


def in_float64() -> Decode:
    """In tiles as well: PyTorch unrolls a convolution in float64, and at once that is 27 times its input."""
    network = autoencoder().double()
    return lambda latents: decode_tiled(network, latents.double())


WHOLE, TILED, UNSPLIT, EXACT = "meddiff, at once", "meddiff, in tiles", "MAISI, at once", "meddiff, in float64"
CONTENDERS: dict[str, Callable[[], Decode]] = {
    WHOLE: untiled,
    TILED: tiled,
    "MONAI, at once": monai,
    "MONAI, sliding window": sliding,
    UNSPLIT: maisi,
    "MAISI, split": partial(maisi, SPLITS),
    EXACT: in_float64,
}


def latents(size: Size) -> Tensor:
    shape = 1, LATENT, *(side // 4 for side in size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def peak_growth(work: Callable[[], object]) -> float:
    """MB that this process grew by at most, looked at every 2 ms."""
    process, done = psutil.Process(), Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, process.memory_info().rss)

    watcher = Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return (most - before) / 2**20


@torch.inference_mode()
def serve(build: Callable[[], Decode], size: Size, left: Path, pipe: Connection) -> None:
    """Decode once per message, and answer with seconds and MB. The volume is left in a file."""
    torch.set_num_threads(1)
    decode, given, decoded = build(), latents(size), list[Tensor]()
    decode(latents((96, 32, 32)))
    while pipe.recv():
        decoded.clear()
        started = time.perf_counter()
        grown = peak_growth(lambda: decoded.append(decode(given)))
        taken = time.perf_counter() - started
        np.save(left, decoded[0].numpy())
        pipe.send((taken, grown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=(96, 112, 96), metavar="VOXELS")
    i, j, k = parser.parse_args().size
    with TemporaryDirectory(prefix="meddiff-tiled-") as scratch:
        compare((i, j, k), Path(scratch))


def compare(size: Size, scratch: Path) -> None:
    context, pipes = get_context("spawn"), dict[str, Connection]()
    for name, build in CONTENDERS.items():
        pipes[name], there = context.Pipe()
        context.Process(target=serve, args=(build, size, scratch / f"{name}.npy", there), daemon=True).start()
        there.close()  # so that the end of a process is seen here
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    memory = dict.fromkeys(CONTENDERS, 0.0)
    for turn in range(ROUNDS):
        for name, pipe in pipes.items():
            if turn == 0 or name != EXACT:
                pipe.send(True)
                seconds, grown = pipe.recv()
                taken[name].append(seconds)
                memory[name] = max(memory[name], grown)
    for pipe in pipes.values():
        pipe.send(False)
    volumes = {name: np.load(scratch / f"{name}.npy", mmap_mode="r") for name in CONTENDERS}
    print(f"{size} voxels of standard deviation {volumes[EXACT].std():.2f}")
    for name in CONTENDERS:
        wanted = volumes[UNSPLIT if name.startswith("MAISI") else EXACT]
        difference = float(np.abs(volumes[name] - wanted).max())
        ratio = median(taken[name]) / median(taken[WHOLE])
        print(f"{name:<22} {ratio:5.2f} x our time, {memory[name]:6.0f} MB, differs by {difference:.1e}")
    print("in tiles as at once, bit for bit:", np.array_equal(volumes[TILED], volumes[WHOLE]))


if __name__ == "__main__":
    main()
