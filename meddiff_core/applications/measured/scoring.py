"""The score of a whole scan: faults of every kind, told from the same scans as they were."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from meddiff_core.applications.calibration import Tensors
from meddiff_core.applications.measured.bench import Bench, Panel, Subject, scan_of
from meddiff_core.applications.measured.measurement import Measurement
from meddiff_core.applications.measured.planted import FAULTS
from meddiff_core.applications.measured.table import Goal, Measure, Value
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.score import score
from meddiff_core.generation.predictors import latent_features
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray, LabelArray, Message, Progress, Work

TASK, ENCODED, MAHALANOBIS = "score", "autoencoder error", "latent Mahalanobis distance"
LIKELIHOOD = "negative log-likelihood"
AUROC = Measure(name="AUROC", statistic="auroc")
NEAR, FAR = "all near faults", "all far faults"
SCORE = "outlier"
"""Name of the figure that rises with how unlike training a scan is."""


def measure(bench: Bench) -> Work[list[Value]]:
    """Of every fault by itself, and of the near and the far ones together."""
    distance = yield from _mahalanobis(bench)
    values: list[Value] = []
    for subject in bench.subjects:
        for name in ("", *FAULTS):
            scores = yield from _scores(bench, subject, name, distance)
            for setting in _settings(name):
                values += [
                    Value(setting, AUROC, method, subject.number, (one, float(bool(name))))
                    for method, one in scores.items()
                ]
        yield Progress("measure score", subject.number + 1, len(bench.subjects))
    return values


def _settings(name: str) -> list[str]:
    """The settings in which a fault counts; the scan as it was counts in all of them."""
    if not name:
        return [*FAULTS, NEAR, FAR]
    return [name, NEAR if FAULTS[name].near else FAR]


def _scores(bench: Bench, subject: Subject, name: str, distance: "_Distance") -> Work[Mapping[str, float]]:
    seed = derive_seed(bench.seed, "fault", name, subject.scan.digest)
    image = FAULTS[name].plant(subject.scan.image, subject.body, seed) if name else subject.scan.image
    outcome = yield from bench.apply(score, scan_of(image))
    labels = yield from bench.guessed_labels(image)
    encoded = bench.decoded(bench.latents(image, labels))[0]
    if subject.number == 0 and name:
        bench.keep_picture(TASK, Panel(f"{name}: {outcome.figures[SCORE]:.1f}", image, "intensity"))
    return {
        TASK: outcome.figures[SCORE],
        LIKELIHOOD: outcome.figures["bits_per_dimension"],
        ENCODED: float(np.square(image - encoded).mean()),
        MAHALANOBIS: distance(bench, image, labels),
    }


class _Distance:
    """How far the coarse layout of a scan's latents is from those of the train side."""

    def __init__(self, tensors: Tensors) -> None:
        self._mean, self._precision = (tensors[name].numpy() for name in ("mean", "precision"))

    def __call__(self, bench: Bench, image: FloatArray, labels: LabelArray | None) -> float:
        away = latent_features(bench.latents(image, labels))[0] - self._mean
        return float(away @ self._precision @ away)


def _mahalanobis(bench: Bench) -> Work[_Distance]:
    def fit(models: Models, _: list[GridScan]) -> Work[Tensors]:
        yield Message("fit the latents of the train side")
        volumes = bench.dataset.volumes("train")
        pairs = [(image, volumes.label(row)) for row, image in enumerate(bench.train_images())]
        features = np.concatenate([latent_features(bench.latents(*pair)) for pair in pairs])
        found = LedoitWolf().fit(features)
        return {"mean": torch.from_numpy(features.mean(0)), "precision": torch.from_numpy(found.precision_)}

    return _Distance((yield from bench.calibration.kept("measured-mahalanobis", fit)))


MEASUREMENT = Measurement(
    task=TASK,
    run=measure,
    baselines=(LIKELIHOOD, ENCODED, MAHALANOBIS),
    goals=(
        Goal(text="AUROC 0.99 of far faults", setting=FAR, measure=AUROC.name, least=0.99),
        Goal(text="AUROC 0.9 of near faults", setting=NEAR, measure=AUROC.name, least=0.9),
    ),
)
