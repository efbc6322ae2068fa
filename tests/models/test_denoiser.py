"""The denoiser is MONAI's network behind the preconditioning of Karras et al. 2022."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale, load_denoiser, save_denoiser
from meddiff_core.models.inference.packed import packed
from meddiff_core.models.preconditioning import NOISE_TO_TIME, preconditioning

CONDITIONS = torch.tensor([[0.3, 1.0], [math.nan, 0.0], [-1.0, math.nan]])
SIGMA = torch.tensor([0.02, 0.7, 30.0])


@pytest.fixture(scope="module")
def denoiser(contract: Contract) -> Denoiser:
    """With random weights everywhere: MONAI starts with zeros where a residual ends."""
    torch.manual_seed(0)
    network = Denoiser(DenoiserShape(latent_channels=3, channels=(32, 32)), contract.conditions).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture(scope="module")
def noisy() -> torch.Tensor:
    return torch.randn((3, 3, 4, 4, 4), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_denoised_is_the_formula_applied_to_the_network(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    level = SIGMA.double().reshape(-1, 1, 1, 1, 1)
    scaled = (noisy / (level**2 + 1).sqrt()).float()
    residual = denoiser.network(scaled, NOISE_TO_TIME * SIGMA.log(), class_labels=CONDITIONS)
    expected = noisy / (level**2 + 1) + residual * level / (level**2 + 1).sqrt()
    assert residual.std() > 0.01
    assert_close(denoiser(noisy, SIGMA, CONDITIONS), expected.float())


@torch.inference_mode()
def test_a_network_that_says_nothing_gives_the_best_guess_for_unit_gaussians(
    contract: Contract, noisy: torch.Tensor
) -> None:
    fresh = Denoiser(DenoiserShape(latent_channels=3, channels=(32, 32)), contract.conditions).eval()
    expected = noisy / (SIGMA.reshape(-1, 1, 1, 1, 1) ** 2 + 1)
    assert_close(fresh(noisy, SIGMA, CONDITIONS), expected)


@torch.inference_mode()
def test_both_noise_level_and_conditions_reach_the_network(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    residuals = [
        denoiser.network(noisy, NOISE_TO_TIME * sigma.log(), class_labels=conditions)
        for sigma, conditions in ((SIGMA, CONDITIONS), (SIGMA * 1.01, CONDITIONS), (SIGMA, CONDITIONS.flip(0)))
    ]
    assert (residuals[1] - residuals[0]).abs().max() > 1e-4
    assert (residuals[2] - residuals[0]).abs().max() > 1e-4


def test_without_noise_the_input_passes_and_the_network_is_silent() -> None:
    c_skip, c_out, c_in = preconditioning(torch.tensor([1e-8]))
    assert_close(torch.cat([c_skip, c_out, c_in]).flatten(), torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=1e-7)


def test_under_much_noise_the_network_says_it_all() -> None:
    c_skip, c_out, c_in = preconditioning(torch.tensor([1e8]), sigma_data=0.5)
    assert_close(torch.cat([c_skip, c_out, c_in]).flatten(), torch.tensor([0.0, 0.5, 0.0]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_input_and_target_of_the_network_have_unit_variance(sigma_data: float) -> None:
    """What c_in, c_skip and c_out are for (Karras et al. 2022, appendix B.6), for independent data and noise."""
    sigma = torch.logspace(-2, 2, 9, dtype=torch.float64)
    c_skip, c_out, c_in = (c.flatten() for c in preconditioning(sigma, sigma_data))
    ones = torch.ones_like(sigma)
    assert_close(c_in**2 * (sigma_data**2 + sigma**2), ones)
    assert_close(((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2, ones)


def test_a_scale_standardises_and_restores() -> None:
    scale = LatentScale(mean=(1.0, -2.0), std=(0.5, 4.0))
    latents = torch.randn(5, 2, 3, 3, 3) * torch.tensor([0.5, 4.0])[:, None, None, None] - 1
    assert_close(scale.restore(scale.standardise(latents)), latents)
    assert_close(scale.standardise(latents)[:, 1], (latents[:, 1] + 2) / 4)


@torch.inference_mode()
def test_a_loaded_denoiser_gives_the_same_bits(
    tmp_path: Path, denoiser: Denoiser, noisy: torch.Tensor, contract: Contract
) -> None:
    scale = LatentScale(mean=(0.1, 0.2, 0.3), std=(1.1, 1.2, 1 / 3))
    save_denoiser(tmp_path / "denoiser", denoiser, contract, scale, "digest", {"steps": 3})
    loaded, own_scale, own = load_denoiser(tmp_path / "denoiser")
    assert (own_scale, own) == (scale, contract)
    assert torch.equal(loaded(noisy, SIGMA, CONDITIONS), denoiser(noisy, SIGMA, CONDITIONS))


def test_attention_is_dropped_in_training_alone(denoiser: Denoiser, noisy: torch.Tensor) -> None:
    sigma, given = torch.full((len(noisy),), 0.5), torch.full((len(noisy), len(denoiser.specs)), torch.nan)
    dropping = deepcopy(denoiser)
    dropping.dropout = 0.5
    with torch.no_grad():
        expected = denoiser.eval()(noisy, sigma, given)
        assert not torch.equal(dropping.train()(noisy, sigma, given), expected)
        assert_close(packed(dropping)(noisy, sigma, given), expected)
        assert torch.equal(dropping.eval()(noisy, sigma, given), expected)
