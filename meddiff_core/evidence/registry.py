"""Every metric that an audit may yield, gathered from the modules that compute them, and what a study may say of them.

The gates and waivers of a study name metrics. A name that no metric has would be noticed at the very end, by a gate
that nothing can pass; it is refused here, when the study is opened.
"""

from collections.abc import Sequence

from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.metrics import MetricSpec
from meddiff_core.evidence.privacy import (
    authenticity,
    canaries,
    copies,
    covariates,
    membership,
    negative_control,
    power,
    release_membership,
    rounds,
)
from meddiff_core.evidence.quality import anatomy, comparison, distinct, drift, fidelity, subgroups
from meddiff_core.evidence.screening import expected
from meddiff_core.evidence.utility import comparing, pairs
from meddiff_core.study import AuditConfig, advise

METRICS: tuple[MetricSpec, ...] = (
    *copies.METRICS,
    *canaries.METRICS,
    *power.METRICS,
    *negative_control.METRICS,
    *rounds.METRICS,
    *authenticity.METRICS,
    *release_membership.METRICS,
    *membership.METRICS,
    *covariates.METRICS,
    *distinct.METRICS,
    *comparison.METRICS,
    *subgroups.METRICS,
    *anatomy.METRICS,
    *fidelity.METRICS,
    *pairs.METRICS,
    *comparing.METRICS,
    *drift.METRICS,
    *expected.METRICS,
)


def spec_of(name: str) -> MetricSpec | None:
    """The declaration of a metric, or of the family of all that a gate stands for; None if no metric is called so."""
    family, _, detail = name.partition(":")
    single = next((spec for spec in METRICS if spec.name == name and not spec.detail), None)
    return single or next((spec for spec in METRICS if spec.name == family and spec.detail and detail), None)


def why_missing(name: str, measured: Sequence[str]) -> str:
    """Why the metric of a gate is not among the measured ones; empty where nothing is known of it."""
    spec = spec_of(name)
    if spec is None:
        return "no metric is called so"
    if family := [other for other in measured if spec_of(other) == spec]:
        return f"measured were {', '.join(family)}"
    return f"it requires {spec.requires}" if spec.requires else ""


def check_gates(audit: AuditConfig) -> None:
    """Refuse gates and waivers of a study that name no metric, and waivers that nobody may give.

    Raises:
        ConfigurationError: says which key, and which name was meant.
    """
    for key, named in (("gates", audit.gates), ("waivers", audit.waivers)):
        for one in named:
            spec = spec_of(one.metric)
            if spec is None:
                raise ConfigurationError(f"audit.{key}: no metric is called {one.metric}; {_advise(one.metric)}")
            if key == "waivers" and (spec.proof or (spec.privacy and audit.preset == "strict")):
                barred = f"under preset {audit.preset} that gate cannot be waived"
                raise ConfigurationError(f"audit.waivers: must not name {one.metric}: {barred}")


def _advise(name: str) -> str:
    family, _, _ = name.partition(":")
    known = next((spec for spec in METRICS if spec.name == family), None)
    if known is not None and known.detail:
        return f"it needs the {known.detail}, or `{family}:*` for every one"
    return advise(family, [spec.name for spec in METRICS], "metrics")
