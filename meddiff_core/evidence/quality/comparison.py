"""Metrics of the audit that compare whole sets of volumes: features and diversity.

Each takes what was extracted before and gives finished metrics, with the real-to-real reference at the same sizes.
"""

from collections.abc import Generator

from meddiff_core.evidence.features.records import Extractor, Features, extract
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, magnitude
from meddiff_core.evidence.metrics import Better, Metric, MetricSpec, metric_of
from meddiff_core.evidence.quality.distances import (
    Sides,
    Statistic,
    beside_real,
    fit_projection,
    frechet_distance,
    kernel_distance,
    ratio_to_real,
)
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_estimates, neighbourhood_size
from meddiff_core.evidence.quality.similarity import PairSimilarity, mean_similarity, similarity_gap
from meddiff_core.types import Progress

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
    MS_SSIM: "Mean similarity of two synthetic volumes.",
    MS_SSIM_GAP: "How far the similarity of two synthetic volumes is from that of two training ones.",
}


def extract_sides(extractor: Extractor, audit: AuditInput) -> Generator[Progress, None, Sides[Features]]:
    """Features of the three sets."""
    return Sides(
        synthetic=(yield from extract(extractor, audit.accepted)),
        train=(yield from extract(extractor, audit.dataset.volumes("train"))),
        holdout=(yield from extract(extractor, audit.dataset.volumes("holdout"))),
    )


def feature_metrics(sides: Sides[Features], bootstrap: Bootstrap) -> list[Metric]:
    """Fréchet and kernel distance, precision, recall, density and coverage, to the holdout at equal sizes."""
    smallest = min(map(len, sides))
    half, whole = min(smallest // 2, LARGEST_SAMPLE), min(smallest, LARGEST_SAMPLE)
    projection = fit_projection(sides.train, min(16, half // 2), beside=sides.synthetic)
    coordinates = sides.each(projection)
    name, k = sides.train.extractor, neighbourhood_size(whole)
    near, real = (
        neighbourhood_estimates(query, coordinates.holdout, whole, bootstrap) for query in coordinates.compared
    )

    def metric(spec: MetricSpec, found: Estimate, reference: float, balls: str = "") -> Metric:
        return metric_of(spec, found, EXPLANATIONS[spec] + balls, name, reference)

    def distance(spec: MetricSpec, statistic: Statistic, rows: Sides[Matrix]) -> Metric:
        found, reference = beside_real(statistic, rows, half, bootstrap)
        return metric(spec, found, reference.value)

    return [
        distance(FRECHET, frechet_distance, coordinates),
        metric(FRECHET_RATIO, ratio_to_real(frechet_distance, coordinates, half, bootstrap), 1.0),
        distance(KERNEL, kernel_distance, sides.each(projection.standardise)),
        *(
            metric(spec, near[spec.name], real[spec.name].value, f" (k = {k})")
            for spec in (PRECISION, RECALL, DENSITY, COVERAGE)
        ),
    ]


def similarity_metrics(pairs: Sides[PairSimilarity], bootstrap: Bootstrap) -> list[Metric]:
    """Mean MS-SSIM of synthetic pairs, and its distance from that of real pairs."""
    gap, real_gap = (magnitude(similarity_gap(one, pairs.train, bootstrap)) for one in (pairs.synthetic, pairs.holdout))
    mean, real = mean_similarity(pairs.synthetic, bootstrap), float(pairs.train.values.mean())
    return [
        metric_of(MS_SSIM, mean, EXPLANATIONS[MS_SSIM], reference=real),
        metric_of(MS_SSIM_GAP, gap, EXPLANATIONS[MS_SSIM_GAP], reference=real_gap.value),
    ]
