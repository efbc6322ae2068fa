"""Exact decoding of volumes whose activations do not fit the memory.

The decoder runs layer by layer in slabs along i. Between layers activations are offloaded, and the sums for the next
group norm are taken while they are written, so that every norm is over the whole volume; convolutions read one slice
more at each end. Nothing is computed twice, and no seam is blended. Windows that are decoded each by itself would have
norms of their own, and give another volume.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.models.autoencoder import Autoencoder, label_probabilities, rescale_image
from meddiff_core.models.fused_layers import UpsamplingConvolution, convolved
from meddiff_core.models.inference.offloading import OffloadedActivation
from meddiff_core.models.inference.packed import PackedUpsampling
from meddiff_core.types import Images, Latents

SLAB = 8
"""Slices of a slab: fewer read more neighbours, more need more memory."""
Slabs = Iterator[Tensor]
Step = Callable[[OffloadedActivation], Slabs]


@torch.no_grad()
def decode_tiled(autoencoder: Autoencoder, latents: Latents, slab: int = SLAB, scratch: Path | None = None) -> Images:
    """What `autoencoder.decode` gives, but for rounding, in a fraction of its memory.

    `slab` is in slices along i. On a CPU activations are offloaded to unnamed files in `scratch`, else in the folder
    for temporary files, which should not itself lie in memory; on a GPU to the machine's main memory. Blocks up to
    the last one with attention, which looks at the whole volume, run at once.
    """
    if slab < 1:
        raise ValueError(f"a slab must have at least 1 slice, got {slab}")
    shape, offload = autoencoder.shape, partial(OffloadedActivation, scratch=scratch)
    sides = (side * factor for side, factor in zip(latents.shape[2:], shape.downsampling, strict=True))
    images = latents.new_empty(len(latents), shape.in_channels, *sides)
    for sample, image in zip(latents.split(1), images.split(1), strict=True):
        start = 0
        for part in _decoded(autoencoder.network, sample, slab, offload):
            stop = start + part.shape[2]
            image[:, :, start:stop] = label_probabilities(rescale_image(part, shape.image_range, (-1.0, 1.0)))
            start = stop
    return images


def _decoded(network: nn.Module, latents: Latents, slab: int, offload: Callable[[Slabs], OffloadedActivation]) -> Slabs:
    """What `network.decode` gives of one sample."""
    blocks = list(network.get_submodule("decoder.blocks").children())
    whole = blocks[: first_streamed(blocks)]
    x = network.get_submodule("post_quant_conv")(latents.contiguous(memory_format=torch.channels_last_3d))
    source = offload(iter(nn.Sequential(*whole)(x).split(slab, dim=2)))
    *steps, last = _steps(blocks[len(whole) :], slab, offload)
    for step in steps:
        source = offload(step(source))
    yield from last(source)


def first_streamed(blocks: Sequence[nn.Module]) -> int:
    """Place of the first block of a decoder from which on none needs the whole volume at once."""
    from monai.networks.blocks import Convolution  # type: ignore[attr-defined]
    from monai.networks.nets.autoencoderkl import AEKLResBlock

    streamed = AEKLResBlock, Convolution, UpsamplingConvolution, PackedUpsampling, nn.GroupNorm
    return max((n + 1 for n, block in enumerate(blocks) if not isinstance(block, streamed)), default=0)


def _steps(blocks: Sequence[nn.Module], slab: int, offload: Callable[[Slabs], OffloadedActivation]) -> Iterator[Step]:
    norm = None
    for block in blocks:
        if isinstance(block, nn.GroupNorm):
            norm = block
        elif isinstance(block, UpsamplingConvolution | PackedUpsampling):
            yield partial(_convolved, layer=block, slab=max(slab // block.factors[0], 1))
        elif hasattr(block, "conv2"):
            yield partial(_residual, block=block, slab=slab, offload=offload)
        else:
            yield partial(_convolved, layer=block.get_submodule("conv"), slab=slab, norm=norm)


def _residual(
    source: OffloadedActivation, block: nn.Module, slab: int, offload: Callable[[Slabs], OffloadedActivation]
) -> Slabs:
    part = block.get_submodule
    norm1, norm2 = cast(nn.GroupNorm, part("norm1")), cast(nn.GroupNorm, part("norm2"))
    inner = offload(_convolved(source, part("conv1.conv"), slab, norm1, functional.silu))
    start = 0
    for slices in _convolved(inner, part("conv2.conv"), slab, norm2, functional.silu):
        stop = start + slices.shape[2]
        yield slices.add_(part("nin_shortcut")(source.read(start, stop)))
        start = stop


def _convolved(
    source: OffloadedActivation,
    layer: nn.Module,
    slab: int,
    norm: nn.GroupNorm | None = None,
    activation: Callable[..., Tensor] | None = None,
) -> Slabs:
    """A convolution of 3x3x3, also one after upsampling, of the normed and activated source."""
    for start in range(0, source.length, slab):
        before, stop = max(start - 1, 0), min(start + slab, source.length)
        after = min(stop + 1, source.length)
        x = source.read(before, after)
        x = x if norm is None else source.normed(norm, x)
        x = x if activation is None else activation(x, inplace=True)
        missing = before - start + 1, stop + 1 - after  # beyond the volume there are zeros
        x = functional.pad(x, (0, 0, 0, 0, *missing)) if any(missing) else x
        yield convolved(x, layer, haloed=True) if isinstance(layer, nn.Conv3d) else layer(x, haloed=True)
