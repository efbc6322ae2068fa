"""Where a scan is unlike what the models expect: noise hides what is odd, and the denoiser fills in what is usual.

Neither the autoencoder nor a registration is perfect, so edges differ in every scan. What is left between a scan and
its restarts is therefore divided by the standard deviation that it has in healthy validation scans at each voxel.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.encoding import Probabilities, encode_image, image_of, mean_labels
from meddiff_core.applications.tasks.score import p_value
from meddiff_core.applications.tasks.starts import exact_inference, restarted, seed_of, unguided
from meddiff_core.types import FloatArray, Latents, Progress, Work

SIGMAS = (0.6, 1.0)
"""Noise levels of the restarts, in standard deviations of the latents: below, an anomaly passes; above, so does what
only this subject has."""
NEIGHBOURHOOD = 1.5
"""Standard deviation in voxels of the Gaussian over which variances are averaged: few scans tell little of a voxel."""
SMOOTHING = 1.0
"""Of the z-scores, likewise: an anomaly is larger than a voxel."""
LEAST_STD = 0.05
"""Of intensities (0 to 1), added in squares: a voxel that hardly varies in healthy scans finds noise otherwise."""
TOP = 0.001
"""Share of the scan's voxels whose mean z-score is the image score: about 75 voxels of 76,800."""


@dataclass(frozen=True)
class Expectation:
    """What healthy scans differ in from their restarts, by level and voxel."""

    mean: FloatArray
    """(levels, i, j, k)"""
    std: FloatArray
    """(levels, i, j, k)"""
    scale: float = 1.0
    """Standard deviation of the mean over levels, smoothed, over all healthy voxels that vary."""

    def z_scores(self, residuals: FloatArray) -> FloatArray:
        """(i, j, k) of residuals (levels, i, j, k)."""
        together = ((residuals - self.mean) / self.std).mean(0)
        return np.asarray(gaussian_filter(together, SMOOTHING) / self.scale, np.float32)


def fit_expectation(residuals: FloatArray) -> Expectation:
    """From residuals of healthy scans (n, levels, i, j, k)."""
    mean = residuals.mean(0)
    variances = np.square(residuals - mean).sum(0) / max(1, len(residuals) - 1)
    averaged = np.stack([gaussian_filter(variance, NEIGHBOURHOOD) for variance in variances])
    std = np.sqrt(averaged + LEAST_STD**2)
    raw = Expectation(mean, std.astype(np.float32))
    scores = np.stack([raw.z_scores(one) for one in residuals])
    varying = averaged.mean(0) > (LEAST_STD / 10) ** 2
    spread = float(scores[:, varying].std()) if varying.any() else 1.0
    return replace(raw, scale=max(spread, 1e-3))


def image_score(z_scores: FloatArray) -> float:
    """Mean of the largest absolute z-scores."""
    count = max(1, round(TOP * z_scores.size))
    return float(np.sort(np.abs(z_scores), axis=None)[-count:].mean())


def anomaly(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """A z-score at each voxel, and a score of the scan with its p-value among validation scans."""
    first = yield from mean_labels(models, calibration)
    name = f"anomaly-{settings.samples}-{settings.seed}"
    kept = yield from calibration.kept(name, lambda own, scans: _measure(own, scans, first, settings))
    residuals = yield from residuals_of(models, scan, first, settings)
    expectation = _kept_expectation(kept)
    z_scores = expectation.z_scores(residuals) * scan.inside
    found = image_score(z_scores)
    reference = kept["scores"].numpy()
    figures = {"score": found, "p": p_value(found, reference), "largest_z": float(np.abs(z_scores).max())}
    meaning = "standard deviations brighter or darker than expected, by what healthy scans differ in here"
    expected = np.clip(scan.image - (residuals - expectation.mean).mean(0), 0, 1).astype(np.float32)
    maps = {
        "z_score": GridMap("score", z_scores.astype(np.float32), meaning),
        "expected": GridMap("intensity", expected, "what the models expect of this scan"),
    }
    notes = (f"p is the share of {len(reference)} validation scans that score as high", "an anomaly is no diagnosis")
    return Outcome(maps, figures, notes)


def residuals_of(models: Models, scan: GridScan, first: Probabilities, settings: TaskSettings) -> Work[FloatArray]:
    """(levels, i, j, k): a scan less the mean of what comes back of it from each noise level.

    No label map and no condition is used, so that all scans are seen alike.
    """
    with exact_inference(models):
        latents = encode_image(models, scan.image, first)
    found = list[FloatArray]()
    for level, sigma in enumerate(SIGMAS):
        yield Progress("anomaly", level, len(SIGMAS))
        seeds = [seed_of(settings, scan, "anomaly", level, number) for number in range(settings.samples)]
        with exact_inference(models):
            returned = np.mean([_restart(models, latents, sigma, seed) for seed in seeds], axis=0)
        found.append(scan.image - returned)
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
    """The expectation, and scores of the validation scans, each under the expectation of the others."""
    residuals = list[FloatArray]()
    for number, scan in enumerate(scans):
        yield Progress("anomaly, validation scans", number, len(scans))
        residuals.append(_finished(residuals_of(models, scan, first, settings)))
    every, scores = np.stack(residuals), list[float]()
    for row, scan in enumerate(scans):
        others = fit_expectation(np.delete(every, row, axis=0))
        scores.append(image_score(others.z_scores(every[row]) * scan.inside))
    found = fit_expectation(every)
    arrays = {"mean": found.mean, "std": found.std, "scale": np.array(found.scale), "scores": np.array(scores)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _kept_expectation(kept: Tensors) -> Expectation:
    return Expectation(kept["mean"].numpy(), kept["std"].numpy(), float(kept["scale"]))
