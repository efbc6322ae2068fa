"""What an audit found is on every page: verdicts, waivers, tables and curves of every part, known or not."""

import re
from dataclasses import replace
from typing import Any

import pytest

from meddiff_core.errors import GatesFailed
from meddiff_core.evidence.gates import Advice, GateResult
from meddiff_core.evidence.intervals import Estimate
from meddiff_core.evidence.metrics import Metric, metric_of
from meddiff_core.evidence.registry import spec_of
from meddiff_core.evidence.section import Curve, Line, Table
from meddiff_core.release import figures
from meddiff_core.release.content import check_content
from meddiff_core.release.evidence import LONG, gate_rows, part_views, privacy_summary, verdict, waived
from meddiff_core.release.internal import InternalContent, render_internal
from meddiff_core.release.report import render_card, render_report
from meddiff_core.study import WaiverConfig

STATEMENTS = ("Utility was not measured: it needs labels.", "Copies under every transformation were found.")
WAIVER = WaiverConfig(metric="coverage", name="A. Person", reason="The cohort is for teaching.")


def figure(name: str, value: float = 0.5) -> Metric:
    spec = spec_of(name)
    assert spec is not None
    detail = name.removeprefix(spec.name).removeprefix(":")
    reference = 0.4 if spec.reference else None
    return metric_of(spec, Estimate(value, value - 0.1, value + 0.1, 18), "A figure.", detail, reference)


def failed(**changes: Any) -> GateResult:
    given: dict[str, Any] = {
        "metric": "coverage", "value": 0.7, "bound": 0.45, "threshold": 0.6, "direction": "min", "passed": False,
        "verdict": "quarantine", "n": 18, "advice": Advice(volumes="holdout", available=18, needed=90),
    }  # fmt: skip
    return GateResult(**(given | changes))


NOTES = Table(
    part="anatomy", title="Notes", caption="Notes.", columns=("name", "n", "note"),
    rows=(("a", None, "b"), ("c", 2, None)),
)  # fmt: skip


def table(part: Any = "anatomy", rows: int = 2) -> Table:
    return Table(
        part=part, title=f"Sizes of {part}", caption="How it is read.", columns=("structure", "effect"),
        rows=tuple((f"part_{row}", 1234.5678 + row) for row in range(rows)),
    )  # fmt: skip


def curve(title: str = "Power", lines: int = 2, names: str = "line {}") -> Curve:
    x = (0.0, 0.5, 1.0)
    drawn = tuple(
        Line(name=names.format(n), x=x, y=(0.1, 0.2, 0.3 + n), low=(0.0, 0.1, 0.2 + n), high=(0.2, 0.3, 0.4 + n))
        for n in range(lines)
    )
    return Curve(part="privacy", title=title, caption="Found copies.", x="share planted", y="found", lines=drawn)


@pytest.fixture
def full(content: Any) -> Any:
    gates = (*content.gates[:-1], failed(waiver=WAIVER))
    tables = (table(), table("utility", LONG + 1), table("screening"))
    return replace(content, gates=gates, tables=tables, curves=(curve(),), statements=STATEMENTS)


@pytest.fixture
def pages(full: Any) -> tuple[str, str]:
    internal = InternalContent(
        title="Heads", contract=full.contract, real=full.volumes, gates=full.gates, metrics=full.metrics,
        tables=full.tables, evidence_curves=full.curves, statements=full.statements,
    )  # fmt: skip
    return render_report(full), render_internal(internal)


def test_both_pages_show_every_table_curve_and_sentence(full: Any, pages: tuple[str, str]) -> None:
    for page in pages:
        for text in (*STATEMENTS, *(one.title for one in full.tables), "part 1", "How it is read."):
            assert text in page
        assert "1\u202f235" in page
        assert page.count('aria-label="Power: found by share planted"') == 1
        assert "line 0</text>" in page


def test_the_table_of_contents_leads_to_every_section_in_order(pages: tuple[str, str]) -> None:
    for page in pages:
        linked = re.findall(r'<a href="#([\w-]+)">', page[page.index("<nav") : page.index("</nav>")])
        assert linked == re.findall(r'<section id="([\w-]+)">', page)
        assert linked[:2] == ["gates", "findings"]
        assert {"privacy", "quality", "anatomy", "utility", "screening"} <= set(linked)


def test_long_tables_are_folded_and_short_ones_are_not(content: Any) -> None:
    short, long = (replace(content, tables=(table("utility", rows),)) for rows in (LONG, LONG + 1))
    assert "rows</summary>" not in render_report(short)
    assert f"<details><summary>{LONG + 1} rows</summary>" in render_report(long)
    many = replace(content, metrics=[*content.metrics, *(figure(f"effect:{n}") for n in range(LONG + 1))])
    assert re.search(r"<details><summary>\d+ measurements</summary>", render_report(many))


