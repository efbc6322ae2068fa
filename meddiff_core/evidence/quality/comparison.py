"""Metrics of the audit that compare whole sets of volumes: features and diversity.

Each takes what was extracted before and gives finished metrics, with the real-against-real floor at the same
sizes; nothing here reads a volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.gates import Metric, metric_of
from meddiff_core.evidence.intervals import Bootstrap, Matrix, magnitude
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
        _against_floor(f"kernel:{name}", kernel_distance, standardised, half, bootstrap, "lower is better", KERNEL),
        *_neighbourhood_metrics(name, coordinates, whole, bootstrap),
    ]


KERNEL = "Unbiased kernel distance of synthetic volumes to the holdout: about 0 for equal distributions."
FRECHET = "Fréchet distance of synthetic volumes to the holdout, to be read beside that of the training volumes."
RATIO = "Fréchet distance to the holdout, in units of what training volumes show: 1 is as near as reality."
NEIGHBOURHOODS = {
    "precision": "Share of synthetic volumes that lie among real ones.",
    "recall": "Share of real volumes that lie among synthetic ones.",
    "density": "How densely real volumes surround the synthetic ones; outliers count little.",
    "coverage": "Share of real volumes with a synthetic one nearby.",
}


def _against_floor(
    name: str,
    statistic: Statistic,
    sets: Sequence[Matrix],
    size: int,
    bootstrap: Bootstrap,
    direction: str,
    explanation: str,
) -> Metric:
    synthetic, train, holdout = sets
    found, floor = (estimate(statistic, query, holdout, size, bootstrap) for query in (synthetic, train))
    return metric_of(name, found, direction, explanation, floor=floor.value)


def _frechet_metrics(name: str, sets: Sequence[Matrix], size: int, bootstrap: Bootstrap) -> list[Metric]:
    synthetic, train, holdout = sets
    ratio = ratio_to_real(frechet_distance, synthetic, train, holdout, size, bootstrap)
    return [
        _against_floor(f"frechet:{name}", frechet_distance, sets, size, bootstrap, "lower is better", FRECHET),
        metric_of(
            f"frechet_ratio:{name}", ratio, "1 is as good as real; far below 1 hints at copies", RATIO, floor=1.0
        ),
    ]


def _neighbourhood_metrics(name: str, sets: Sequence[Matrix], size: int, bootstrap: Bootstrap) -> list[Metric]:
    synthetic, train, holdout = sets
    found, floor = (neighbourhood_estimates(query, holdout, size, bootstrap) for query in (synthetic, train))
    k = neighbourhood_size(size)
    return [
        metric_of(
            f"{figure}:{name}", found[figure], "higher is better, up to the floor", f"{explanation} (k = {k})",
            floor=floor[figure].value,
        )
        for figure, explanation in NEIGHBOURHOODS.items()
    ]  # fmt: skip


def similarity_metrics(
    synthetic: PairSimilarity, train: PairSimilarity, holdout: PairSimilarity, bootstrap: Bootstrap
) -> list[Metric]:
    """Mean MS-SSIM of synthetic pairs, and its distance from that of real pairs."""
    real_gap = magnitude(similarity_gap(holdout, train, bootstrap))
    return [
        metric_of(
            "ms_ssim", mean_similarity(synthetic, bootstrap), "as near to the floor as can be",
            "Mean similarity of two synthetic volumes; the floor is that of two real ones.",
            floor=float(train.values.mean()),
        ),
        metric_of(
            "ms_ssim_gap", magnitude(similarity_gap(synthetic, train, bootstrap)), "lower is better",
            "How far the similarity of two synthetic volumes is from that of two training ones; the floor is how far "
            "that of two held-out ones is.",
            floor=real_gap.value,
        ),
    ]  # fmt: skip


Drawing = Bootstrap
