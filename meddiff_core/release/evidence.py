"""The evidence of an audit, ready to be printed: gates, waivers, and each part with its metrics, tables and curves.

Page, card and internal report fill their templates from here, so that they cannot describe a gate or a waiver
differently. Every metric, table and curve knows its part, and each part has its heading and its reading here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.metrics import Better, Metric, Part
from meddiff_core.evidence.section import Cell, Curve, Table
from meddiff_core.release import figures
from meddiff_core.release.interval_glyphs import interval_glyph
from meddiff_core.release.templating import humanise, number

SIGNS = {"max": "≤", "min": "≥"}
VERDICTS = {"pass": "passed", "quarantine": "undecided", "block": "not passed"}
TONES = {"pass": "good", "quarantine": "warn", "block": "bad"}
MARKS = {"pass": "✓", "quarantine": "?", "block": "✗"}
WAIVED = "waived"
LONG = 12
"""Rows from which a table is folded."""
READING: dict[Part, str] = {
    "privacy": "How near synthetic volumes come to training scans, beside how near scans come that no model "
    "was trained on.",
    "quality": "How the cohort differs from real scans as a whole: kinds, range and variety of volumes.",
    "anatomy": "Sizes and shapes of the structures, measured on the label maps.",
    "fidelity": "Whether volumes have what was asked for.",
    "utility": "What a network learns from synthetic volumes, tested on real scans that nothing here was trained on.",
    "screening": "What was rejected, and what that did to the cohort.",
}
"""What each part shows, in the order of the report."""
GOOD: dict[Better | None, str] = {
    "lower": "lower is better",
    "higher": "higher is better",
    "nearer": "nearer to the reference is better",
    None: "",
}


@dataclass(frozen=True)
class Row:
    """One line of a table of measurements, ready to be printed."""

    name: str
    explanation: str
    value: float | None
    low: float | None
    high: float | None
    mark: str
    n: int | None = None
    reference: float | None = None
    """The same figure between real and real."""
    limit: float | None = None
    sign: str = ""
    asked: float | None = None
    """Threshold of the preset, where the study has another."""
    verdict: str = ""
    tone: str = "good"
    tick: str = ""
    note: str = ""
    """Why it was not passed."""
    good: str = ""
    """Which way is good."""


@dataclass(frozen=True)
class Sheet:
    """A table ready to be printed."""

    title: str
    caption: str
    columns: Sequence[tuple[str, bool]]
    """Heading, and whether there are numbers below it."""
    rows: Sequence[Sequence[str]]

    @property
    def folded(self) -> bool:
        """Whether it is too long to lie open."""
        return len(self.rows) > LONG


@dataclass(frozen=True)
class PartView:
    """One section of a report."""

    anchor: str
    heading: str
    reading: str
    metrics: Sequence[Row]
    sheets: Sequence[Sheet]
    curves: Sequence[dict[str, str]]

    @property
    def folded(self) -> bool:
        """Whether its metrics are too many to lie open."""
        return len(self.metrics) > LONG


@dataclass(frozen=True)
class Waived:
    """A failed gate that a named person waived."""

    gate: str
    name: str
    reason: str
    how_far: str


def part_views(
    metrics: Sequence[Metric], tables: Sequence[Table] = (), curves: Sequence[Curve] = (), always: Sequence[Part] = ()
) -> list[PartView]:
    """Every part that has something to show, and those in `always`, in the order of the report."""
    measured, plotted = [metric.spec.part for metric in metrics], [curve.part for curve in curves]
    found = {*always, *measured, *plotted, *(table.part for table in tables)}
    return [
        PartView(
            anchor=part,
            heading=_headed(part),
            reading=reading,
            metrics=[metric_row(metric) for metric in metrics if metric.spec.part == part],
            sheets=[_sheet(table) for table in tables if table.part == part],
            curves=[_plotted(curve) for curve in curves if curve.part == part],
        )
        for part, reading in READING.items()
        if part in found
    ]


def gate_rows(gates: Sequence[GateResult], metrics: Sequence[Metric]) -> list[Row]:
    """Gates with the interval and the words of their metric; those that did not pass come first."""
    known = {metric.name: metric for metric in metrics}
    order = sorted(gates, key=lambda gate: (gate.passed, gate.waiver is not None))
    return [_gate_row(gate, known.get(gate.metric)) for gate in order]


def _gate_row(gate: GateResult, metric: Metric | None) -> Row:
    low, high = (metric.low, metric.high) if metric else (gate.bound, gate.bound)
    return Row(
        name=_headed(gate.metric),
        explanation=_explained(metric) if metric else f"{_capitalised(_unmeasured(gate))}.",
        value=gate.value,
        low=low,
        high=high,
        mark=interval_glyph(gate.value, low, high, limit=gate.threshold, passed=gate.passed),
        limit=gate.threshold,
        sign=SIGNS[gate.direction],
        asked=gate.preset_threshold,
        verdict=VERDICTS[gate.verdict] + (f", {WAIVED}" if gate.waiver else ""),
        tone="warn" if gate.waiver else TONES[gate.verdict],
        tick=MARKS[gate.verdict],
        note=f"{_capitalised(gate.advice.text)}." if gate.advice else "",
    )


def _explained(metric: Metric) -> str:
    """What a metric is, and what the real-to-real value beside it is."""
    reference = f" The reference is {metric.spec.reference}." if metric.spec.reference else ""
    return f"{metric.explanation}{reference}"


def metric_row(metric: Metric) -> Row:
    """A measurement with its real-to-real reference."""
    return Row(
        name=_headed(metric.name),
        explanation=_explained(metric),
        value=metric.value,
        low=metric.low,
        high=metric.high,
        mark=interval_glyph(metric.value, metric.low, metric.high, reference=metric.reference),
        n=metric.n,
        reference=metric.reference,
        good=GOOD[metric.spec.better],
    )


def waived(gates: Sequence[GateResult]) -> list[Waived]:
    """Who waived which failed gate, why, and by how much it failed."""
    return [
        Waived(_headed(gate.metric), gate.waiver.name, gate.waiver.reason, _how_far(gate))
        for gate in gates
        if gate.waiver is not None
    ]


def _how_far(gate: GateResult) -> str:
    if gate.bound is None or gate.missed_by is None:
        return f"it {_unmeasured(gate, 'was ')}"
    side = {"max": "above", "min": "below"}[gate.direction]
    return f"its bound, {number(gate.bound)}, is {number(gate.missed_by)} {side} the threshold {number(gate.threshold)}"


def _unmeasured(gate: GateResult, verb: str = "") -> str:
    return f"{verb}not measured" + (f": {gate.failure}" if gate.failure else "")


def verdict(gates: Sequence[GateResult]) -> str:
    """How many gates passed, and how many were waived, in one sentence."""
    passed, total = sum(gate.passed for gate in gates), len(gates)
    count = sum(gate.waiver is not None for gate in gates)
    text = f"All {passed} gates passed" if passed == total > 1 else f"{passed} of {total} gates passed"
    return f"{text}; {count} {'was' if count == 1 else 'were'} waived." if count else f"{text}."


def privacy_summary(gates: Sequence[GateResult], metrics: Sequence[Metric]) -> list[str]:
    """A line per privacy gate: what was measured, and what it means."""
    known = {metric.name: metric for metric in metrics}
    return [
        _in_words(known[gate.metric])
        for gate in gates
        if gate.metric in known and known[gate.metric].spec.privacy
    ]  # fmt: skip


def _in_words(metric: Metric) -> str:
    real = "" if metric.reference is None else f"; real scans: {number(metric.reference)}"
    interval = f"{number(metric.low)} to {number(metric.high)}"
    return f"{_headed(metric.name)}: {number(metric.value)} ({interval}{real}). {metric.explanation}"


def _sheet(table: Table) -> Sheet:
    numeric = [_is_numeric([row[column] for row in table.rows]) for column in range(len(table.columns))]
    return Sheet(
        title=table.title,
        caption=table.caption,
        columns=[
            (_headed(name) if len(name) > 1 else name, right)
            for name, right in zip(table.columns, numeric, strict=True)
        ],
        rows=[[_text(cell) for cell in row] for row in table.rows],
    )


def _is_numeric(cells: Sequence[Cell]) -> bool:
    given = [cell for cell in cells if cell is not None]
    return bool(given) and all(isinstance(cell, int | float) for cell in given)


def _text(cell: Cell) -> str:
    return humanise(cell) if isinstance(cell, str) else number(cell)


def _plotted(curve: Curve) -> dict[str, str]:
    return {"title": curve.title, "caption": curve.caption, "svg": figures.lines(curve).decode()}


def _headed(name: str) -> str:
    return _capitalised(humanise(name))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
