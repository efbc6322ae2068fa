"""A packed network computes what the network does, and each sample for itself: the same bits in any company."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from meddiff_core.contract import ContinuousCondition
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.denoiser import Denoiser, DenoiserShape
from meddiff_core.models.fused_layers import UpsamplingConvolution
from meddiff_core.models.inference.instructions import bfloat16_instructions
from meddiff_core.models.inference.packed import (
    PackedConvolution,
    PackedUpsampling,
    PerSampleLinear,
    one_thread,
    packed,
)

AGE = ContinuousCondition(name="age", low=20, high=80, mean=50, std=10)
Function = Callable[[Tensor], Tensor]
HALF = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(bfloat16_instructions() is None, reason="no instructions for bfloat16")
)
TYPES = pytest.mark.parametrize("dtype", [torch.float32, HALF])


def denoiser() -> nn.Module:
    return Denoiser(DenoiserShape(latent_channels=4, channels=(32, 64)), (AGE,))


def decoder() -> nn.Module:
    return Autoencoder(AutoencoderShape(in_channels=3, channels=(8, 16, 32), latent_channels=4))


def function(network: nn.Module) -> Function:
    if isinstance(network, Autoencoder):
        return network.decode
    return lambda x: network(x, x[:, 0, 0, 0, 0].abs() + 0.1, x[:, 0, 0, 0, :1])


@pytest.fixture(params=[denoiser, decoder])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    built: nn.Module = request.param().eval().requires_grad_(False)
    for parameter in built.parameters():  # MONAI starts its last layers at 0, where every network looks alike
        parameter.normal_(0, 0.1)
    return built


def latents(count: int = 7) -> Tensor:
    return torch.randn(count, 4, 4, 6, 4, generator=torch.Generator().manual_seed(0))


def test_it_computes_the_same(network: nn.Module) -> None:
    wanted = function(network)(latents())
    copied = packed(network)
    torch.testing.assert_close(function(copied)(latents()), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())
    assert any(isinstance(layer, PackedConvolution) for layer in copied.modules())
    assert any(isinstance(layer, PerSampleLinear) for layer in copied.modules())
    assert not any(isinstance(layer, nn.Conv3d | nn.Linear) for layer in copied.modules())
    assert torch.equal(function(network)(latents()), wanted)


@pytest.mark.parametrize("dtype", [HALF])
def test_in_bfloat16_it_is_near_and_its_output_is_not_rounded(network: nn.Module, dtype: torch.dtype) -> None:
    wanted, found = function(network)(latents()), function(packed(network, dtype))(latents())
    assert found.dtype == torch.float32
    assert 1e-4 < (found - wanted).norm() / wanted.norm() < 0.02
    assert (found != found.bfloat16()).float().mean() > 0.5


@TYPES
def test_the_same_bits_alone_and_in_any_batch_at_any_place(network: nn.Module, dtype: torch.dtype) -> None:
    compute, given = function(packed(network, dtype)), latents()
    with one_thread():
        together = compute(given)
        for size in range(1, len(given)):
            assert torch.equal(torch.cat([compute(part) for part in given.split(size)]), together)
        order = [6, 2, 4, 0, 1, 5, 3]
        assert torch.equal(compute(given[order]), together[order])


@TYPES
def test_other_sizes_may_follow(network: nn.Module, dtype: torch.dtype) -> None:
    compute = function(packed(network, dtype))
    first = compute(latents(2))
    compute(torch.ones(1, 4, 8, 8, 8))
    assert torch.equal(compute(latents(2)), first)


@pytest.mark.parametrize("bias", [True, False])
def test_upsampling_without_and_with_a_bias(bias: bool) -> None:
    postconv = nn.Sequential()
    postconv.add_module("conv", nn.Conv3d(4, 6, 3, padding=1, bias=bias))
    layer, x = UpsamplingConvolution(postconv).requires_grad_(False), torch.randn(2, 4, 3, 5, 4)
    torch.testing.assert_close(PackedUpsampling(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / (torch.get_num_threads() - 1)  # of one thread
    assert torch.get_num_threads() == before
