"""The audit: everything that is known about a cohort before it may leave, and the gates' verdict.

The sealed holdout is opened here, for the first time. What comes out is two things: an `Audit` of aggregates
that a release may carry, and `InternalFindings` that name rows of the training set and never leave the study.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meddiff_core.contract import Frozen
from meddiff_core.errors import DataRefused
from meddiff_core.evidence.aggregates import Histogram, histogram, intensity_histogram, intensity_shares
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.gates import GateResult, Metric, apply_gates, metric_of
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.intervals import Estimate, from_count
from meddiff_core.evidence.measurements import measure_all
from meddiff_core.evidence.privacy.copy_evidence import (
    CopyEvidence,
    View,
    copy_evidence,
    distinct_metric,
    feature_view,
    voxel_view,
)
from meddiff_core.evidence.privacy.planting import PlantedCopies, caught_by_disguise, plant_copies
from meddiff_core.evidence.quality.comparison import (
    Drawing,
    Sides,
    appearance_metrics,
    feature_metrics,
    fidelity_metrics,
    similarity_metrics,
    volume_metrics,
    volumes_of,
)
from meddiff_core.evidence.quality.distances import fit_projection
from meddiff_core.evidence.quality.similarity import ms_ssim_pairs
from meddiff_core.evidence.section import Curve, Section, Table
from meddiff_core.types import Progress, Volumes

FEWEST_VOLUMES = 8
"""Of each set, below which no interval means anything."""
MOST_PLANTED = 140
"""Planted copies: enough that all of them caught puts the lower bound at 0.97."""
MOST_PAIRS = 100
"""Pairs per set for MS-SSIM."""
CAVEATS = (
    "Passing the copy test is necessary and not sufficient: it is no proof of anonymity, and membership may still "
    "be inferred.",
    "Copies are searched as whole volumes, flipped, shifted by a voxel, blurred, noisy or with other intensities. "
    "Copies of a part, and mixtures of two volumes, may go unseen.",
    "Distances depend on the extractor and on the sizes: compare them with the floor beside them, not with other "
    "studies.",
    "There is no formal guarantee of differential privacy.",
)


Part = Callable[[AuditInput, Drawing], Generator[Progress, None, Section]]
PARTS: tuple[Part, ...] = ()
"""What is measured beside features, copies and diversity, in the order of the report."""


class Audit(Frozen):
    """The evidence. Holds aggregates only: a release may carry it."""

    preset: str
    confidence: float
    sizes: dict[str, int]
    """Volumes per set."""
    extractors: dict[str, str]
    """Digest by name."""
    metrics: tuple[Metric, ...]
    gates: tuple[GateResult, ...]
    flagged: tuple[str, ...]
    """Ids of synthetic volumes that are suspected copies: to be dropped."""
    power_by_disguise: dict[str, float]
    """Share of planted copies caught."""
    histograms: tuple[Histogram, ...]
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    statements: tuple[str, ...] = ()
    """Plain sentences on what was found, and on what could not be measured."""
    screen: ScreenSummary
    caveats: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)


class SuspectedCopy(Frozen):
    """A flagged volume and the training volume that it resembles."""

    sample_id: str
    train_row: int
    score: float


class InternalFindings(Frozen):
    """What names rows of the training set. Never leaves the study."""

    suspected: tuple[SuspectedCopy, ...]
    threshold: float
    synthetic_scores: tuple[float, ...]
    holdout_scores: tuple[float, ...]
    planted_scores: tuple[float, ...]


def run_audit(audit: AuditInput) -> Generator[Progress, None, tuple[Audit, InternalFindings]]:
    """Measure everything, apply the gates.

    Raises:
        DataRefused: a set has fewer than 8 volumes.
    """
    train, holdout = audit.dataset.volumes("train"), audit.dataset.volumes("holdout")
    sizes = {"train": len(train), "holdout": len(holdout), "synthetic": len(audit.accepted)}
    _require_volumes(sizes)
    drawing = Drawing(audit.config.repeats, audit.config.confidence, audit.seed)
    planted = plant_copies(train, MOST_PLANTED, audit.contract, audit.seed)
    features = yield from _compare_features(audit, train, holdout, planted, drawing)
    voxels = yield from voxel_view(audit.accepted, train, holdout, planted, audit.contract)
    evidence = copy_evidence([voxels, *features.views], sizes, drawing)
    diversity = yield from _diversity(audit, train, holdout, drawing)
    anatomy = yield from _anatomy(audit, train, holdout, drawing)
    screened = from_count(audit.screen.accepted, audit.screen.candidates, drawing.confidence)
    distinct = distinct_metric(audit.accepted, train, holdout, audit.dataset.subjects("train"), audit.contract, drawing)
    sections = []
    for part in PARTS:
        sections.append((yield from part(audit, drawing)))
    metrics = (
        *evidence.metrics, distinct, *features.metrics, *diversity, *anatomy.metrics,
        *(metric for section in sections for metric in section.metrics), _accepted_metric(screened),
    )  # fmt: skip
    result = Audit(
        preset=audit.config.preset,
        confidence=drawing.confidence,
        sizes=sizes,
        extractors={extractor.name: extractor.digest for extractor in audit.extractors},
        metrics=metrics,
        gates=apply_gates(metrics, audit.config),
        flagged=tuple(audit.sample_ids[row] for row in evidence.result.flagged),
        power_by_disguise=caught_by_disguise(planted, evidence.planted < evidence.result.threshold),
        histograms=(*anatomy.histograms, *(found for section in sections for found in section.histograms)),
        tables=tuple(table for section in sections for table in section.tables),
        curves=tuple(curve for section in sections for curve in section.curves),
        statements=tuple(said for section in sections for said in section.statements),
        screen=audit.screen,
        caveats=CAVEATS,
    )
    return result, _internal(evidence, audit.sample_ids)


def _require_volumes(sizes: Mapping[str, int]) -> None:
    for side, count in sizes.items():
        if count < FEWEST_VOLUMES:
            raise DataRefused(f"the audit needs at least {FEWEST_VOLUMES} {side} volumes, has {count}")


def _accepted_metric(share: Estimate) -> Metric:
    return metric_of(
        "accepted_share", share, "higher is better",
        "Share of generated volumes that screening accepted; the rest was left out, which shifts the distribution.",
    )  # fmt: skip


@dataclass(frozen=True)
class _FeatureEvidence:
    metrics: list[Metric]
    views: list[View]


def _compare_features(
    audit: AuditInput, train: Volumes, holdout: Volumes, planted: PlantedCopies, drawing: Drawing
) -> Generator[Progress, None, _FeatureEvidence]:
    metrics: list[Metric] = []
    views = []
    for extractor in audit.extractors:
        sides = Sides(
            synthetic=(yield from extract(extractor, audit.accepted)),
            train=(yield from extract(extractor, train)),
            holdout=(yield from extract(extractor, holdout)),
        )
        disguised = yield from extract(extractor, planted)
        scale = fit_projection(sides.train, 1).standardise
        rows = [scale(side) for side in (sides.synthetic, sides.train, sides.holdout, disguised)]
        metrics += feature_metrics(sides, drawing)
        views.append(feature_view(extractor.name, *rows))
    return _FeatureEvidence(metrics, views)


def _diversity(
    audit: AuditInput, train: Volumes, holdout: Volumes, drawing: Drawing
) -> Generator[Progress, None, list[Metric]]:
    pairs = []
    for volumes in (audit.accepted, train, holdout):
        pairs.append((yield from ms_ssim_pairs(volumes, MOST_PAIRS, audit.seed, audit.contract)))
    return similarity_metrics(pairs[0], pairs[1], pairs[2], drawing)


@dataclass(frozen=True)
class _Anatomy:
    metrics: list[Metric]
    histograms: tuple[Histogram, ...]


def _anatomy(
    audit: AuditInput, train: Volumes, holdout: Volumes, drawing: Drawing
) -> Generator[Progress, None, _Anatomy]:
    real = yield from measure_all("measure train", train, audit.contract)
    held = yield from measure_all("measure holdout", holdout, audit.contract)
    metrics = volume_metrics(audit.measured, real, held, audit.contract, drawing)
    metrics += appearance_metrics(audit.measured, real, held, drawing)
    metrics += fidelity_metrics(audit.requested, audit.measured, audit.contract, drawing)
    subjects = audit.dataset.subjects("train")
    histograms = [
        histogram(f"volume of {group}", "mm3", volumes_of(real, group), volumes_of(audit.measured, group), subjects)
        for group in audit.contract.labels
    ]
    shares = [
        np.stack([intensity_shares(volumes.image(index), audit.contract) for index in range(len(volumes))])
        for volumes in (train, audit.accepted)
    ]
    return _Anatomy(metrics, (intensity_histogram(shares[0], shares[1], subjects), *histograms))


def _internal(evidence: CopyEvidence, sample_ids: Sequence[str]) -> InternalFindings:
    suspected = tuple(
        SuspectedCopy(
            sample_id=sample_ids[row], train_row=int(evidence.rows[row]), score=float(evidence.synthetic[row])
        )
        for row in evidence.result.flagged
    )
    return InternalFindings(
        suspected=suspected,
        threshold=evidence.result.threshold,
        synthetic_scores=tuple(map(float, evidence.synthetic)),
        holdout_scores=tuple(map(float, evidence.holdout)),
        planted_scores=tuple(map(float, evidence.planted)),
    )
