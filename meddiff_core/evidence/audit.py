"""The audit: everything that is known about a cohort before its release, and the gates' verdict.

The sealed holdout is opened here, for the first time. What comes out is two things: an `Audit` of aggregates
that a release may carry, and `InternalFindings` that name rows of the training set and never leave the study.
"""

from collections.abc import Callable, Generator, Mapping, Sequence

from meddiff_core.contract import Frozen
from meddiff_core.data.split.limits import FEWEST_AUDITED
from meddiff_core.data.split.sides import SIDES
from meddiff_core.errors import DataRefused
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.gates import GateResult, apply_gates, gates_in_force, unused_waivers
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.metrics import Metric
from meddiff_core.evidence.privacy.authenticity import authenticity_evidence
from meddiff_core.evidence.privacy.copy_evidence import CopyEvidence, find_copies
from meddiff_core.evidence.privacy.covariates import covariate_attacks
from meddiff_core.evidence.privacy.membership import membership_inference
from meddiff_core.evidence.privacy.release_membership import release_membership
from meddiff_core.evidence.privacy.rounds import rounds_section
from meddiff_core.evidence.quality.anatomy import appearance_and_anatomy
from meddiff_core.evidence.quality.comparison import extract_sides, feature_metrics, similarity_metrics
from meddiff_core.evidence.quality.distances import Sides
from meddiff_core.evidence.quality.distinct import distinct_metric
from meddiff_core.evidence.quality.drift import subgroups_and_drift
from meddiff_core.evidence.quality.fidelity import fidelity_of_labels
from meddiff_core.evidence.quality.similarity import ms_ssim_pairs
from meddiff_core.evidence.quality.spectrum import spectra
from meddiff_core.evidence.screening.expected import screening_evidence
from meddiff_core.evidence.section import Curve, Section, Table
from meddiff_core.evidence.utility.arms import effort_of
from meddiff_core.evidence.utility.usefulness import utility
from meddiff_core.study import AuditConfig
from meddiff_core.types import Progress

MOST_PAIRS = 100
"""Pairs per set for MS-SSIM."""
NO_GUARANTEE = "There is no formal guarantee: that needs differential privacy, and the models were not trained with it."
CAVEATS = (
    "Passing the copy test is necessary and not sufficient: it is no proof of anonymity, and membership may still "
    "be inferred.",
    "Membership is attacked from two seats: of whoever receives the volumes, and of whoever has the weights. The "
    "latter tells of memory that leaves only with the weights; both tell of the attacks that were tried, and of no "
    "others.",
    "Copies are searched as whole volumes and as halves, flipped, shifted by a voxel, blurred, noisy or with other "
    "intensities. Copies of a smaller part, volumes that were rotated or warped, and mixtures of several volumes may "
    "go unseen.",
    "Distances depend on the extractor and on the sizes: compare them with the real-to-real value beside them, not "
    "with other studies.",
    NO_GUARANTEE,
)
"""What no figure of an audit shows; the card says it in these words."""


