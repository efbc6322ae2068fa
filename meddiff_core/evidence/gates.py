"""The conditions that a cohort must meet before it may leave.

A gate reads the bound of the confidence interval that hurts, never the value itself: too few volumes to be sure
is a reason to hold a release back, and the gate then says how many would do. A gate whose metric is missing fails,
and says so. A person may answer for a failed gate by name; the release then shows it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from scipy import stats

from meddiff_core.contract import Frozen
from meddiff_core.diffusion.checkpoint_selection import NO_LIMIT
from meddiff_core.evidence.metrics import EVERY, Metric, six_digits
from meddiff_core.evidence.presets import ON_WEIGHTS, OPTIONAL, PRESETS
from meddiff_core.evidence.privacy.membership import MEMBERSHIP_AUC
from meddiff_core.study import AuditConfig, GateConfig, Study, WaiverConfig

Verdict = Literal["pass", "quarantine", "block"]
Direction = Literal["max", "min"]
ENDLESS = 1000.0
"""Times as many volumes, beyond which no number is named."""


class Advice(Frozen):
    """How many volumes would narrow an interval enough for its gate to decide."""

    volumes: str
    """Of which set; empty where it is not known."""
    available: int
    needed: int | None
    """None where the value is so near to the threshold that hardly any number would do."""

    @property
    def text(self) -> str:
        """For a person who has to decide how to go on."""
        if self.needed is None:
            return "too few to decide, and the value is so near to the threshold that hardly any number would do"
        volumes = f"{self.volumes} volumes".strip()
        return f"too few to decide: about {self.needed} {volumes} would be needed, there are {self.available}"


class GateResult(Frozen):
    """What a gate said."""

    metric: str
    value: float | None
    bound: float | None
    """The confidence bound that was compared; None where the metric is missing."""
    n: int | None = None
    """Volumes behind it."""
    threshold: float
    direction: Direction
    passed: bool
    verdict: Verdict
    """`quarantine`: the value would pass, but its bound does not; more volumes may decide. `block`: the value fails."""
    confidence: float | None = None
    """Of the bound."""
    failure: str = ""
    """What it means that this gate failed, where the name of its metric does not say so; or why it was not measured."""
    advice: Advice | None = None
    """What would decide a quarantine."""
    preset_threshold: float | None = None
    """What the preset asks, where the study asks something else."""
    waiver: WaiverConfig | None = None
    """Who answers for it, if it failed."""

    @property
    def holds_back(self) -> bool:
        """Whether no release may be made because of it."""
        return not self.passed and self.waiver is None

    @property
    def missed_by(self) -> float | None:
        """How far the bound is beyond the threshold; None for a gate that passed or had nothing to look at."""
        return None if self.passed or self.bound is None else abs(self.bound - self.threshold)

    @property
    def message(self) -> str:
        """All of it in one sentence."""
        return "; ".join([f"{self.metric}: {self._finding}", *([self.advice.text] if self.advice else [])])

    @property
    def _finding(self) -> str:
        return ": ".join(filter(None, ["was not measured" if self.bound is None else self._compared, self.failure]))

    @property
    def _compared(self) -> str:
        end, limit = ("upper", "most") if self.direction == "max" else ("lower", "least")
        found = f"{end} confidence bound {self.bound:.4g} (value {self.value:.4g}, n {self.n})"
        return f"{found} must be at {limit} {self.threshold:.4g}"


def apply_gates(
    metrics: Sequence[Metric], audit: AuditConfig, sizes: Mapping[str, int] | None = None
) -> tuple[GateResult, ...]:
    """Every gate of the preset, as changed by the study's own gates, on the metrics.

    `sizes` are volumes per set, to say of which more are needed.
    """
    known = {metric.name: metric for metric in metrics}
    waivers = {waiver.metric: waiver for waiver in audit.waivers}
    gates = gates_in_force(list(known), audit)
    results = [_apply(gate, known.get(gate.metric), audit, sizes or {}, waivers.get(gate.metric)) for gate in gates]
    return tuple(one if one.metric in known else _explain_missing(one, list(known)) for one in results)


def _explain_missing(result: GateResult, measured: Sequence[str]) -> GateResult:
    from meddiff_core.evidence.registry import why_missing  # the registry gathers metrics whose modules apply gates

    return result.model_copy(update={"failure": why_missing(result.metric, measured)})


def audit_settings(study: Study) -> AuditConfig:
    """Those of a study, with the gate on the weights where its models are given away, unless it has one of its own."""
    gate = ON_WEIGHTS[study.audit.preset]
    given = {own.metric for own in (*study.audit.gates, *PRESETS[study.audit.preset])}
    if not study.release.models or gate.metric in given:
        return study.audit
    return study.audit.model_copy(update={"gates": [*study.audit.gates, gate]})


def limit_on_weights(study: Study) -> float:
    """What the gate on attacks on a denoiser's weights allows; `NO_LIMIT` where none asks about them.

    It selects checkpoints and makes none stale: a gate that is added to a trained study judges the weights as they are.
    """
    name = MEMBERSHIP_AUC.named("denoiser")
    gates = [gate for gate in gates_in_force([name], audit_settings(study)) if gate.metric == name]
    return next((gate.max for gate in gates if gate.max is not None), NO_LIMIT)


def passes_gate(metric: Metric, audit: AuditConfig) -> bool:
    """What the gate on one metric, which is in force, says of it."""
    gate = next(gate for gate in gates_in_force([metric.name], audit) if gate.metric == metric.name)
    return _apply(gate, metric, audit, {}, None).passed


def unused_waivers(gates: Sequence[GateResult], audit: AuditConfig) -> list[str]:
    """A sentence for each waiver that no failed gate needed."""
    used = {gate.metric for gate in gates if gate.waiver is not None}
    passed = {gate.metric for gate in gates if gate.passed}
    why = {waiver.metric: "it passed" if waiver.metric in passed else "there is none" for waiver in audit.waivers}
    return [
        f"The waiver of {waiver.name} for the gate {waiver.metric} was not used: {why[waiver.metric]}."
        for waiver in audit.waivers
        if waiver.metric not in used
    ]


def gates_in_force(names: Sequence[str], audit: AuditConfig) -> list[GateConfig]:
    """Those of the preset, as changed by the study's own, where metrics of these names were measured."""
    given = {gate.metric for gate in audit.gates}
    preset = [
        gate
        for gate in PRESETS[audit.preset]
        if gate.metric not in given and (gate.metric not in OPTIONAL or _members(gate, names))
    ]
    chosen = {concrete.metric: concrete for gate in [*preset, *audit.gates] for concrete in _expand(gate, names)}
    chosen |= {gate.metric: gate for gate in audit.gates if not _is_family(gate)}
    return list(chosen.values())


