"""The posterior against closed forms: with a linear decoder and Gaussian latents both are known exactly."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from meddiff_core.applications.models import Decoded
from meddiff_core.applications.posterior.observation import Observation, image_alone, voxels
from meddiff_core.applications.posterior.observed import Effort, Posterior, observed
from meddiff_core.diffusion.solvers import Sigmas, solve_heun
from meddiff_core.types import Latents, Sigma

THOROUGH = Effort(first=30, level=8, last=8)
NOISE = 0.2
SHAPE = (2, 2, 2, 2)
MIXING = torch.randn(27, 16, generator=torch.Generator().manual_seed(0)) * 0.3
"""Decoder of 16 latents to 27 voxels."""
SIGMAS: Sigmas = torch.cat([torch.logspace(1.5, -2, 60, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])


def decode(latents: Latents) -> Decoded:
    image = (latents.flatten(1) @ MIXING.T).reshape(-1, 3, 3, 3)
    return Decoded(image, torch.zeros(len(latents), 0, 3, 3, 3))


def standard(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise of standard normal latents."""
    return noisy / (1 + sigma.reshape(-1, 1, 1, 1, 1) ** 2)


def half_seen() -> tuple[Observation, Tensor]:
    """An observation of 9 of 27 voxels, and its rows of the decoder."""
    mask = torch.zeros(3, 3, 3, dtype=torch.bool)
    mask[0] = True
    value = torch.randn(9, generator=torch.Generator().manual_seed(1))
    return Observation(voxels(mask), value, torch.tensor(NOISE)), MIXING[mask.flatten()]


def exact() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the latents given the observation."""
    observation, rows = half_seen()
    covariance = torch.linalg.inv(torch.eye(16) + rows.T @ rows / NOISE**2)
    return covariance @ rows.T @ observation.value / NOISE**2, covariance


def noise(count: int) -> Latents:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(2))


def posterior(effort: Effort = THOROUGH, through: bool = False) -> Posterior:
    return observed(standard, decode, [half_seen()[0]], effort, through_denoiser=through)


@pytest.mark.parametrize(("through", "tolerance"), [(False, 1e-3), (True, 0.02)])
def test_the_expectation_at_a_noise_level_is_that_of_gaussian_data(through: bool, tolerance: float) -> None:
    noisy, sigma = noise(3) * 1.5, 1.2
    _, rows = half_seen()
    observation = half_seen()[0]
    precision = torch.eye(16) * (1 + 1 / sigma**2) + rows.T @ rows / NOISE**2
    right = noisy.flatten(1) / sigma**2 + rows.T @ observation.value / NOISE**2
    found = posterior(Effort(first=40, level=60), through)(noisy, torch.full((3,), sigma))
    assert_close(found.flatten(1), torch.linalg.solve(precision, right.T).T, rtol=0, atol=tolerance)


def test_samples_have_the_mean_and_the_spread_of_the_posterior() -> None:
    mean, covariance = exact()
    start = noise(3) * float(SIGMAS[0])
    samples = solve_heun(posterior(Effort(first=40, level=3, last=3)), start, SIGMAS[::2]).flatten(1)
    # The flow is linear: noise to sample by the root of the covariance, but for the first level's own variance.
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    assert_close(samples, mean + noise(3).flatten(1) @ root, rtol=0, atol=0.06)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    start = noise(3) * 30
    together = solve_heun(posterior(), start, SIGMAS[::10])
    assert torch.equal(together[1:2], solve_heun(posterior(), start[1:2], SIGMAS[::10]))


def test_another_walk_from_what_is_common_has_the_same_bits() -> None:
    first = posterior()
    start = noise(1) * 30
    once = solve_heun(first, start, SIGMAS[::10])
    assert torch.equal(solve_heun(first.anew(), start, SIGMAS[::10]), once)


def test_nothing_observed_changes_nothing_but_rounding() -> None:
    nothing = Observation(image_alone, torch.zeros(3, 3, 3), torch.tensor(1e6))
    plain = solve_heun(standard, noise(1) * 30, SIGMAS[::4])
    given = solve_heun(observed(standard, decode, [nothing], THOROUGH), noise(1) * 30, SIGMAS[::4])
    assert_close(given, plain, rtol=0, atol=1e-4)


def test_chi_says_how_well_an_observation_is_met() -> None:
    def chi(effort: Effort) -> float:
        walked = posterior(effort)
        latents = solve_heun(walked, noise(2) * 30, SIGMAS[::6])
        observation, rows = half_seen()
        residual = (latents.flatten(1) @ rows.T - observation.value) / NOISE
        assert walked.chi()["image"] == pytest.approx(float(residual.square().mean().sqrt()), rel=0.02)
        return walked.chi()["image"]

    assert chi(THOROUGH) < chi(Effort(first=1, level=0, last=0))


def test_a_nonlinear_decoder_is_fitted_from_afar() -> None:
    def folded(latents: Latents) -> Decoded:
        image = decode(latents).image
        return Decoded(image + 0.3 * torch.sin(3 * image), torch.zeros(len(latents), 0, 3, 3, 3))

    truth = noise(1)
    value = folded(truth).image[0]
    walked = observed(standard, folded, [Observation(image_alone, value, torch.tensor(0.01))], Effort(level=8, last=8))
    latents = solve_heun(walked, noise(1) * 30, SIGMAS[::4])
    assert float((folded(latents).image - value).abs().mean()) < 0.05
    assert walked.chi()["image"] < 5
