"""A faster layer computes what MONAI's own does, forwards and backwards, under the same names."""

import copy
from collections.abc import Callable

import pytest
import torch
from monai.networks.blocks import SABlock
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn

from meddiff_core.models.fused_layers import PointwiseConvolution, UpsamplingConvolution, replace_slow_layers


def autoencoder() -> nn.Module:
    return AutoencoderKL(
        spatial_dims=3, in_channels=2, out_channels=2, num_res_blocks=(1, 1), channels=(8, 16),
        attention_levels=(False, False), latent_channels=3, norm_num_groups=4,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
    )  # fmt: skip


def unet() -> nn.Module:
    return DiffusionModelUNet(
        spatial_dims=3, in_channels=2, out_channels=2, num_res_blocks=(1, 1), channels=(32, 64),
        attention_levels=(False, True), norm_num_groups=16, num_head_channels=32,
    )  # fmt: skip


@pytest.mark.parametrize("build", [autoencoder, unet])
def test_network_and_gradients_stay_the_same(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    own = build().double()
    with torch.no_grad():  # MONAI starts its last layers at 0, where every network looks alike
        for parameter in own.parameters():
            parameter.normal_(0, 0.1)
    faster = copy.deepcopy(own)
    replace_slow_layers(faster)
    assert {type(layer) for layer in faster.modules()} >= {UpsamplingConvolution, PointwiseConvolution}
    assert all(layer.use_flash_attention for layer in faster.modules() if isinstance(layer, SABlock))
    inputs = torch.randn(2, 2, 8, 12, 8, dtype=torch.float64, requires_grad=True)
    for one, other in zip(outcome(own, inputs), outcome(faster, inputs), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


def outcome(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Output, and gradients by weight and input."""
    if isinstance(network, AutoencoderKL):
        output = network.decode(network.encode(inputs)[0])
    else:
        output = network(inputs, torch.tensor([3.0, 500.0], dtype=torch.float64))
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(output.square().mean(), [*parameters, inputs], allow_unused=True)
    return [output, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("build", [autoencoder, unet])
def test_weights_keep_their_names(build: Callable[[], nn.Module]) -> None:
    network = build()
    names = {name: tensor.shape for name, tensor in network.state_dict().items()}
    replace_slow_layers(network)
    assert {name: tensor.shape for name, tensor in network.state_dict().items()} == names


def test_other_upsampling_is_left_alone() -> None:
    from monai.networks.blocks import UpSample

    layer = nn.Sequential(UpSample(3, 4, 4, mode="deconv"), UpSample(3, 4, 4, mode="nontrainable"))
    replace_slow_layers(layer)
    assert all(isinstance(child, UpSample) for child in layer)
