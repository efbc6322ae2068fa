"""Networks in the form in which a CPU samples from them: weights packed once, and each sample computed by itself.

PyTorch packs the weights of a convolution anew at each call, which for a single small volume takes longer than the
convolution, and matrix products over all rows of a batch round by a row's place in it. Here the weights stay as oneDNN
wants them, and every sample has products of its own. On one thread a sample then has the same bits alone, in any
batch, and at any place in it.

In bfloat16 are convolutions and what lies between them. Embeddings, sums within norms, the softmax of attention, which
torch's own keeps in float32, and the last layer stay in float32, so that no rounded number leaves a network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from meddiff_core.models.fused_layers import PointwiseConvolution, UpsamplingConvolution, upsampling_kernel
from meddiff_core.models.inference.instructions import require_bfloat16

Network = TypeVar("Network", bound=nn.Module)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""By `sampling.precision`."""
TAPS = {2: ([3, 1], [2, 0]), 1: ([2, 1, 0],)}
"""Taps of an upsampling kernel along an axis, for even and for odd voxels; for all of them where it is not doubled."""


def for_inference(network: Network, device: str, dtype: torch.dtype = torch.float32) -> Network:
    """The network in the form that samples: packed for a CPU, as it is for a GPU.

    Raises:
        ConfigurationError: it is to compute in bfloat16, for which the device has no instructions.
    """
    if dtype == torch.bfloat16:
        require_bfloat16("sampling.precision", device)
    return packed(network, dtype) if device == "cpu" else network


def packed(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """A copy of a float32 network that computes the same, without gradients; its weights cannot be read any more.

    `dtype` is that of its convolutions, and of what lies between them: float32 or bfloat16.
    """
    from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock

    copied = deepcopy(network).eval().requires_grad_(False)
    last = _last_convolution(copied)
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, UpsamplingConvolution):
            copied.set_submodule(name, PackedUpsampling(layer, dtype))
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, nn.Conv3d) and _can_be_packed(layer):
            copied.set_submodule(name, PackedConvolution(layer, torch.float32 if layer is last else dtype))
        elif isinstance(layer, nn.Linear):
            copied.set_submodule(name, PerSampleLinear(layer.weight, layer.bias))
        elif isinstance(layer, PointwiseConvolution):
            copied.set_submodule(name, PerSamplePointwise(layer.weight, layer.bias))
    for name, layer in list(copied.named_modules()):
        if isinstance(layer, DiffusionUNetResnetBlock):
            copied.set_submodule(name, ResidualBlock(layer))
    return copied


def _last_convolution(network: nn.Module) -> nn.Module:
    """The layer whose output leaves a decoder or a denoiser."""
    part = network.get_submodule("network")
    part = part.get_submodule("decoder" if hasattr(part, "decoder") else "out")
    return [layer for layer in part.modules() if isinstance(layer, nn.Conv3d)][-1]


def _can_be_packed(layer: nn.Conv3d) -> bool:
    known = torch.backends.mkldnn.is_available() and layer.weight.dtype == torch.float32
    return bool(known and layer.groups == 1 and layer.padding_mode == "zeros")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread within the block: how many share a sum decides how it is rounded. Processes use more cores better."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class PackedConvolution(nn.Module):
    """A convolution whose weights are packed for the last input shape that it saw; input is rounded to their type."""

    def __init__(self, convolution: nn.Conv3d, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._weight = convolution.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self._bias = None if convolution.bias is None else convolution.bias.detach().to(dtype)
        self._how = list(map(int, convolution.padding)), list(convolution.stride), list(convolution.dilation)
        self._seen: tuple[Size, bool] | None = None
        self._packed = self._weight

    def forward(self, x: Tensor, haloed: bool = False) -> Tensor:
        """`haloed`: the outermost slices along i are neighbours, in the place of padding."""
        padding, *rest = self._how
        how = [0 if haloed else padding[0], *padding[1:]], *rest
        x = x.to(self._weight.dtype)
        if self._seen != (x.shape, haloed):
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *how, 1, list(x.shape))
            self._seen = x.shape, haloed
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed, self._bias, *how, 1, "none", [], ""
        )
        return convolved


class PackedUpsampling(nn.Module):
    """Upsampling and convolution as one convolution of 2x2x2 that gives all eight voxels of each doubled one.

    Along an axis that is not doubled the convolution has 3 voxels, and gives one.
    """

    def __init__(self, layer: UpsamplingConvolution, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.factors = layer.factors
        kernel = upsampling_kernel(layer.convolution.weight.detach(), self.factors).transpose(0, 1)
        out, given = kernel.shape[:2]
        along_i, along_j, along_k = (TAPS[factor] for factor in self.factors)
        parts = [kernel[:, :, p][:, :, :, q][:, :, :, :, r] for p, q, r in product(along_i, along_j, along_k)]
        i, j, k = parts[0].shape[2:]
        convolution = nn.Conv3d(given, len(parts) * out, (i, j, k), padding=1)
        convolution.weight = nn.Parameter(torch.cat(parts), requires_grad=False)
        bias = layer.convolution.bias
        convolution.bias = None if bias is None else nn.Parameter(bias.detach().repeat(len(parts)), requires_grad=False)
        self.convolution = PackedConvolution(convolution, dtype)

    def forward(self, x: Tensor, emb: Tensor | None = None, haloed: bool = False) -> Tensor:
        """`emb` is what MONAI's own layer ignores too. `haloed`: the outermost slices along i are neighbours alone."""
        a, b, c = self.factors
        parts = self.convolution(x, haloed).chunk(a * b * c, dim=1)
        i, j, k = (side + 1 - factor for side, factor in zip(parts[0].shape[2:], self.factors, strict=True))
        size = len(x), parts[0].shape[1], a * i, b * j, c * k
        doubled = torch.empty(size, dtype=parts[0].dtype, memory_format=torch.channels_last_3d)
        for part, (p, q, r) in zip(parts, product(range(a), range(b), range(c)), strict=True):
            doubled[:, :, p::a, q::b, r::c] = part[:, :, p : p + i, q : q + j, r : r + k]
        return doubled


class PerSampleLinear(nn.Module):
    """A linear layer (b, ..., n) to (b, ..., m), as one matrix product per sample, of the type of its input."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._columns, self._bias = weight.detach().flatten(1).t().contiguous(), bias
        self._rounded = {torch.float32: (self._columns, bias)}

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), -1, x.shape[-1])
        if x.dtype not in self._rounded:
            self._rounded[x.dtype] = self._columns.to(x.dtype), None if self._bias is None else self._bias.to(x.dtype)
        columns, bias = self._rounded[x.dtype]
        columns = columns.expand(len(x), -1, -1)
        mapped = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias, rows, columns)
        return mapped.reshape(*x.shape[:-1], -1)


class PerSamplePointwise(PerSampleLinear):
    """A convolution of 1x1x1 likewise."""

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = super().forward(x.movedim(1, -1))
        return mapped.movedim(-1, 1)


class ResidualBlock(nn.Module):
    """The denoiser's residual block, which adds in place: MONAI's own goes on in float32 after the embedding."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        part: Any = self.block
        inner: Tensor = functional.silu(part.norm1(x), inplace=True)
        resample = part.upsample or part.downsample
        if resample is not None:
            x, inner = resample(x), resample(inner)
        inner = part.conv1(inner)
        inner += part.time_emb_proj(functional.silu(emb))[..., None, None, None]
        inner = part.conv2(functional.silu(part.norm2(inner), inplace=True))
        inner += part.skip_connection(x)
        return inner
