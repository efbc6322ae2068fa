"""The conditions that a cohort must meet before it may leave.

A gate reads the bound of the confidence interval that hurts, never the value itself: too few volumes to be sure
is a reason to hold a release back, and the gate then says how many would do. A gate whose metric is missing fails,
and says so. A person may answer for a failed gate by name; the release then shows it.
"""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from scipy import stats

from meddiff_core.contract import Frozen
from meddiff_core.evidence.intervals import Estimate
from meddiff_core.evidence.parts import waits_for
from meddiff_core.study import AuditConfig, GateConfig, WaiverConfig

Verdict = Literal["pass", "quarantine", "block"]
Direction = Literal["max", "min"]
ENDLESS = 1000.0
"""Times as many volumes, beyond which no number is named."""


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
    direction: Direction
    passed: bool
    verdict: Verdict
    """`quarantine`: the value would pass, but its bound does not; more volumes may decide. `block`: the value fails."""
    message: str
    confidence: float | None = None
    """Of the bound."""
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


_SHAPE = ("random-conv", "latents")
"""Features that see anatomy. Radiomics see texture, in which the softness of a small autoencoder sets any synthetic
volume apart from any real one: `strict` asks for that too, `research` shows it in the report."""

PRESETS: dict[str, tuple[GateConfig, ...]] = {
    # For a cohort that methods are developed on: what a small study can show.
    "research": (
        # copies: more suspected copies than fresh real volumes would give
        GateConfig(metric="copies_excess", max=0.10),
        # blindness: copies planted on purpose must be found, or the gate above says nothing
        GateConfig(metric="copy_power", min=0.90),
        # memory: training volumes attract synthetic ones more than held-out volumes do
        GateConfig(metric="closer_to_train:voxels", max=0.90),
        # memory: most of the cohort lies on the side of the training set, at equal sizes
        *(GateConfig(metric=f"closer_share:{view}", max=0.90) for view in ("voxels", *_SHAPE)),
        # memory: the weights tell training subjects from others; 18 held-out ones can show this little, and no less
        GateConfig(metric="membership_auc:*", max=0.75),
        # memory: the table of conditions says more of training subjects than of others
        GateConfig(metric="covariates_risk:*", max=0.50),
        # a training subject's own row among the conditions
        GateConfig(metric="exact_rows", max=0),
        # collapse: the same volume over and over
        GateConfig(metric="distinct_share", min=0.80),
        # collapse: real volumes that nothing synthetic resembles
        *(GateConfig(metric=f"recall:{view}", min=0.20) for view in _SHAPE),
        # collapse: kinds of real volumes with none synthetic nearby, however far single ones reach; with 18 held-out
        # volumes the interval is half a unit wide
        *(GateConfig(metric=f"coverage:{view}", min=0.10) for view in _SHAPE),
        # blur: the mean synthetic volume is less sharp than nearly every real one; blur by half a voxel is refused,
        # the softness of a small autoencoder is not, though the report shows it
        GateConfig(metric="effect:sharpness", max=2.0),
        # noise: the mean synthetic volume is noisier than nearly every real one; less noise than real is no fault here
        GateConfig(metric="effect:excess_noise", max=2.0),
        # collapse or noise: synthetic volumes that are more, or less, alike than real ones
        GateConfig(metric="ms_ssim_gap", max=0.10),
        # another distribution: blur, noise, wrong contrast
        *(GateConfig(metric=f"frechet_ratio:{view}", max=10.0) for view in _SHAPE),
        # a screen that makes the cohort: what it lets through is no longer what the model draws
        GateConfig(metric="accepted_share", min=0.20),
        # conditions that the volumes do not follow
        GateConfig(metric="fidelity_r:*", min=0.30),
    ),
    # The same with tighter limits, for a cohort that leaves the house of those who know it. Privacy gates of this
    # preset cannot be waived.
    "strict": (
        GateConfig(metric="copies_excess", max=0.05),
        GateConfig(metric="copy_power", min=0.95),
        GateConfig(metric="closer_to_train:voxels", max=0.70),
        GateConfig(metric="closer_share:*", max=0.75),
        GateConfig(metric="membership_auc:*", max=0.60),
        GateConfig(metric="membership_tpr:*", max=0.10),
        GateConfig(metric="covariates_risk:*", max=0.20),
        GateConfig(metric="exact_rows", max=0),
        GateConfig(metric="distinct_share", min=0.90),
        GateConfig(metric="recall:*", min=0.50),
        GateConfig(metric="coverage:*", min=0.50),
        # a large effect in Cohen's words: what an eye that knows real scans may notice
        GateConfig(metric="effect:sharpness", max=0.8),
        GateConfig(metric="effect:excess_noise", max=0.8),
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
        GateConfig(metric="exact_rows", max=0),
        GateConfig(metric="distinct_share", min=0.50),
        GateConfig(metric="accepted_share", min=0.05),
    ),
}
"""Gates to start from, each with the fault that it is there for. A name that ends in `:*` stands for every metric that
begins so."""

CONSEQUENCES = {
    "copy_power": "an audit that may miss the copies planted in it cannot say that a cohort holds none",
    "copies_excess": "more volumes resemble training volumes than chance explains, or too few were looked at to tell",
}
"""What it means that a gate failed, where its name does not say so."""

ONLY_IF_MEASURED = ("fidelity_r:*", "covariates_risk:*", "exact_rows")
"""Preset gates that a study without label maps or conditions does without."""


