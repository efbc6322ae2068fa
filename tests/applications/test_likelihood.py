"""The likelihood against the closed form of Gaussian latents."""

import math

import pytest
import torch

from meddiff_core.applications.tasks.likelihood import bits_per_dimension, log_likelihood
from meddiff_core.applications.tasks.starts import LOWEST, levels
from meddiff_core.types import Latents, Sigma

STD = 0.5


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise of latents of standard deviation 0.5."""
    return noisy * STD**2 / (STD**2 + sigma.reshape(-1, 1, 1, 1, 1) ** 2)


def mixing(noisy: Latents, sigma: Sigma) -> Latents:
    """The same for latents whose neighbours along the first axis share half of their variance."""
    pairs = noisy.reshape(len(noisy), 1, -1, 2, *noisy.shape[3:])
    mean = pairs.mean(3, keepdim=True)
    level = sigma.reshape(-1, 1, 1, 1, 1, 1) ** 2
    common, own = mean * 1.5 / (1.5 + level), (pairs - mean) * 0.5 / (0.5 + level)
    return (common + own).reshape(noisy.shape)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_likelihood_is_that_of_gaussian_latents(models, factor: float) -> None:  # type: ignore[no-untyped-def]
    latents = factor * STD * torch.randn((1, 2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    variance = STD**2 + LOWEST**2
    exact = float(-0.5 * (latents.double().square().sum() / variance + 128 * math.log(2 * math.pi * variance)))
    found = log_likelihood(gaussian, latents, levels(models, 120), seed=0)
    assert found == pytest.approx(exact, abs=0.01 * 128)
    assert bits_per_dimension(exact, 128) == pytest.approx(-exact / 128 / math.log(2))


def test_the_trace_counts_what_latents_share(models) -> None:  # type: ignore[no-untyped-def]
    latents = torch.randn((1, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    pairs = latents.double().reshape(2, 2, 16)
    common, own = pairs.mean(1) * 2**0.5, (pairs[:, 0] - pairs[:, 1]) / 2**0.5
    exact = sum(
        float(-0.5 * (part.square() / variance + math.log(2 * math.pi * variance)).sum())
        for part, variance in ((common, 1.5 + LOWEST**2), (own, 0.5 + LOWEST**2))
    )
    found = [log_likelihood(mixing, latents, levels(models, 60), seed, probes=4) for seed in (0, 1)]
    assert found[0] != found[1]
    assert sum(found) / 2 == pytest.approx(exact, abs=0.05 * 64)
