"""Reconstruction figures agree with their formulas, and a perfect copy is perfect."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, SSIMMetric
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.images import load_images, unit_image
from meddiff_core.models.reconstruction import reconstruction_metrics, reconstructions
from meddiff_core.types import Images

Measure = Callable[..., dict[str, float]]


@pytest.fixture
def measure(contract: Contract) -> Measure:
    """(volumes, change) to the figures of an autoencoder that does just that to its input."""

    def run(volumes: Any, change: Callable[[Images], Images]) -> dict[str, float]:
        network = Autoencoder(AutoencoderShape(in_channels=4, channels=(8,), latent_channels=1))
        network.reconstruct = change  # type: ignore[method-assign]
        own = contract if volumes.labels is not None else contract.model_copy(update={"labels": {}})
        return reconstruction_metrics(network, volumes, range(len(volumes)), own)

    return run


def damage(images: Images) -> Images:
    """Another image, and a third of the labels wrong."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    wrong = torch.rand(images[:, :1].shape, generator=generator) < 1 / 3
    labels = torch.where(wrong, images[:, 1:].roll(1, dims=1), images[:, 1:])
    return torch.cat([images[:, :1] + 0.1 * noise[:, :1], labels], dim=1)


def test_a_perfect_copy_is_perfect(measure: Measure, make_volumes: Callable) -> None:
    figures = measure(make_volumes(2), lambda images: images.clone())
    assert figures == {
        "validation/psnr": pytest.approx(120),
        "validation/ssim": pytest.approx(1),
        "validation/dice/left": 1,
        "validation/dice/right": 1,
    }


def test_no_label_right_is_a_dice_of_zero(measure: Measure, make_volumes: Callable) -> None:
    figures = measure(make_volumes(1), lambda images: torch.cat([images[:, :1], images[:, 1:].roll(1, dims=1)], dim=1))
    assert figures["validation/dice/left"] == figures["validation/dice/right"] == 0


def test_psnr_is_its_formula_in_double_precision(measure: Measure, make_volumes: Callable, contract: Contract) -> None:
    volumes = make_volumes(2)
    expected = []
    for index in range(2):
        images = load_images(volumes, [index], contract)
        error = unit_image(images).double() - unit_image(damage(images)).double()
        expected.append(10 * np.log10(1 / (error**2).mean().item()))
    assert measure(volumes, damage)["validation/psnr"] == pytest.approx(np.mean(expected), abs=1e-3)


def test_dice_and_ssim_are_those_of_monai(measure: Measure, make_volumes: Callable, contract: Contract) -> None:
    volumes = make_volumes(2)
    figures = measure(volumes, damage)
    dice, ssim = DiceMetric(include_background=False), SSIMMetric(3, data_range=1.0, win_size=7)
    for index in range(2):
        images = load_images(volumes, [index], contract)
        copy = damage(images)
        dice(copy[:, 1:], images[:, 1:])
        ssim(unit_image(copy)[:, None], unit_image(images)[:, None])
    ours = torch.tensor([figures["validation/dice/left"], figures["validation/dice/right"]])
    assert_close(ours, dice.aggregate("mean_batch"))
    assert figures["validation/ssim"] == pytest.approx(ssim.aggregate().item(), abs=1e-5)
    assert 0.5 < ours.min() < ours.max() < 0.8


def test_a_group_that_neither_map_has_is_left_out(measure: Measure, make_volumes: Callable) -> None:
    volumes = make_volumes(3)
    volumes.labels[:, :] = 0
    volumes.labels[1, 3:5] = 2
    figures = measure(volumes, lambda images: images.clone())
    assert "validation/dice/left" not in figures
    assert figures["validation/dice/right"] == 1


def test_a_study_without_labels_has_no_dice(measure: Measure, make_volumes: Callable) -> None:
    figures = measure(make_volumes(1, labels=False), lambda images: images.clone())
    assert figures.keys() == {"validation/psnr", "validation/ssim"}


def test_no_volumes_have_no_figures(measure: Measure, make_volumes: Callable) -> None:
    assert measure(make_volumes(0), damage) == {}


def test_reconstructions_are_those_of_the_network(make_volumes: Callable, contract: Contract) -> None:
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderShape(in_channels=4, channels=(8, 8), latent_channels=2)).eval()
    volumes = make_volumes(3)
    [(images, copy)] = reconstructions(network, volumes, [2], contract)
    assert torch.equal(images, load_images(volumes, [2], contract))
    assert_close(copy, network.reconstruct(images).detach())