def apply_gates(
    metrics: Sequence[Metric], audit: AuditConfig, sizes: Mapping[str, int] | None = None
) -> tuple[GateResult, ...]:
    """Every gate of the preset, as changed by the study's own gates, on the metrics.

    `sizes` are volumes per set, to say of which more are needed.
    """
    known = {metric.name: metric for metric in metrics}
    waivers = {waiver.metric: waiver for waiver in audit.waivers}
    judge = _Judge(audit, sizes or {})
    return tuple(
        judge(gate, known.get(gate.metric), waivers.get(gate.metric)) for gate in gates_in_force(list(known), audit)
    )


def passes_gate(metric: Metric, audit: AuditConfig) -> bool:
    """What the gate on one metric, which is in force, says of it."""
    gate = next(gate for gate in gates_in_force([metric.name], audit) if gate.metric == metric.name)
    return _Judge(audit, {})(gate, metric, None).passed


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
    preset = [
        gate for gate in PRESETS[audit.preset] if gate.metric not in ONLY_IF_MEASURED or _is_measured(gate, names)
    ]
    given = {gate.metric: gate for gate in audit.gates}
    preset = [gate for gate in preset if gate.metric not in given]
    chosen = {concrete.metric: concrete for gate in [*preset, *audit.gates] for concrete in _expand(gate, names)}
    chosen |= {gate.metric: gate for gate in audit.gates if not gate.metric.endswith(":*")}
    return list(chosen.values())


def _matching(gate: GateConfig, names: Sequence[str]) -> list[str]:
    return [name for name in names if fnmatchcase(name, gate.metric)] if gate.metric.endswith(":*") else [gate.metric]


def _is_measured(gate: GateConfig, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, gate.metric) for name in names)


def _expand(gate: GateConfig, names: Sequence[str]) -> list[GateConfig]:
    """One gate per metric that it stands for; itself where there is none, so that it fails."""
    return [gate.model_copy(update={"metric": name}) for name in _matching(gate, names)] or [gate]


class _Judge:
    """Holds metrics against gates."""

    def __init__(self, audit: AuditConfig, sizes: Mapping[str, int]) -> None:
        self._preset, self._drawn_at, self._sizes = PRESETS[audit.preset], audit.confidence, sizes

    def __call__(self, gate: GateConfig, metric: Metric | None, waiver: WaiverConfig | None) -> GateResult:
        direction, threshold = _limit(gate)
        confidence = gate.confidence or self._drawn_at
        bound = None if metric is None else _bound(metric, direction, _shrinkage(confidence, self._drawn_at))
        verdict = _verdict(direction, threshold, bound, metric)
        text = "was not measured" if metric is None or bound is None else _describe(direction, threshold, bound, metric)
        if verdict != "pass" and gate.metric in CONSEQUENCES:
            text += f": {CONSEQUENCES[gate.metric]}"
        if metric is not None and bound is not None and verdict == "quarantine":
            text += f"; {self._needed(metric, bound, threshold)}"
        return GateResult(
            metric=gate.metric,
            value=None if metric is None else metric.value,
            bound=bound,
            threshold=threshold,
            direction=direction,
            passed=verdict == "pass",
            verdict=verdict,
            message=f"{gate.metric}: {text}",
            confidence=confidence,
            preset_threshold=self._changed_from(gate.metric, direction, threshold),
            waiver=None if verdict == "pass" else waiver,
        )

    def _changed_from(self, name: str, direction: Direction, threshold: float) -> float | None:
        """The preset's threshold for a metric, if it is another one."""
        own = [_limit(gate) for gate in self._preset if fnmatchcase(name, gate.metric)]
        return next((limit for side, limit in own if side == direction and limit != threshold), None)

    def _needed(self, metric: Metric, bound: float, threshold: float) -> str:
        """How many volumes would narrow the interval enough, if the value stays: widths fall as 1 / sqrt(n)."""
        room, width = abs(threshold - metric.value), abs(bound - metric.value)
        factor = (width / room) ** 2 if room > 0 else math.inf
        if factor > ENDLESS:
            return "too few to decide, and the value is so near to the threshold that hardly any number would do"
        limiting = waits_for(metric.name, self._sizes)
        count = self._sizes.get(limiting, metric.n)
        volumes = f"{limiting} volumes".strip()
        return f"too few to decide: about {_rounded_up(count * factor)} {volumes} would be needed, there are {count}"


def _limit(gate: GateConfig) -> tuple[Direction, float]:
    if gate.max is not None:
        return "max", gate.max
    if gate.min is not None:
        return "min", gate.min
    raise ValueError(f"gate {gate.metric} needs max or min, has neither")


def _shrinkage(confidence: float, drawn_at: float) -> float:
    """Of the width of an interval, from one confidence to a lower one, as if it were normal.

    Intervals of shares have longer tails: theirs would shrink more, so this errs towards refusing.
    """
    return float(stats.norm.ppf((1 + confidence) / 2) / stats.norm.ppf((1 + drawn_at) / 2))


def _bound(metric: Metric, direction: Direction, shrinkage: float) -> float:
    end = metric.high if direction == "max" else metric.low
    return end if shrinkage == 1 else _six_digits(metric.value + (end - metric.value) * shrinkage)


def _verdict(direction: Direction, threshold: float, bound: float | None, metric: Metric | None) -> Verdict:
    if bound is None or metric is None:
        return "block"
    if _holds(direction, threshold, bound):
        return "pass"
    return "quarantine" if _holds(direction, threshold, metric.value) else "block"


def _holds(direction: Direction, threshold: float, figure: float) -> bool:
    return figure <= threshold if direction == "max" else figure >= threshold


def _describe(direction: Direction, threshold: float, bound: float, metric: Metric) -> str:
    end, limit = ("upper", "most") if direction == "max" else ("lower", "least")
    found = f"{end} confidence bound {bound:.4g} (value {metric.value:.4g}, n {metric.n})"
    return f"{found} must be at {limit} {threshold:.4g}"


def _rounded_up(count: float) -> int:
    """To two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit
