"""The scorecard for synthetic medical data that the FDA's device office publishes (Zamzmi et al. 2025): seven criteria.

Its tool measures no privacy, and gives no interval and no reference. Here every figure of the audit stands under its
criterion with both, and what was not measured is named, so that a committee does not take silence for a pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from meddiff_core.contract import Frozen
from meddiff_core.evidence.metrics import Metric, MetricSpec
from meddiff_core.evidence.registry import METRICS
from meddiff_core.release import wording
from meddiff_core.release.content import ReleaseContent
from meddiff_core.release.evidence import privacy_summary, verdict
from meddiff_core.release.methods import describe_preprocessing

QUESTIONS = {
    "Congruence": "How well do the volumes agree with real scans as a whole?",
    "Coverage": "How much of the variety of real scans do they span?",
    "Constraint": "Do they keep to what anatomy, and what was asked for, allow?",
    "Completeness": "Is everything there that should be?",
    "Compliance": "Are privacy, terms and formats kept to?",
    "Comprehension": "Is it said how the volumes were made, and what for?",
    "Consistency": "Do they agree with real scans alike in every subgroup, and after screening?",
}
"""What each criterion asks, in the order of the scorecard."""
FAMILIES = {
    "Coverage": ("recall", "coverage", "ms_ssim", "ms_ssim_gap", "distinct_share"),
    "Constraint": (
        "components_effect", "symmetry_effect", "structure_correlation", "fidelity_r", "fidelity_r_segmentation",
        "pair_agreement", "acceptance_ratio", "accepted_share",
    ),
    "Consistency": ("kernel_subgroup", "screening_drift"),
}  # fmt: skip
"""Metrics of these criteria. Those of privacy speak of compliance, all others of congruence."""
Descriptor = dict[str, Any]


class Measured(Frozen):
    """One figure with its interval and, where there is one, the same figure between real and real."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    reference: float | None
    reference_is: str
    explanation: str


class Criterion(Frozen):
    """One of the seven."""

    name: str
    question: str
    metrics: tuple[Measured, ...]
    facts: tuple[str, ...] = ()
    """What is known of it beside measurements."""
    not_measured: tuple[str, ...] = ()
    """Each with the reason, where it is known."""


class Scorecard(Frozen):
    """evidence/scorecard.json of a release."""

    criteria: tuple[Criterion, ...]
    descriptor: Descriptor
    """The fields of the scorecard, by their own names."""


def fill_scorecard(content: ReleaseContent) -> Scorecard:
    """The scorecard of a release."""
    descriptor = _describe(content)
    facts = {
        "Completeness": _completeness(content),
        "Compliance": (
            verdict(content.gates),
            f"Licence: {content.licence}.",
            *wording.privacy_does_not_show(content.guarantee),
        ),
        "Comprehension": _comprehension(descriptor),
    }
    criteria = tuple(_criterion(name, content.metrics, facts.get(name, ())) for name in QUESTIONS)
    return Scorecard(criteria=criteria, descriptor=descriptor)


def criterion_of(spec: MetricSpec) -> str:
    """The criterion that a metric speaks of."""
    if spec.part == "privacy":
        return "Compliance"
    family = spec.name.partition(":")[0]
    return next((name for name, families in FAMILIES.items() if family in families), "Congruence")


def _criterion(name: str, metrics: Sequence[Metric], facts: Sequence[str]) -> Criterion:
    own = [metric for metric in metrics if criterion_of(metric.spec) == name]
    measured = {metric.spec.name for metric in own}
    missing = [spec for spec in METRICS if criterion_of(spec) == name and spec.name not in measured]
    return Criterion(
        name=name,
        question=QUESTIONS[name],
        metrics=tuple(map(_measured, own)),
        facts=tuple(facts),
        not_measured=tuple(map(_missing, missing)),
    )


def _missing(spec: MetricSpec) -> str:
    return f"{spec.name}: it requires {spec.requires}" if spec.requires else spec.name


def _measured(metric: Metric) -> Measured:
    return Measured(
        metric=metric.name,
        value=metric.value,
        low=metric.low,
        high=metric.high,
        n=metric.n,
        reference=metric.reference,
        reference_is=metric.spec.reference,
        explanation=metric.explanation,
    )


def _describe(content: ReleaseContent) -> Descriptor:
    stated = {
        "intended_use": content.intended_use,
        "code_repository": content.code_repository,
        "environment": content.environment,
    }
    checkpoints = {name: f"sha256:{content.parents[name]}" for name in _networks(content.parents)}
    return {
        "generation_method": " ".join(content.methods),
        "model_version/checkpoint": checkpoints or wording.NOT_STATED,
        "hyperparameters": {**content.hyperparameters, "sampling": content.study.get("sampling", {})},
        "random_seed": {
            "models": content.hyperparameters.get("seed", wording.NOT_STATED),
            "cohort": content.study.get("cohort", {}).get("seed", wording.NOT_STATED),
            "volumes": "column `seed` of participants.tsv",
        },
        "real_data_source": content.source,
        "preprocessing_steps": describe_preprocessing(content.contract),
        "initial_evaluation": f"{verdict(content.gates)} Preset: {content.preset}. Figures: evidence/metrics.json.",
        "not_intended_for": not_intended_for(content),
        "privacy_method": [
            *wording.PRIVACY_SHOWS,
            *([content.guarantee] if content.guarantee else []),
            *privacy_summary(content.gates, content.metrics),
        ],
        **{name: text or wording.NOT_STATED for name, text in stated.items()},
    }


def not_intended_for(content: ReleaseContent) -> str:
    """What the cohort is not for: what no cohort is for, and what the owner adds."""
    return " ".join(filter(None, [wording.NOT_INTENDED_FOR, content.not_intended_for]))


def _networks(parents: Mapping[str, str]) -> list[str]:
    return [name for name in ("autoencoder", "denoiser") if name in parents]


def _completeness(content: ReleaseContent) -> tuple[str, ...]:
    cells, known = content.table.size, int(content.table.notna().to_numpy().sum())
    maps = "a label map" if content.contract.labels else "no label map"
    return (
        f"Each of {len(content.volumes)} volumes has an image, {maps} and a row of the table.",
        f"{known} of {cells} cells of the table are known.",
        content.shortfall or "The cohort is the one that was asked for.",
    )


def _comprehension(descriptor: Descriptor) -> tuple[str, ...]:
    missing = [name for name, value in descriptor.items() if value == wording.NOT_STATED]
    stated = f"{len(descriptor) - len(missing)} of {len(descriptor)} descriptive fields are stated."
    return (stated, *([f"Not stated: {', '.join(missing)}."] if missing else []))
