"""Metrics of the audit that compare whole sets of volumes: features and diversity.

Each takes what was extracted before and gives finished metrics, with the real-to-real reference at the same
sizes; nothing here reads a volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.intervals import Bootstrap, Matrix, magnitude
from meddiff_core.evidence.metrics import Better, Metric, MetricSpec, metric_of
from meddiff_core.evidence.quality.distances import (
    Statistic,
    estimate,
    fit_projection,
    frechet_distance,
    kernel_distance,
    ratio_to_real,
)
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_estimates, neighbourhood_size
from meddiff_core.evidence.quality.similarity import PairSimilarity, mean_similarity, similarity_gap

LARGEST_SAMPLE = 500
"""Volumes per side of one comparison; more makes it slower, not clearer."""


def _to_holdout(name: str, better: Better) -> MetricSpec:
    reference = "that of the training volumes"
    return MetricSpec(name=name, part="quality", better=better, reference=reference, detail="feature space")


FRECHET, KERNEL = _to_holdout("frechet", "lower"), _to_holdout("kernel", "lower")
FRECHET_RATIO = _to_holdout("frechet_ratio", "nearer")
PRECISION, RECALL = _to_holdout("precision", "higher"), _to_holdout("recall", "higher")
DENSITY, COVERAGE = _to_holdout("density", "higher"), _to_holdout("coverage", "higher")
MS_SSIM = MetricSpec(name="ms_ssim", part="quality", better="nearer", reference="that of two real volumes")
MS_SSIM_GAP = MetricSpec(
    name="ms_ssim_gap", part="quality", better="lower", reference="how far that of two held-out volumes is"
)
METRICS = (FRECHET, FRECHET_RATIO, KERNEL, PRECISION, RECALL, DENSITY, COVERAGE, MS_SSIM, MS_SSIM_GAP)
EXPLANATIONS = {
    KERNEL: "Unbiased kernel distance of synthetic volumes to the holdout: about 0 for equal distributions.",
    FRECHET: "Fréchet distance of synthetic volumes to the holdout, to be read beside that of the training volumes.",
    FRECHET_RATIO: "Fréchet distance to the holdout, in units of what training volumes show: 1 is as near as reality, "
    "far below 1 hints at copies.",
    PRECISION: "Share of synthetic volumes that lie among real ones.",
    RECALL: "Share of real volumes that lie among synthetic ones.",
    DENSITY: "How densely real volumes surround the synthetic ones; outliers count little.",
    COVERAGE: "Share of real volumes with a synthetic one nearby.",
}


@dataclass(frozen=True)
class Sides:
    """The same thing of the three sets that the audit compares."""

    synthetic: Features
    train: Features
    holdout: Features

    @property
    def smallest(self) -> int:
        """Volumes of the smallest set."""
        return min(len(self.synthetic), len(self.train), len(self.holdout))


def feature_metrics(sides: Sides, bootstrap: Bootstrap) -> list[Metric]:
    """Fréchet and kernel distance, precision, recall, density and coverage, to the holdout at equal sizes."""
    half = min(sides.smallest // 2, LARGEST_SAMPLE)
    whole = min(sides.smallest, LARGEST_SAMPLE)
    projection = fit_projection(sides.train, min(16, half // 2), beside=sides.synthetic)
    coordinates = [projection(side) for side in (sides.synthetic, sides.train, sides.holdout)]
    standardised = [projection.standardise(side) for side in (sides.synthetic, sides.train, sides.holdout)]
    name = sides.train.extractor
    return [
        *_frechet_metrics(name, coordinates, half, bootstrap),
        _beside_reference(KERNEL, kernel_distance, name, standardised, half, bootstrap),
        *_neighbourhood_metrics(name, coordinates, whole, bootstrap),
    ]


def _beside_reference(
    spec: MetricSpec,
    statistic: Statistic,
    extractor: str,
    sets: Sequence[Matrix],
    size: int,
    bootstrap: Bootstrap,
) -> Metric:
    """A distance to the holdout, beside that of the training volumes."""
    synthetic, train, holdout = sets
    found, real = (estimate(statistic, query, holdout, size, bootstrap) for query in (synthetic, train))
    return metric_of(spec, found, EXPLANATIONS[spec], extractor, real.value)


def _frechet_metrics(name: str, sets: Sequence[Matrix], size: int, bootstrap: Bootstrap) -> list[Metric]:
    synthetic, train, holdout = sets
    ratio = ratio_to_real(frechet_distance, synthetic, train, holdout, size, bootstrap)
    return [
        _beside_reference(FRECHET, frechet_distance, name, sets, size, bootstrap),
        metric_of(FRECHET_RATIO, ratio, EXPLANATIONS[FRECHET_RATIO], name, reference=1.0),
    ]


def _neighbourhood_metrics(name: str, sets: Sequence[Matrix], size: int, bootstrap: Bootstrap) -> list[Metric]:
    synthetic, train, holdout = sets
    found, real = (neighbourhood_estimates(query, holdout, size, bootstrap) for query in (synthetic, train))
    k = neighbourhood_size(size)
    return [
        metric_of(spec, found[spec.name], f"{EXPLANATIONS[spec]} (k = {k})", name, real[spec.name].value)
        for spec in (PRECISION, RECALL, DENSITY, COVERAGE)
    ]


def similarity_metrics(
    synthetic: PairSimilarity, train: PairSimilarity, holdout: PairSimilarity, bootstrap: Bootstrap
) -> list[Metric]:
    """Mean MS-SSIM of synthetic pairs, and its distance from that of real pairs."""
    real_gap = magnitude(similarity_gap(holdout, train, bootstrap))
    return [
        metric_of(
            MS_SSIM,
            mean_similarity(synthetic, bootstrap),
            "Mean similarity of two synthetic volumes.",
            reference=float(train.values.mean()),
        ),
        metric_of(
            MS_SSIM_GAP,
            magnitude(similarity_gap(synthetic, train, bootstrap)),
            "How far the similarity of two synthetic volumes is from that of two training ones.",
            reference=real_gap.value,
        ),
    ]