Part = Callable[[AuditInput, Bootstrap], Generator[Progress, None, Section]]
SEATS: tuple[Part, ...] = (release_membership, membership_inference)
"""Attacks by whoever receives a release, and by whoever has the weights: the first lines of the report."""
PARTS: tuple[Part, ...] = (
    spectra,
    authenticity_evidence,
    covariate_attacks,
    appearance_and_anatomy,
    fidelity_of_labels,
    subgroups_and_drift,
    utility,
    screening_evidence,
)
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
    gates: tuple[GateResult, ...] = ()
    unused_waivers: tuple[str, ...] = ()
    """A sentence for each."""
    flagged: tuple[str, ...]
    """Ids of synthetic volumes that are suspected copies: to be dropped."""
    histograms: tuple[Histogram, ...]
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()
    statements: tuple[str, ...] = ()
    """Plain sentences on what was found, and on what could not be measured."""
    screen: ScreenSummary | None
    caveats: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything that the audit says in words."""
        return (*self.unused_waivers, *self.statements)


class SuspectedCopy(Frozen):
    """A flagged volume and the training volume that it resembles."""

    sample_id: str
    train_row: int
    score: float


class InternalFindings(Frozen):
    """What names rows of the training set. Never leaves the study."""

    suspected: tuple[SuspectedCopy, ...]
    threshold: float
    """Of the scores, below which a volume is suspected."""


def run_audit(audit: AuditInput) -> Generator[Progress, None, tuple[Audit, InternalFindings]]:
    """Measure everything, apply the gates.

    Raises:
        DataRefused: a set has fewer than 8 volumes.
    """
    sizes = require_volumes(audit)
    train, holdout = audit.dataset.volumes("train"), audit.dataset.volumes("holdout")
    bootstrap = Bootstrap(audit.config.repeats, audit.config.confidence, audit.seed)
    metrics, known = list[Metric](), dict[str, dict[str, Features]]()
    for extractor in audit.extractors:
        features = yield from extract_sides(extractor, audit)
        metrics += feature_metrics(features, bootstrap)
        cohort = "synthetic" if audit.first_round is None else "final"  # as the search for copies calls it
        known[extractor.digest] = {cohort: features.synthetic, "train": features.train, "holdout": features.holdout}
    evidence = yield from find_copies(audit, known, bootstrap)
    pairs = []
    for volumes in (audit.accepted, train, holdout):
        pairs.append((yield from ms_ssim_pairs(volumes, MOST_PAIRS, audit.seed, audit.contract)))
    diversity = similarity_metrics(Sides(*pairs), bootstrap)
    distinct = distinct_metric(audit, bootstrap)
    rounds = rounds_section(audit.rounds, len(evidence.flagged), len(audit.accepted), bootstrap.confidence)
    sections = []
    for part in SEATS:
        sections.append((yield from part(audit, bootstrap)))
    sections += [Section([distinct, *metrics, *diversity]), evidence.section, rounds]
    for part in PARTS:
        sections.append((yield from part(audit, bootstrap)))
    whole = Section.merge(sections)
    result = Audit(
        preset=audit.config.preset,
        confidence=bootstrap.confidence,
        sizes=sizes,
        extractors={extractor.name: extractor.digest for extractor in audit.extractors},
        metrics=tuple(whole.metrics),
        flagged=tuple(audit.sample_ids[row] for row in evidence.flagged),
        histograms=tuple(whole.histograms),
        tables=tuple(whole.tables),
        curves=tuple(whole.curves),
        statements=tuple(whole.statements),
        screen=audit.screen,
        caveats=caveats_of(audit.guarantee),
    )
    return with_gates(result, audit.config), _internal(evidence, audit.ids_as_generated)


def caveats_of(guarantee: str | None) -> tuple[str, ...]:
    """The caveats beside a formal guarantee, which says itself what it does not cover, or beside none."""
    return tuple(guarantee if guarantee and caveat is NO_GUARANTEE else caveat for caveat in CAVEATS)


def with_gates(audit: Audit, config: AuditConfig) -> Audit:
    """The same measurements under the gates and waivers of a study. They must be what `measured_by` of it gives."""
    gates = apply_gates(audit.metrics, config, audit.sizes)
    given = {"preset": config.preset, "gates": gates, "unused_waivers": tuple(unused_waivers(gates, config))}
    return audit.model_copy(update=given)


def measured_by(config: AuditConfig) -> dict[str, object]:
    """What of the settings decides the measurements: waivers do not, and of the gates that on copies alone, whose
    power is measured.
    """
    gates = [gate for gate in gates_in_force(["copies_excess"], config) if gate.metric == "copies_excess"]
    # Rounds make the cohort; of the effort, the one in force counts.
    apart: Mapping[str, bool | Mapping[str, bool]] = {
        "preset": True, "gates": True, "waivers": True, "rounds": True, "utility": {"effort": True},
    }  # fmt: skip
    others = config.model_dump(mode="json", exclude=apart)
    return others | {"effort": effort_of(config), "copy_gate": [gate.model_dump(mode="json") for gate in gates]}


def require_volumes(audit: AuditInput) -> dict[str, int]:
    """Volumes per set.

    Raises:
        DataRefused: a set has fewer than 8.
    """
    real = {side: audit.dataset.volumes(side) for side in SIDES if side != "validation"}
    sizes = {side: len(volumes) for side, volumes in (real | {"synthetic": audit.accepted}).items()}
    for side, count in sizes.items():
        if count < FEWEST_AUDITED:
            raise DataRefused(f"the audit needs at least {FEWEST_AUDITED} {side} volumes, has {count}")
    return sizes


def _internal(evidence: CopyEvidence, sample_ids: Sequence[str]) -> InternalFindings:
    suspected = tuple(
        SuspectedCopy(
            sample_id=sample_ids[row], train_row=int(evidence.rows[row]), score=float(evidence.synthetic[row])
        )
        for row in evidence.result.flagged
    )
    return InternalFindings(suspected=suspected, threshold=evidence.result.threshold.value)
