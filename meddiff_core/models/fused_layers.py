"""Fused layers in place of MONAI's: they compute the same in less time or less memory.

Names and shapes of the weights stay, so a checkpoint fits either. Results differ by rounding alone.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Factors = tuple[int, int, int]
"""1 or 2 along i, j, k."""
DOUBLED: Factors = (2, 2, 2)


def replace_slow_layers(network: nn.Module) -> None:
    """Replace, in place, every layer that has a fused form."""
    from monai.networks.blocks import SABlock, UpSample  # type: ignore[attr-defined]

    for name, layer in list(network.named_modules()):
        if isinstance(layer, UpSample) and _upsamples_and_convolves(layer):
            network.set_submodule(name, UpsamplingConvolution(layer.get_submodule("postconv")))
        elif isinstance(layer, nn.Conv3d) and layer.kernel_size == (1, 1, 1) and layer.groups == 1:
            network.set_submodule(name, PointwiseConvolution(layer))
        elif isinstance(layer, SABlock) and layer.rel_positional_embedding is None and not layer.save_attn:
            layer.use_flash_attention = True  # torch's own attention, which never holds the matrix of all pairs


def set_strides(network: nn.Module, strides: Sequence[Factors]) -> None:
    """Halve, and in the decoder double, from level to level along those axes alone whose stride is 2, in place.

    MONAI's `AutoencoderKL` knows no strides but 2. Weights stay as they are.
    """
    from monai.networks.nets.autoencoderkl import AEKLDownsample

    halving = [layer for layer in network.modules() if isinstance(layer, AEKLDownsample)]
    doubling = [layer for layer in network.modules() if isinstance(layer, UpsamplingConvolution)]
    for layer, factors in zip(halving, strides, strict=True):
        layer.pad.pad = tuple(end for factor in factors[::-1] for end in (2 - factor, 1))  # last axis first
        layer.conv.get_submodule("conv").stride = factors  # type: ignore[assignment]
    if any(factors != DOUBLED for factors in strides):
        for doubled, factors in zip(doubling, reversed(strides), strict=True):
            doubled.factors = factors


def recomputed(forward: Callable[..., Any], random: bool = False) -> Callable[..., Any]:
    """The same function under gradient checkpointing: inner values are computed again instead of being kept.

    `random`: there is dropout within.
    """

    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=random, **kwargs)

    return call


class UpsamplingConvolution(nn.Module):
    """Nearest-neighbour upsampling and a convolution of 3x3x3, as one transposed convolution of 4x4x4 with stride 2.

    Along an axis that is not doubled its stride is 1, and its kernel has 3 voxels.

    Upsampling is a transposed convolution with a box of 2, and two convolutions in a row are one with the kernels'
    convolution. 8 products are summed per output voxel and channel instead of 27, and the doubled input never exists.
    On a GPU, where this was not measured, it computes what MONAI does.
    """

    def __init__(self, postconv: nn.Module) -> None:
        super().__init__()
        self.postconv = postconv
        self.factors: Factors = DOUBLED
        """2 along an axis that is doubled, 1 along others."""

    @property
    def convolution(self) -> nn.Conv3d:
        """The convolution after upsampling."""
        return cast(nn.Conv3d, self.postconv.get_submodule("conv"))

    def forward(self, x: Tensor, emb: Tensor | None = None, haloed: bool = False) -> Tensor:
        """`emb` is what MONAI's own layer ignores too. `haloed`: the outermost slices along i are neighbours alone."""
        if x.is_cuda:
            return upsampled_and_convolved(x, self.convolution, haloed, self.factors)
        kernel = upsampling_kernel(self.convolution.weight, self.factors)
        kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        padding = (
            1 + self.factors[0] if haloed else 1,
            1,
            1,
        )  # of what a transposed convolution leaves out at each end
        return functional.conv_transpose3d(x, kernel, self.convolution.bias, stride=self.factors, padding=padding)


def upsampled_and_convolved(x: Tensor, convolution: nn.Conv3d, haloed: bool, factors: Factors = DOUBLED) -> Tensor:
    """Upsampling, then convolution."""
    doubled = functional.interpolate(x, scale_factor=tuple(map(float, factors)))
    return convolved(doubled[:, :, 1:-1] if haloed and factors[0] == 2 else doubled, convolution, haloed)


def convolved(x: Tensor, convolution: nn.Conv3d, haloed: bool) -> Tensor:
    """A convolution of 3x3x3; `haloed`: the outermost slices along i are neighbours, in the place of padding."""
    padding = (0 if haloed else 1, 1, 1)
    return functional.conv3d(x, convolution.weight, convolution.bias, padding=padding)


def upsampling_kernel(weight: Tensor, factors: Factors = DOUBLED) -> Tensor:
    """(out, in, 3, 3, 3) of a convolution after upsampling, to (in, out, 4, 4, 4) of the transposed one of stride 2.

    Along an axis that is not doubled it keeps its 3 voxels.
    """
    kernel = weight.flip(2, 3, 4).transpose(0, 1)
    for axis in (axis for axis, factor in enumerate(factors, start=2) if factor == 2):
        before = [0, 0] * (4 - axis)
        kernel = functional.pad(kernel, [*before, 0, 1]) + functional.pad(kernel, [*before, 1, 0])
    return kernel


class PointwiseConvolution(nn.Module):
    """A convolution of 1x1x1 as the matrix product that it is; PyTorch's own takes a slow path on the CPU."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        # Not `linear`: it takes other paths, with other rounding, for weights that are being trained.
        rows = x.movedim(1, -1)
        mapped = rows.reshape(-1, rows.shape[-1]) @ self.weight.flatten(1).t()
        if self.bias is not None:
            mapped = mapped + self.bias
        return mapped.reshape(*rows.shape[:-1], -1).movedim(-1, 1)


def _upsamples_and_convolves(layer: nn.Sequential) -> bool:
    parts = dict(layer.named_children())
    if list(parts) != ["upsample_non_trainable", "postconv"]:
        return False
    upsample, inner = parts["upsample_non_trainable"], list(parts["postconv"].children())
    if len(inner) != 1 or not isinstance(inner[0], nn.Conv3d):
        return False
    doubles = upsample.mode == "nearest" and upsample.scale_factor == (2.0, 2.0, 2.0)
    return bool(doubles and inner[0].kernel_size == (3, 3, 3) and inner[0].padding == (1, 1, 1))
