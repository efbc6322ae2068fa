"""Axes of thick slices are halved less often, and tiled decoding follows."""

from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.fused_layers import upsampled_and_convolved
from meddiff_core.models.inference.footprint import untiled_bytes
from meddiff_core.models.inference.packed import packed
from meddiff_core.models.inference.tiled import decode_tiled

SOME = [
    ((1, 2, 2), (2, 2, 2)),
    ((2, 2, 1), (2, 2, 1)),
    ((2, 1, 2), (1, 1, 1)),
    ((1, 1, 2), (2, 2, 1)),
]


def autoencoder(strides: tuple[tuple[int, int, int], ...] | None) -> Autoencoder:
    torch.manual_seed(0)
    shape = AutoencoderShape(in_channels=3, channels=(8, 8, 16), latent_channels=2, strides=strides)
    return Autoencoder(shape).eval().requires_grad_(False)


@pytest.mark.parametrize("strides", SOME)
def test_latents_have_the_size_that_the_strides_say(strides: tuple[tuple[int, int, int], ...]) -> None:
    network = autoencoder(strides)
    images = torch.randn(1, 3, 16, 12, 8)
    mean, _ = network.encode(images)
    assert tuple(mean.shape[2:]) == network.shape.latent_size((16, 12, 8))
    assert network.decode(mean).shape == images.shape


@pytest.mark.parametrize("strides", SOME)
@pytest.mark.parametrize("slab", [1, 3, 40])
def test_packed_and_tiled_decoding_give_the_same(strides: tuple[tuple[int, int, int], ...], slab: int) -> None:
    network = autoencoder(strides)
    latents = torch.randn(2, 2, 5, 3, 4)
    expected = network.decode(latents)
    for other in (network, packed(network)):
        assert_close(other.decode(latents), expected, atol=2e-5, rtol=1e-4)
        assert_close(decode_tiled(other, latents, slab), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("factors", list(product((1, 2), repeat=3)))
def test_upsampling_along_some_axes_is_interpolation_and_a_convolution(factors: tuple[int, int, int]) -> None:
    doubling = next(layer for layer in autoencoder(None).modules() if hasattr(layer, "postconv"))
    doubling.factors = factors
    x = torch.randn(1, 16, 5, 4, 3)
    for haloed in (False, True):
        expected = upsampled_and_convolved(x, doubling.convolution, haloed, factors)
        assert_close(doubling(x, haloed=haloed), expected, atol=1e-5, rtol=1e-4)


def test_strides_of_two_change_no_bit_and_no_name() -> None:
    plain, told = autoencoder(None), autoencoder(((2, 2, 2), (2, 2, 2)))
    images = torch.randn(1, 3, 16, 12, 8)
    assert list(plain.state_dict()) == list(told.state_dict())
    for one, other in zip(plain.encode(images), told.encode(images), strict=True):
        assert torch.equal(one, other)
    latents = torch.randn(1, 2, 4, 3, 2)
    assert torch.equal(plain.decode(latents), told.decode(latents))
    assert torch.equal(packed(plain).decode(latents), packed(told).decode(latents))


def test_weights_are_the_same_whatever_the_strides() -> None:
    plain, thick = autoencoder(None).state_dict(), autoencoder(SOME[0]).state_dict()
    assert {name: weight.shape for name, weight in plain.items()} == {n: w.shape for n, w in thick.items()}


def test_halving_less_often_takes_more_memory_to_decode() -> None:
    size = (16, 16, 16)
    assert untiled_bytes(autoencoder(None), size) <= untiled_bytes(autoencoder(SOME[1]), size)


@pytest.mark.parametrize("strides", [((2, 2, 2),), ((2, 2, 2), (2, 2, 3))])
def test_other_strides_are_refused(strides: tuple[tuple[int, int, int], ...]) -> None:
    with pytest.raises(ValidationError, match="strides"):
        AutoencoderShape(in_channels=3, channels=(8, 8, 16), latent_channels=2, strides=strides)
