"""The conditions that a cohort must meet before it may leave.

A gate reads the bound of the confidence interval that hurts, never the value itself: too few volumes to be sure
is a reason to hold a release back. A gate whose metric is missing fails, and says so.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from meddiff_core.contract import Frozen
from meddiff_core.evidence.intervals import Estimate
from meddiff_core.study import AuditConfig, GateConfig


class Metric(Frozen):
    """One measured figure, with everything that a reader needs to judge it."""

    name: str
    value: float
    low: float
    high: float
    """Confidence interval."""
    n: int
    """Volumes behind it; for comparisons at equal sizes, volumes on each side."""
    floor: float | None = None
    """The same figure between real and real, where it exists."""
    direction: str
    """Which way is good, in words."""
    unit: str = ""
    explanation: str
    """One plain sentence."""


class GateResult(Frozen):
    """What a gate said."""

    metric: str
    value: float | None
    bound: float | None
    """The confidence bound that was compared; None where the metric is missing."""
    threshold: float
    direction: Literal["max", "min"]
    passed: bool
    verdict: Literal["pass", "block"]
    message: str


def metric_of(
    name: str, estimate: Estimate, direction: str, explanation: str, unit: str = "", floor: float | None = None
) -> Metric:
    """A metric from an estimate, to six digits: what lies beyond differs between machines."""
    value, low, high = (_six_digits(figure) for figure in (estimate.value, estimate.low, estimate.high))
    return Metric(
        name=name,
        value=value,
        low=low,
        high=high,
        n=estimate.n,
        floor=None if floor is None else _six_digits(floor),
        direction=direction,
        unit=unit,
        explanation=explanation,
    )


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


PRESETS: dict[str, tuple[GateConfig, ...]] = {
    "research": (
        GateConfig(metric="copies_excess", max=0.10),
        GateConfig(metric="copy_power", min=0.90),
        GateConfig(metric="closer_to_train:voxels", max=0.90),
        GateConfig(metric="distinct_share", min=0.80),
        GateConfig(metric="recall:*", min=0.20),
        GateConfig(metric="ms_ssim_gap", max=0.10),
        GateConfig(metric="frechet_ratio:*", max=10.0),
        GateConfig(metric="accepted_share", min=0.20),
        GateConfig(metric="fidelity_r:*", min=0.30),
    ),
    "strict": (
        GateConfig(metric="copies_excess", max=0.05),
        GateConfig(metric="copy_power", min=0.95),
        GateConfig(metric="closer_to_train:voxels", max=0.70),
        GateConfig(metric="distinct_share", min=0.90),
        GateConfig(metric="recall:*", min=0.50),
        GateConfig(metric="ms_ssim_gap", max=0.05),
        GateConfig(metric="frechet_ratio:*", max=4.0),
        GateConfig(metric="accepted_share", min=0.50),
        GateConfig(metric="fidelity_r:*", min=0.70),
    ),
    # A dozen held-out volumes and minutes of training: copies are still looked for with full power, but the
    # intervals of everything else are too wide to say much. Not for scans of patients.
    "trial": (
        GateConfig(metric="copies_excess", max=0.40),
        GateConfig(metric="copy_power", min=0.80),
        GateConfig(metric="distinct_share", min=0.50),
        GateConfig(metric="accepted_share", min=0.05),
    ),
}
"""Gates to start from. A name that ends in `:*` stands for every metric that begins so."""

ONLY_IF_MEASURED = ("fidelity_r:*",)
"""Preset gates that a study without label maps or conditions does without."""


def apply_gates(metrics: Sequence[Metric], audit: AuditConfig) -> tuple[GateResult, ...]:
    """Every gate of the preset, as changed by the study's own gates, on the metrics."""
    known = {metric.name: metric for metric in metrics}
    return tuple(_apply(gate, known.get(gate.metric)) for gate in _gates_in_force(list(known), audit))


def _gates_in_force(names: Sequence[str], audit: AuditConfig) -> list[GateConfig]:
    preset = [gate for gate in PRESETS[audit.preset] if gate.metric not in ONLY_IF_MEASURED or _matching(gate, names)]
    given = {gate.metric: gate for gate in audit.gates}
    preset = [gate for gate in preset if gate.metric not in given]
    chosen = {concrete.metric: concrete for gate in [*preset, *audit.gates] for concrete in _expand(gate, names)}
    chosen |= {gate.metric: gate for gate in audit.gates if not gate.metric.endswith(":*")}
    return list(chosen.values())


def _matching(gate: GateConfig, names: Sequence[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, gate.metric)] if gate.metric.endswith(":*") else [gate.metric]


def _expand(gate: GateConfig, names: Sequence[str]) -> list[GateConfig]:
    """One gate per metric that it stands for; itself where there is none, so that it fails."""
    return [gate.model_copy(update={"metric": name}) for name in _matching(gate, names)] or [gate]


def _apply(gate: GateConfig, metric: Metric | None) -> GateResult:
    direction: Literal["max", "min"] = "max" if gate.max is not None else "min"
    threshold = gate.max if gate.max is not None else gate.min
    if threshold is None:
        raise ValueError(f"gate {gate.metric} needs max or min, has neither")
    if metric is None:
        return _result(gate.metric, None, None, threshold, direction, False, "was not measured")
    bound = metric.high if direction == "max" else metric.low
    passed = bound <= threshold if direction == "max" else bound >= threshold
    end, limit = ("upper", "most") if direction == "max" else ("lower", "least")
    found = f"{end} confidence bound {bound:.4g} (value {metric.value:.4g}, n {metric.n})"
    text = f"{found} must be at {limit} {threshold:.4g}"
    return _result(gate.metric, metric.value, bound, threshold, direction, passed, text)


def _result(
    metric: str,
    value: float | None,
    bound: float | None,
    threshold: float,
    direction: Literal["max", "min"],
    passed: bool,
    text: str,
) -> GateResult:
    return GateResult(
        metric=metric,
        value=value,
        bound=bound,
        threshold=threshold,
        direction=direction,
        passed=passed,
        verdict="pass" if passed else "block",
        message=f"{metric}: {text}",
    )
