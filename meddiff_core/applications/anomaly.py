"""Where a scan is unlike what the models expect: noise hides what is odd, and the denoiser fills in what is usual.

Restarts at several noise levels give what the models expect at each voxel. Neither the autoencoder nor a registration
is perfect, so edges differ in every scan: what is expected of a voxel is therefore a regression on the restarts, and
the rest is divided by its standard deviation, both fitted on healthy validation scans around each voxel. Where the
restarts tell nothing the regression falls back to the mean of the validation scans, a plain template.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.encoding import Probabilities, encode_image, image_of, mean_labels
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.score import p_value
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.starts import exact_inference, restarted, unguided
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray, Latents, Progress, Work

SIGMAS = (0.3, 1.0, 2.0)
"""Noise levels of the restarts, in standard deviations of the latents."""
NEIGHBOURHOOD = 1.5
"""Standard deviation in voxels of the Gaussian over which coefficients are fitted and variances are averaged."""
SMOOTHING = 1.0
"""Of the z-score, likewise: an anomaly is larger than a voxel, what is left of noise is not."""
RIDGE = 1e-4
"""Added to variances of intensities (0 to 1): a voxel that never varies, such as background, is not divided by 0."""
TOP = 0.001
"""Share of the scan's voxels whose mean z-score is the image score: about 75 voxels of 76,800."""


Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Expectation:
    """What is usual at each voxel, of n healthy scans."""

    mean: FloatArray
    """(1 + levels, i, j, k) of the scan and of its restarts."""
    coefficients: FloatArray
    """(levels, i, j, k) of the restarts."""
    std: FloatArray
    """(i, j, k) of what the regression leaves."""
    scale: FloatArray
    """(i, j, k): standard deviation of the smoothed rest in units of `std`."""

    def z_scores(self, looked_at: FloatArray) -> FloatArray:
        """(i, j, k) of a scan and its restarts (1 + levels, i, j, k)."""
        rest = _rest(looked_at - self.mean, self.coefficients) / self.std
        return np.asarray(gaussian_filter(rest, SMOOTHING) / self.scale, np.float32)

    def expected(self, looked_at: FloatArray) -> FloatArray:
        """(i, j, k): what the regression makes of the restarts."""
        told = (self.coefficients * (looked_at - self.mean)[1:]).sum(0)
        return np.asarray(np.clip(self.mean[0] + told, 0, 1), np.float32)


def fit_expectation(scans: FloatArray) -> Expectation:
    """From healthy scans and their restarts (n, 1 + levels, i, j, k)."""
    mean = scans.mean(0)
    away = scans - mean
    size = len(scans) / max(1, len(scans) - 1)
    moments = size * np.einsum("na...,nb...->ab...", away, away) / len(scans)
    moments = np.stack([[_averaged(one) for one in row] for row in moments])
    own, shared = moments[1:, 1:], moments[1:, 0]
    eye = RIDGE * np.eye(len(own))
    coefficients = np.linalg.solve(np.moveaxis(own, (0, 1), (-2, -1)) + eye, np.moveaxis(shared, 0, -1)[..., None])
    coefficients = np.moveaxis(coefficients[..., 0], -1, 0)
    rest = np.stack([_rest(one, coefficients) for one in away])
    std = np.sqrt(_averaged(size * np.square(rest).mean(0)) + RIDGE)
    smooth = np.stack([gaussian_filter(one / std, SMOOTHING) for one in rest])
    scale = np.sqrt(_averaged(size * np.square(smooth).mean(0)) + RIDGE)
    return Expectation(*(np.ascontiguousarray(one, np.float32) for one in (mean, coefficients, std, scale)))


def _averaged(moment: Numbers) -> Numbers:
    return np.asarray(gaussian_filter(moment, NEIGHBOURHOOD))


def _rest(away: Numbers, coefficients: Numbers) -> Numbers:
    return np.asarray(away[0] - (coefficients * away[1:]).sum(0))


def image_score(z_scores: Numbers) -> float:
    """Mean of the largest absolute z-scores."""
    count = max(1, round(TOP * z_scores.size))
    return float(np.sort(np.abs(z_scores), axis=None)[-count:].mean())


def anomaly(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """A z-score at each voxel, and a score of the scan with its p-value among validation scans."""
    first = yield from mean_labels(models, calibration)
    name = f"anomaly-{settings.samples}-{settings.seed}"
    kept = yield from calibration.kept(name, lambda own, scans: _measure(own, scans, first, settings))
    looked_at = yield from look_at(models, scan, first, settings)
    expectation = _kept_expectation(kept)
    z_scores = expectation.z_scores(looked_at) * scan.inside
    found = image_score(z_scores)
    reference = kept["scores"].numpy()
    figures = {"score": found, "p": p_value(found, reference), "largest_z": float(np.abs(z_scores).max())}
    meaning = "standard deviations above or below what is usual here in healthy scans with such a surrounding"
    maps = {
        "z_score": GridMap("score", z_scores.astype(np.float32), meaning),
        "expected": GridMap("intensity", expectation.expected(looked_at), "what the models expect of this scan"),
    }
    notes = (f"p is the share of {len(reference)} validation scans that score as high", "an anomaly is no diagnosis")
    return Outcome(maps, figures, notes)


def look_at(models: Models, scan: GridScan, first: Probabilities, settings: TaskSettings) -> Work[FloatArray]:
    """(1 + levels, i, j, k): a scan, and the means of what comes back of it from each noise level.

    No label map and no condition is used, so that all scans are seen alike.
    """
    with exact_inference(models):
        latents = encode_image(models, scan.image, first)
    found = [scan.image]
    for level, sigma in enumerate(SIGMAS):
        yield Progress("anomaly", level, len(SIGMAS))
        seeds = [
            derive_seed(settings.seed, scan.digest, "anomaly", level, number) for number in range(settings.samples)
        ]
        with exact_inference(models):
            found.append(np.mean([_restart(models, latents, sigma, seed) for seed in seeds], axis=0))
    return np.stack(found).astype(np.float32)


def _restart(models: Models, latents: Latents, sigma: float, seed: int) -> FloatArray:
    level = torch.full((1,), sigma, device=latents.device)
    return image_of(models.decode(unguided(models, {})(restarted(latents, sigma, seed), level)))


def _finished(work: Work[FloatArray]) -> FloatArray:
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: FloatArray = end.value
            return found


def _measure(models: Models, scans: list[GridScan], first: Probabilities, settings: TaskSettings) -> Work[Tensors]:
    """The expectation, and scores of the validation scans each under the expectation of the others."""
    looked_at = list[FloatArray]()
    for number, scan in enumerate(scans):
        yield Progress("anomaly, validation scans", number, len(scans))
        looked_at.append(_finished(look_at(models, scan, first, settings)))
    every = np.stack(looked_at)
    found = fit_expectation(every)
    scores = list[float]()
    for row, scan in enumerate(scans):
        others = fit_expectation(np.delete(every, row, axis=0))
        scores.append(image_score(others.z_scores(every[row]) * scan.inside))
    return _tensors(found) | {"scores": torch.tensor(scores, dtype=torch.float64)}


def _tensors(found: Expectation) -> dict[str, Tensor]:
    arrays = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _kept_expectation(kept: Tensors) -> Expectation:
    return Expectation(**{field.name: kept[field.name].numpy() for field in fields(Expectation)})
