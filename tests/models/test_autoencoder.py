"""The autoencoder is MONAI's network, with one meaning of its outputs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.errors import IntegrityError
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape, load_autoencoder, save_autoencoder
from meddiff_core.models.images import load_images
from meddiff_core.types import Images


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderShape(in_channels=4, channels=(8, 8, 8), latent_channels=3)).eval()


@pytest.fixture(scope="module")
def images(make_volumes: Callable, contract: Contract) -> Images:
    return load_images(make_volumes(2), [0, 1], contract)


@torch.inference_mode()
def test_every_level_but_the_first_halves_the_latents(network: Autoencoder, images: Images) -> None:
    mean, log_variance = network.encode(images)
    size = network.shape.latent_size((16, 16, 16))
    assert network.shape.downsampling == (4, 4, 4)
    assert tuple(mean.shape) == tuple(log_variance.shape) == (2, 3, *size) == (2, 3, 4, 4, 4)
    assert network.decode(mean).shape == images.shape


@torch.inference_mode()
def test_the_posterior_is_that_of_monai(network: Autoencoder, images: Images) -> None:
    mean, sigma = network.network.encode(images)
    ours, log_variance = network.encode(images)
    assert_close(ours, mean)
    assert_close((0.5 * log_variance).exp(), sigma)


@torch.inference_mode()
def test_the_reconstruction_is_that_of_monai(network: Autoencoder, images: Images) -> None:
    assert_close(network.decode_logits(network.encode(images)[0]), network.network.reconstruct(images))


@torch.inference_mode()
def test_decoded_labels_are_probabilities_and_the_image_is_as_it_came(network: Autoencoder) -> None:
    latents = torch.randn(2, 3, 4, 4, 4)
    decoded, logits = network.decode(latents), network.decode_logits(latents)
    assert_close(decoded[:, 1:].sum(dim=1), torch.ones(2, 16, 16, 16))
    assert decoded[:, 1:].min() >= 0
    assert torch.equal(decoded[:, 0], logits[:, 0])


@torch.inference_mode()
def test_a_study_without_labels_has_an_image_alone() -> None:
    network = Autoencoder(AutoencoderShape(in_channels=1, channels=(8, 8), latent_channels=1)).eval()
    assert network.reconstruct(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 1, 8, 8, 8)


@torch.inference_mode()
def test_a_loaded_autoencoder_gives_the_same_bits(
    tmp_path: Path, network: Autoencoder, images: Images, contract: Contract
) -> None:
    save_autoencoder(tmp_path / "autoencoder", network, contract, {"steps": 3})
    loaded, own = load_autoencoder(tmp_path / "autoencoder")
    assert own == contract
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.reconstruct(images), network.reconstruct(images))


def test_weights_of_another_shape_are_refused(tmp_path: Path, network: Autoencoder, contract: Contract) -> None:
    save_autoencoder(
        tmp_path / "autoencoder",
        network,
        contract,
        {"shape": {**network.shape.model_dump(mode="json"), "latent_channels": 4}},
    )
    with pytest.raises(IntegrityError, match="weights do not fit Autoencoder"):
        load_autoencoder(tmp_path / "autoencoder")


def test_the_last_weight_is_that_of_the_layer_that_makes_the_channels(network: Autoencoder) -> None:
    assert network.last_weight is network.network.decoder.blocks[-1].conv.weight
    assert network.last_weight.shape == (4, 8, 3, 3, 3)