def test_each_metric_is_printed_once_under_its_part() -> None:
    metrics = [figure(name) for name in ("accepted_share", "frechet:a", "volume_effect:core", "copies_excess")]
    views = part_views(metrics)
    assert [view.anchor for view in views] == ["privacy", "quality", "anatomy", "screening"]
    assert [row.name for view in views for row in view.metrics] == [
        "Copies excess", "Frechet: a", "Volume effect: core", "Accepted share",
    ]  # fmt: skip


def test_a_metric_is_explained_with_its_reference_and_the_direction_that_is_good() -> None:
    ((row,),) = (view.metrics for view in part_views([figure("frechet:a")]))
    assert row.explanation == "A figure. The reference is that of the training volumes."
    assert (row.good, row.reference) == ("lower is better", 0.4)
    assert [view.anchor for view in part_views([], always=("screening",))] == ["screening"]


def test_a_column_of_numbers_is_set_to_the_right() -> None:
    (view,) = part_views([], [NOTES])
    assert view.sheets[0].columns == [("Name", False), ("n", True), ("Note", False)]
    assert view.sheets[0].rows == [["a", "–", "b"], ["c", "2", "–"]]


def test_a_waiver_is_printed_on_card_and_pages_with_who_why_and_by_how_much(full: Any, pages: tuple[str, str]) -> None:
    for text in (*pages, render_card(full)):
        for said in ("A. Person", "The cohort is for teaching.", "its bound, 0.45, is 0.15 below the threshold 0.6"):
            assert said in text
        assert "1 was waived" in text


def test_a_gate_that_nobody_answers_for_refuses_the_release(content: Any) -> None:
    with pytest.raises(GatesFailed, match=r"quarantine: coverage: lower confidence bound 0\.45"):
        check_content(replace(content, gates=[*content.gates, failed()]))
    check_content(replace(content, gates=[*content.gates, failed(waiver=WAIVER)]))


def test_failed_gates_come_first_and_say_what_they_need(content: Any) -> None:
    rows = gate_rows([*content.gates, failed(waiver=WAIVER), failed(metric="recall")], content.metrics)
    assert [row.verdict for row in rows[:2]] == ["undecided", "undecided, waived"]
    assert rows[0].note == "Too few to decide: about 90 holdout volumes would be needed, there are 18."
    assert {row.note for row in rows[2:]} == {""}


def test_a_changed_threshold_stands_beside_that_of_the_preset(content: Any) -> None:
    changed = content.gates[0].model_copy(update={"preset_threshold": 0.0123})
    other = replace(content, gates=[changed])
    assert "preset: ≤ 0.0123" in render_report(other)
    assert "preset: ≤ 0.0123" in render_card(other)


def test_the_verdict_counts_what_was_waived(content: Any) -> None:
    assert verdict(content.gates) == "All 4 gates passed."
    assert verdict([*content.gates, failed(waiver=WAIVER)]) == "4 of 5 gates passed; 1 was waived."
    assert waived(content.gates) == []
    missing = failed(value=None, bound=None, verdict="block", waiver=WAIVER)
    assert waived([missing])[0].how_far == "it was not measured"
    explained = missing.model_copy(update={"failure": "it requires label maps"})
    assert waived([explained])[0].how_far == "it was not measured: it requires label maps"
    assert gate_rows([explained], [])[0].explanation == "Not measured: it requires label maps."


def test_the_card_sums_up_the_privacy_gates_alone(content: Any) -> None:
    lines = privacy_summary(content.gates, content.metrics)
    assert [line.partition(":")[0] for line in lines] == ["Copies excess", "Membership AUC", "Copy power"]
    assert all(line in render_card(content) for line in lines)
    assert "0.008 (0.001 to 0.015; real scans: 0.011)" in lines[0]


@pytest.mark.parametrize("found", [curve(), curve(lines=1), curve(lines=8), curve(names="$x^{}$ a_b")])
def test_a_curve_is_the_same_bytes_each_time_and_names_its_lines(found: Curve) -> None:
    text = figures.lines(found).decode()
    assert text == figures.lines(found).decode()
    if len(found.lines) > 1:
        assert all(line.name.replace("_", " ") in text for line in found.lines)


def test_a_band_is_plotted_where_there_is_one() -> None:
    plain = curve().model_copy(update={"lines": (Line(name="a", x=(0, 1), y=(0, 1)),)})
    assert "fill-opacity: 0.15" not in figures.lines(plain).decode()
    assert figures.lines(curve()).decode().count("fill-opacity: 0.15") == 2


def test_what_an_audit_says_cannot_become_markup(content: Any) -> None:
    wicked = "<script>alert(1)</script>"
    other = replace(
        content,
        statements=(wicked,),
        tables=(table().model_copy(update={"title": wicked, "rows": ((wicked, 1.0),)}),),
        curves=(curve(wicked, names=wicked),),
        gates=[failed(waiver=WAIVER.model_copy(update={"reason": wicked}))],
    )
    page = render_report(other)
    assert wicked not in page
    assert page.count("<script") == render_report(content).count("<script")
