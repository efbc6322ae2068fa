"""Which gates so many subjects can decide at all: the audit's own arithmetic, asked before anything is trained.

A gate reads the bound that hurts, so that too few subjects do not let a bad cohort pass but hold a good one back.
How often they do follows from the sizes alone for some gates, and is computed here with the audit's own intervals and
gates; for the others it depends on the data, and they are left out.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt

import numpy as np
from scipy import stats

from meddiff_core.evidence.gates import gates_in_force, passes_gate
from meddiff_core.evidence.intervals import Bootstrap, Estimate, from_count
from meddiff_core.evidence.metrics import Metric, metric_of
from meddiff_core.evidence.presets import OPTIONAL
from meddiff_core.evidence.privacy.canaries import COPY_POWER, TRANSFORMATIONS
from meddiff_core.evidence.privacy.copies import COPIES_EXCESS, NullRank, level_of
from meddiff_core.evidence.privacy.copy_evidence import MOST_CANARIES
from meddiff_core.evidence.privacy.covariates import EXACT_ROWS
from meddiff_core.evidence.privacy.membership import (
    FALSE_POSITIVES,
    MEMBERSHIP_AUC,
    MEMBERSHIP_TPR,
    MOST,
    TRAIN_PER_HOLDOUT,
    auc_interval,
)
from meddiff_core.evidence.privacy.negative_control import MOST_HOLDOUT, TOLERATED, chance_of_blocking
from meddiff_core.evidence.privacy.power import CopyGate, copy_gate
from meddiff_core.evidence.privacy.release_membership import RELEASE_AUC
from meddiff_core.evidence.quality.comparison import COVERAGE, LARGEST_SAMPLE
from meddiff_core.evidence.quality.distinct import DISTINCT_SHARE
from meddiff_core.evidence.quality.fidelity import FIDELITY
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_size
from meddiff_core.evidence.registry import spec_of
from meddiff_core.study import AuditConfig

BEYOND = 2.0
"""Copies in a bad cohort, in units of the excess that the gate allows."""
PLAIN = 0.5
"""Copy threshold over the lowest score of a fresh volume, where all planted copies score below a quarter of the
latter."""
FAITHFUL = 0.8
"""Correlation of requested and measured in a cohort that follows its conditions well."""
HOPELESS = 0.5
"""Share of good cohorts held back above which, or of bad ones below which, a gate decides nothing."""
MOST_SUBJECTS = MOST_HOLDOUT
"""Up to which the number that would do is sought."""
GRID = np.linspace(0, 1, 401)
"""Values at which a gate on an area or a correlation is asked."""
SETS = {"train": "training subjects", "holdout": "held-out subjects", "synthetic": "synthetic volumes"}


@dataclass(frozen=True)
class GateOutlook:
    """What can be expected of one gate, by the sizes alone."""

    metric: str
    """As the preset names it."""
    decidable: bool
    """Whether it passes good cohorts more often than not, and holds back bad ones so."""
    power: float | None
    """Chance that it holds back a cohort that it is there for; None where sizes alone do not tell."""
    false_alarm: float | None
    """Chance that it holds back a cohort without fault."""
    needed: int | None
    """Of `waits_for`, so many that at most 5% of good cohorts are held back; None where it is so already, or where
    not even 999 would do."""
    waits_for: str
    """`train`, `holdout` or `synthetic`."""
    reason: str
    """What the chances are of."""


@dataclass(frozen=True)
class Sizes:
    """Subjects of the three sides, and synthetic volumes."""

    train: int
    validation: int
    holdout: int
    synthetic: int

    def scaled(self, waits_for: str, count: int) -> "Sizes":
        """With so many of one set, and of the other sides as many more as of the holdout."""
        if waits_for != "holdout":
            return replace(self, **{waits_for: count})
        factor = max(1.0, count / max(1, self.holdout))
        train, validation = (ceil(side * factor) for side in (self.train, self.validation))
        return Sizes(train, validation, count, self.synthetic)


@dataclass(frozen=True)
class Chances:
    """Of holding back a cohort without fault, and one with."""

    false_alarm: float
    power: float | None = None
    otherwise: str = ""
    """What the former is where an assumption of the reason does not hold."""


Expectation = Callable[[str, Sizes, AuditConfig], Chances]


def decidable_gates(sizes: Mapping[str, int], audit: AuditConfig, cohort_size: int) -> tuple[GateOutlook, ...]:
    """What to expect of the gates in force, where the sizes alone tell.

    `sizes` are subjects of the three sides; several scans of a subject make no difference here.
    """
    counts = Sizes(sizes["train"], sizes["validation"], sizes["holdout"], cohort_size)
    known = [(gate.metric, _RULES.get(gate.metric.partition(":")[0])) for gate in gates_in_force(OPTIONAL, audit)]
    return tuple(_outlook(metric, rule, counts, audit) for metric, rule in known if rule is not None)


def describe_outlook(outlooks: Sequence[GateOutlook], gates_left_out: Sequence[str] = ()) -> list[str]:
    """Lines for the plan: first the gates that decide nothing, then the others; last those that are left out."""
    lines = [_line(outlook) for outlook in sorted(outlooks, key=lambda outlook: outlook.decidable)]
    if gates_left_out:
        lines.append(f"sizes alone do not tell of the gates on {', '.join(gates_left_out)}")
    return lines


def gates_left_out(audit: AuditConfig) -> list[str]:
    """Gates in force of which sizes alone do not tell, by the names of their metrics without the features."""
    names = [gate.metric.partition(":")[0] for gate in gates_in_force(OPTIONAL, audit)]
    return list(dict.fromkeys(name for name in names if name not in _RULES))


def _line(outlook: GateOutlook) -> str:
    verdict = "can decide" if outlook.decidable else "cannot decide"
    figures = [f"holds back {_percent(outlook.false_alarm)} of good cohorts" if outlook.false_alarm is not None else ""]
    if outlook.power is not None:
        figures.append(f"and {_percent(outlook.power)} of bad ones")
    return f"{outlook.metric} {verdict}: {' '.join(filter(None, figures))} ({outlook.reason}){_advice(outlook)}"


def _advice(outlook: GateOutlook) -> str:
    if outlook.false_alarm is None or outlook.false_alarm <= TOLERATED:
        return ""
    if outlook.needed is None:
        return f"; not even {MOST_SUBJECTS} {SETS[outlook.waits_for]} would bring the former to {TOLERATED:.0%}"
    return f"; {outlook.needed} {SETS[outlook.waits_for]} would bring the former to {TOLERATED:.0%}"


def _percent(chance: float | None) -> str:
    chance = chance or 0.0
    return "less than 1%" if 0 < chance < 0.01 else "more than 99%" if 0.99 < chance < 1 else f"{chance:.0%}"


@dataclass(frozen=True)
class _Rule:
    expect: Expectation
    waits_for: str
    reason: str


def _outlook(metric: str, rule: _Rule, sizes: Sizes, audit: AuditConfig) -> GateOutlook:
    name = metric.replace("*", "any")
    chances = rule.expect(name, sizes, audit)
    sets = [] if chances.false_alarm <= TOLERATED else list(dict.fromkeys([rule.waits_for, "synthetic"]))
    found = [(one, needed) for one in sets if (needed := _needed(name, rule, one, sizes, audit)) is not None]
    waits_for, needed = found[0] if found else (rule.waits_for, None)
    return GateOutlook(
        metric, _decides(chances), chances.power, chances.false_alarm, needed, waits_for,
        "; ".join(filter(None, [rule.reason, chances.otherwise])),
    )  # fmt: skip


def _decides(chances: Chances) -> bool:
    return chances.false_alarm <= HOPELESS and (chances.power is None or chances.power >= HOPELESS)


def _needed(name: str, rule: _Rule, waits_for: str, sizes: Sizes, audit: AuditConfig) -> int | None:
    """Of the set that a gate may wait for, so many that it holds back one good cohort in 20, by halving."""

    def suffices(count: int) -> bool:
        return rule.expect(name, sizes.scaled(waits_for, count), audit).false_alarm <= TOLERATED

    low = int(getattr(sizes, waits_for))
    if low >= MOST_SUBJECTS or not suffices(MOST_SUBJECTS):
        return None
    counts = range(low + 1, MOST_SUBJECTS)
    return low + 1 + bisect_left(counts, True, key=suffices)


def _bootstrap(audit: AuditConfig) -> Bootstrap:
    return Bootstrap(audit.repeats, audit.confidence, seed=0)


def _passes(name: str, found: Estimate, audit: AuditConfig) -> bool:
    """What the gate itself says of an estimate."""
    return passes_gate(metric_named(name, found), audit)


def metric_named(name: str, found: Estimate) -> Metric:
    """The metric that an audit would yield with an estimate."""
    spec = spec_of(name)
    assert spec is not None, "gates of a study name metrics"
    reference = found.value if spec.reference else None
    return metric_of(spec, found, "", name.removeprefix(spec.name).removeprefix(":"), reference)


def _limit(name: str, audit: AuditConfig) -> float:
    """Of a gate that has a largest value; 1 where it has none."""
    limit = next(gate.max for gate in gates_in_force([name], audit) if gate.metric == name)
    return 1.0 if limit is None else limit


def _fewest(name: str, n: int, audit: AuditConfig, passing: bool) -> int:
    """The fewest of n from which on a gate on a share passes, or from which on it fails; n + 1 where never."""

    def decided(count: int) -> bool:
        return _passes(name, from_count(count, n, audit.confidence), audit) == passing

    return bisect_left(range(n + 1), True, key=decided)


def _copies_excess(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """As the audit's negative control (privacy/negative_control.py), for a threshold between planted copies and fresh
    volumes; every copy is taken to be caught.
    """
    null_size = sizes.holdout + sizes.validation

    def gate_at(null: NullRank) -> CopyGate:
        flagged = round(sizes.synthetic * null.fraction * null.highest_share)
        return copy_gate(sizes.synthetic, flagged, null, audit, _bootstrap(audit))

    plain, mixed = NullRank(null_size, 1, PLAIN), level_of(null_size)
    otherwise = f"{_percent(chance_of_blocking(gate_at(mixed), mixed))} of good ones where copies score like scans"
    gate = gate_at(plain)
    return Chances(chance_of_blocking(gate, plain), gate.blocks(min(1.0, BEYOND * _limit(name, audit)), 1.0), otherwise)


def _copy_power(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """A test that catches every canary: the interval counts the subjects that were copied."""
    subjects = min(sizes.train, MOST_CANARIES * (len(TRANSFORMATIONS) + 1) // (len(TRANSFORMATIONS) + 2))
    return Chances(0.0 if _passes(name, from_count(subjects, subjects, audit.confidence), audit) else 1.0)


def _membership_auc(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """Normal, with the standard deviation of an area under the null (Mann and Whitney 1947), and that of Hanley and
    McNeil (1982) at the gate's limit; one attack, since the audit corrects for the choice of the strongest.
    """
    members, outsiders = _attacked(sizes)
    failing = _first(lambda area: not _passes(name, auc_interval(area, members, outsiders, audit.confidence), audit))
    last = failing - float(GRID[1])
    limit = _limit(name, audit)
    null = sqrt((members + outsiders + 1) / (12 * members * outsiders))
    spread = 1 + ((members + outsiders) / 2 - 1) * ((1 - limit) / (2 - limit) + limit / (1 + limit))
    leak = sqrt(max(limit * (1 - limit) * spread, 1e-12) / (members * outsiders))
    return Chances(float(stats.norm.sf((last - 0.5) / null)), float(stats.norm.sf((last - limit) / leak)))


def _attacked(sizes: Sizes) -> tuple[int, int]:
    """Members and outsiders that the membership attacks compare."""
    return min(sizes.train, MOST, TRAIN_PER_HOLDOUT * sizes.holdout), min(sizes.holdout, MOST)


def _first(holds: Callable[[float], bool]) -> float:
    """The smallest value of the grid from which on something holds; 1 where it never does."""
    return float(GRID[bisect_left(GRID[:-1].tolist(), True, key=holds)])


def _membership_tpr(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """Exactly: members above the k-th highest of n outsiders are beta-binomial, whatever the distribution."""
    members, outsiders = _attacked(sizes)
    rank = 1 + int(FALSE_POSITIVES * outsiders)
    blocked = _fewest(name, members, audit, passing=False)
    return Chances(float(stats.betabinom.sf(blocked - 1, members, rank, outsiders + 1 - rank)))


def _distinct_share(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """A cohort in which no volume repeats another."""
    found = from_count(sizes.synthetic, sizes.synthetic, audit.confidence)
    return Chances(0.0 if _passes(name, found, audit) else 1.0)


def _coverage(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """Binomial around the mean for two samples of one distribution (Naeem et al. 2020, eq. 8), whatever it is."""
    n = min(sizes.train, sizes.holdout, sizes.synthetic, LARGEST_SAMPLE)
    missed = np.prod([(n - i) / (2 * n - i) for i in range(1, neighbourhood_size(n) + 1)])
    return Chances(float(stats.binom.cdf(_fewest(name, n, audit, passing=True) - 1, n, 1 - missed)))


def _fidelity_r(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """Normal on the scale of Fisher (1915), standard deviation 1 / sqrt(n - 3)."""
    if sizes.synthetic < 4:
        return Chances(1.0)
    std = 1 / sqrt(sizes.synthetic - 3)
    reach = float(stats.norm.ppf((1 + audit.confidence) / 2)) * std

    def interval(r: float) -> Estimate:
        z = np.arctanh(min(r, 0.999999))
        return Estimate(r, float(np.tanh(z - reach)), float(np.tanh(z + reach)), sizes.synthetic)

    first = _first(lambda r: _passes(name, interval(r), audit))
    return Chances(float(stats.norm.cdf((np.arctanh(min(first, 0.999999)) - np.arctanh(FAITHFUL)) / std)))


def _exact_rows(name: str, sizes: Sizes, audit: AuditConfig) -> Chances:
    """A count without an interval."""
    return Chances(0.0, 1.0)


_RULES = {
    COPIES_EXCESS.name: _Rule(
        _copies_excess,
        "holdout",
        "good: no copies; bad: twice as many as it allows, all caught; planted copies score far below held-out scans",
    ),
    COPY_POWER.name: _Rule(_copy_power, "train", "good: a test that catches every canary"),
    RELEASE_AUC.name: _Rule(
        _membership_auc, "holdout", "good: a release that betrays nobody; bad: just beyond the limit"
    ),
    MEMBERSHIP_AUC.name: _Rule(
        _membership_auc, "holdout", "good: weights that betray nobody; bad: just beyond the limit"
    ),
    MEMBERSHIP_TPR.name: _Rule(_membership_tpr, "holdout", "good: weights that betray nobody"),
    DISTINCT_SHARE.name: _Rule(_distinct_share, "synthetic", "good: no volume repeats another"),
    COVERAGE.name: _Rule(_coverage, "holdout", "good: of the distribution of the real ones"),
    FIDELITY["labels"].name: _Rule(_fidelity_r, "synthetic", f"good: a condition is followed with r = {FAITHFUL:g}"),
    EXACT_ROWS.name: _Rule(_exact_rows, "synthetic", "a count, which no number of subjects makes unsure"),
}
"""By the name of a metric without its features."""
