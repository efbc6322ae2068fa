"""How well a scan belongs to what the models were trained on: three scores, each with its p-value.

A p-value is the share of validation scans that are as odd, so it says `unlike the training scans`, never `ill`, and of
n validation scans none is below 1 / (n + 1). All scans are judged without their label map and conditions, known or
not, so that a score means the same for each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.change import read_labels, rms
from meddiff_core.applications.tasks.encoding import Probabilities, encode_image, image_of, mean_labels
from meddiff_core.applications.tasks.likelihood import bits_per_dimension, log_likelihood
from meddiff_core.applications.tasks.starts import exact_inference, levels, unguided
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.screening.outlier import SIGMAS, Probe
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import LabelArray, Progress, StoredArray, Work

FLOW_STEPS = 15
"""Noise levels of the likelihood's flow."""
SCORES = ("outlier", "bits_per_dimension", "autoencoder_error")
"""Each is larger for odder scans."""


def score(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """Outlier score, bits per latent dimension and error of the autoencoder; `settings` change nothing."""
    first = yield from mean_labels(models, calibration)
    reference = yield from calibration.kept("score", lambda own, scans: _measure(own, scans, first))
    yield Progress("score", 0, 1)
    found = scores(models, scan, first, reference["errors"].numpy())
    yield Progress("score", 1, 1)
    p_values = {f"p_{name}": p_value(found[name], reference[name].numpy()) for name in SCORES}
    notes = (
        f"p-values are shares of {len(reference['errors'])} validation scans that are as odd",
        "unlike the training scans does not mean ill, and like them does not mean healthy",
    )
    return Outcome({}, {**found, **p_values}, notes)


def p_value(value: float, reference: Matrix) -> float:
    """Share of reference scores that are at least as large, the scan counted among them."""
    return float((1 + (reference >= value).sum()) / (1 + len(reference)))


def scores(models: Models, scan: GridScan, first: Probabilities, errors: Matrix) -> dict[str, float]:
    """By name; `errors` are the logarithmic denoising errors (n, levels) of other scans."""
    return {"outlier": outlier_score(denoising_errors(models, scan, first), errors)} | _likelihood(models, scan, first)


def outlier_score(own: Matrix, others: Matrix) -> float:
    """Mean over noise levels of errors (levels,), less the mean of others (n, levels) and in their std."""
    std = np.maximum(others.std(0, ddof=min(1, len(others) - 1)), 1e-6)
    return float(((own - others.mean(0)) / std).mean())


def denoising_errors(models: Models, scan: GridScan, first: Probabilities) -> Matrix:
    """(levels,) logarithms of the errors with which the denoiser brings a scan back from noise, as screening has it."""
    low, high = models.denoiser.clock.sigma_range
    probe = Probe(
        encode=models.encode,
        denoise=unguided(models, {}),
        contract=models.contract,
        sigmas=[min(max(sigma, low), high) for sigma in SIGMAS],
        alone=models.device == "cpu",
    )
    with exact_inference(models):
        labels = read_labels(models, scan.image, first)
    alone = _Alone(models.contract.intensity.store(scan.image), labels)
    return probe(alone, 0, derive_seed("score", scan.digest))


def _likelihood(models: Models, scan: GridScan, first: Probabilities) -> dict[str, float]:
    with exact_inference(models):
        latents = encode_image(models, scan.image, first)
        seed = derive_seed("score", "trace", scan.digest)
        found = log_likelihood(unguided(models, {}), latents, levels(models, FLOW_STEPS), seed)
        error = rms(np.clip(image_of(models.decode(latents)), 0, 1) - scan.image)
    return {"bits_per_dimension": bits_per_dimension(found, latents.numel()), "autoencoder_error": error}


def _measure(models: Models, scans: list[GridScan], first: Probabilities) -> Work[Tensors]:
    """Scores of the validation scans, each among the others."""
    errors, rest = list[Matrix](), list[Mapping[str, float]]()
    for scan in scans:
        yield Progress("score of validation scans", len(errors), len(scans))
        errors.append(denoising_errors(models, scan, first))
        rest.append(_likelihood(models, scan, first))
    all_errors = np.stack(errors)
    others = [np.delete(all_errors, row, axis=0) for row in range(len(scans))]
    outliers = [outlier_score(own, other) for own, other in zip(errors, others, strict=True)]
    columns = {name: [one[name] for one in rest] for name in SCORES[1:]} | {"outlier": outliers}
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}
    return tensors | {"errors": torch.from_numpy(all_errors)}


@dataclass(frozen=True)
class _Alone:
    """One scan as a set of stored volumes."""

    stored: StoredArray
    values: LabelArray | None

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> StoredArray:
        return self.stored

    def label(self, index: int) -> LabelArray | None:
        return self.values