def _is_family(gate: GateConfig) -> bool:
    return gate.metric.endswith(f":{EVERY}")


def _stands_for(gate: GateConfig, name: str) -> bool:
    return name.startswith(gate.metric.removesuffix(EVERY)) if _is_family(gate) else name == gate.metric


def _members(gate: GateConfig, names: Sequence[str]) -> list[str]:
    return [name for name in names if _stands_for(gate, name)]


def _expand(gate: GateConfig, names: Sequence[str]) -> list[GateConfig]:
    """One gate per metric that it stands for; itself where there is none, so that it fails."""
    return [gate.model_copy(update={"metric": name}) for name in _members(gate, names)] or [gate]


def _apply(
    gate: GateConfig,
    metric: Metric | None,
    audit: AuditConfig,
    sizes: Mapping[str, int],
    waiver: WaiverConfig | None,
) -> GateResult:
    direction, threshold = _limit(gate)
    confidence = gate.confidence or audit.confidence
    bound = None if metric is None else _bound(metric, direction, _shrinkage(confidence, audit.confidence))
    verdict = _verdict(direction, threshold, bound, metric)
    return GateResult(
        metric=gate.metric,
        value=None if metric is None else metric.value,
        bound=bound,
        n=None if metric is None else metric.n,
        threshold=threshold,
        direction=direction,
        passed=verdict == "pass",
        verdict=verdict,
        confidence=confidence,
        failure="" if metric is None or verdict == "pass" else metric.spec.failure,
        advice=_advise(metric, bound, threshold, sizes)
        if verdict == "quarantine" and metric and bound is not None
        else None,
        preset_threshold=_changed_from(PRESETS[audit.preset], gate.metric, direction, threshold),
        waiver=None if verdict == "pass" else waiver,
    )


def _changed_from(preset: Sequence[GateConfig], name: str, direction: Direction, threshold: float) -> float | None:
    """The preset's threshold for a metric, if it is another one."""
    own = [_limit(gate) for gate in preset if _stands_for(gate, name)]
    return next((limit for side, limit in own if side == direction and limit != threshold), None)


def _advise(metric: Metric, bound: float, threshold: float, sizes: Mapping[str, int]) -> Advice:
    """How many volumes would narrow the interval enough, if the value stays: widths fall as 1 / sqrt(n)."""
    room, width = abs(threshold - metric.value), abs(bound - metric.value)
    factor = (width / room) ** 2 if room > 0 else math.inf
    limiting: str = metric.spec.limited_by
    if limiting == "compared":
        limiting = min(sizes, key=lambda name: (sizes[name], name), default="")
    count = sizes.get(limiting, metric.n)
    needed = None if factor > ENDLESS else _rounded_up(count * factor)
    return Advice(volumes=limiting, available=count, needed=needed)


def _limit(gate: GateConfig) -> tuple[Direction, float]:
    if gate.max is not None:
        return "max", gate.max
    if gate.min is not None:
        return "min", gate.min
    raise ValueError(f"gate {gate.metric} needs max or min, has neither")


def _shrinkage(confidence: float, of_intervals: float) -> float:
    """Of the width of an interval, from one confidence to a lower one, as if it were normal.

    Intervals of shares have longer tails: theirs would shrink more, so this errs towards refusing.
    """
    return float(stats.norm.ppf((1 + confidence) / 2) / stats.norm.ppf((1 + of_intervals) / 2))


def _bound(metric: Metric, direction: Direction, shrinkage: float) -> float:
    end = metric.high if direction == "max" else metric.low
    return end if shrinkage == 1 else six_digits(metric.value + (end - metric.value) * shrinkage)


def _verdict(direction: Direction, threshold: float, bound: float | None, metric: Metric | None) -> Verdict:
    if bound is None or metric is None:
        return "block"
    if _holds(direction, threshold, bound):
        return "pass"
    return "quarantine" if _holds(direction, threshold, metric.value) else "block"


def _holds(direction: Direction, threshold: float, figure: float) -> bool:
    return figure <= threshold if direction == "max" else figure >= threshold


def _rounded_up(count: float) -> int:
    """To two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit
