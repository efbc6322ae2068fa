"""Samples of the posterior: volumes that a scan, or what is left of it, is a likely measurement of.

One sample after the other, each a pure function of models, scan, settings and its number; what they have in common is
computed once. The first noise level is so high that what is observed alone decides there, and the next is where
samples begin to differ: between the two nothing happens that a solver would have to walk through.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from meddiff_core.applications.calibration import Tensors
from meddiff_core.applications.models import Decoded, Models
from meddiff_core.applications.posterior.observation import Observation
from meddiff_core.applications.posterior.observed import Effort, Posterior, observed
from meddiff_core.applications.posterior.tolerance import as_images
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.diffusion.solvers import Sigmas, solve_adams
from meddiff_core.generation.engine import sample_noise
from meddiff_core.models.inference.packed import one_thread
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import Latents, Progress, Work

HIGHEST, HIGH, LOW = 40.0, 4.0, 0.08
"""Noise levels of the common start, and the ends of those that each sample walks through."""


@dataclass(frozen=True)
class PosteriorSamples:
    """Volumes given a scan, on the CPU."""

    images: Float[Tensor, "s i j k"]
    """Intensities, 0 to 1."""
    probabilities: Float[Tensor, "l i j k"]
    """Of each label value, mean over samples."""
    counts: Float[Tensor, "s l"]
    """Voxels of each label value."""
    figures: dict[str, float]
    """How well each observation is met, `chi_NAME`: the root mean square difference in its standard deviations."""

    @property
    def mean(self) -> Float[Tensor, "i j k"]:
        """Mean image."""
        return self.images.mean(dim=0)

    def std(self, autoencoder: Float[Tensor, "i j k"]) -> Float[Tensor, "i j k"]:
        """Expected error of the mean: the spread of the images, and what the autoencoder keeps of none."""
        count = len(self.images)
        spread = self.images.var(dim=0) * (1 + 1 / count) if count > 1 else torch.zeros_like(autoencoder)
        return (spread + autoencoder.square()).sqrt()

    @property
    def labels(self) -> UInt8[Tensor, "i j k"]:
        """The most likely label value of each voxel."""
        return self.probabilities.argmax(dim=0).to(torch.uint8)


def posterior_sigmas(models: Models, steps: int) -> Sigmas:
    """So many noise levels, then 0: the highest, and the others in equal ratios."""
    lowest, highest = models.denoiser.clock.sigma_range
    high, low = min(HIGH, highest), max(LOW, lowest)
    ladder = torch.logspace(0, 1, max(steps - 1, 1), base=low / high, dtype=torch.float64) * high
    ends = (torch.tensor([value], dtype=torch.float64) for value in (min(HIGHEST, highest), 0.0))
    first, last = ends
    return torch.cat([first, ladder, last]) if first > ladder[0] else torch.cat([ladder, last])


def sample_posterior(
    models: Models,
    scan: GridScan,
    settings: TaskSettings,
    observations: Sequence[Observation],
    tolerance: Tensors,
    like: Float[Tensor, "i j k"] | None = None,
    effort: Effort = Effort(),  # noqa: B008  # frozen
) -> Work[PosteriorSamples]:
    """The samples of a scan; `like` is an image near which to begin, where what is observed gives one."""
    sigmas = posterior_sigmas(models, settings.levels)
    with one_thread():
        shared = _begun(models, scan, observations, tolerance, like, effort, float(sigmas[0]))
    images, counts, chi = list[Tensor](), list[Tensor](), list[dict[str, float]]()
    probabilities: Tensor | None = None
    for number in range(settings.samples):
        with one_thread():
            posterior = shared.anew()
            decoded = _sample(models, scan, settings.seed, posterior, sigmas, number)
        images.append(decoded.image[0].clamp(0, 1))
        counts.append(_voxels(decoded))
        probabilities = decoded.labels[0] + (0 if probabilities is None else probabilities)
        chi.append(posterior.chi())
        yield Progress("posterior samples", number + 1, settings.samples)
    assert probabilities is not None
    figures = {f"chi_{name}": _root_mean_square([one[name] for one in chi]) for name in chi[0]}
    return PosteriorSamples(torch.stack(images), probabilities / settings.samples, torch.stack(counts), figures)


def _begun(
    models: Models,
    scan: GridScan,
    observations: Sequence[Observation],
    tolerance: Tensors,
    like: Tensor | None,
    effort: Effort,
    sigma: float,
) -> Posterior:
    denoised_at = models.denoised_under(scan.condition or {})
    start = None if like is None else _start(models, denoised_at(*_nothing(models, sigma)), like)
    placed = [
        Observation(one.operator, one.value.to(models.device), one.std.to(models.device), one.name)
        for one in observations
    ]
    variance = tolerance["variance"][None].to(models.device)
    posterior = observed(denoised_at, models.decode, placed, effort, variance, start)
    posterior.begin(*_nothing(models, sigma))
    return posterior


def _nothing(models: Models, sigma: float) -> tuple[Latents, Tensor]:
    return torch.zeros(1, *models.latent_shape, device=models.device), torch.tensor([sigma], device=models.device)


@torch.no_grad()
def _start(models: Models, usual: Latents, like: Tensor) -> Latents:
    """Latents of an image with the labels that a usual volume has: the encoder is nearly the decoder's inverse."""
    labels = models.decode(usual).labels
    return models.encode(as_images(like[None].to(labels), labels))


def _sample(models: Models, scan: GridScan, seed: int, posterior: Posterior, sigmas: Sigmas, number: int) -> Decoded:
    noise = sample_noise(derive_seed(seed, scan.digest, number), models.latent_shape).to(models.device)
    latents = solve_adams(posterior, noise * float(sigmas[0]), sigmas)
    with torch.no_grad():
        decoded = models.decode(latents)
    return Decoded(decoded.image.cpu(), decoded.labels.cpu())


def _voxels(decoded: Decoded) -> Tensor:
    values = decoded.labels.shape[1]
    if not values:
        return torch.zeros(0)
    return torch.bincount(decoded.labels[0].argmax(dim=0).flatten(), minlength=values).float()


def _root_mean_square(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).square().mean().sqrt())
