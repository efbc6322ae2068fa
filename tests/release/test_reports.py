"""What readers see: complete, self-contained, and the same each time."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meddiff_core.diffusion.checkpoint_selection import ScoredCheckpoint, SelectionRecord, describe_selection
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.audit import CAVEATS
from meddiff_core.evidence.guidance_choice import (
    Following,
    GuidanceChoice,
    Interval,
    MeasuredWeight,
    describe_choice,
)
from meddiff_core.evidence.inputs import Round
from meddiff_core.evidence.privacy.rounds import describe_rounds
from meddiff_core.release import figures, slices
from meddiff_core.release.croissant import CONTEXT, describe_release
from meddiff_core.release.internal import InternalContent, Suspect, render_internal, write_internal_report
from meddiff_core.release.interval_glyphs import interval_glyph
from meddiff_core.release.manifest import FileEntry
from meddiff_core.release.report import render_card, render_report, summarise
from meddiff_core.release.templating import flat, humanise, number, percent
from meddiff_core.types import Refusal

SELECTION = SelectionRecord(
    step=200,
    average="0.05",
    curve=tuple(
        ScoredCheckpoint(
            step=step,
            average=average,
            validation_distance=150.0 / step,
            train_distance=100.0 / step,
            nearer_train=0.5 + step / 1000,
            nearer_train_low=0.2 + step / 1000,
        )
        for step in (100, 200)
        for average in ("0.05", "0.15")
    ),
)
GUIDANCE = GuidanceChoice(
    guidance=2.0,
    interval=(0.3, 5.0),
    why="measured",
    best_of=4,
    measured=tuple(
        MeasuredWeight(
            guidance=weight,
            following=tuple(
                Following(
                    condition=name,
                    r=Interval(value=0.7, low=0.6, high=0.8),
                    slope=Interval(value=weight / 2, low=weight / 3, high=weight),
                    intercept=2.0,
                    bias=Interval(value=0.1, low=0.0, high=0.2),
                )
                for name in ("ventricles", "cortex")
            ),
            distance=Interval(value=0.3, low=0.2, high=0.4),
        )
        for weight in (1.0, 2.0, 3.0)
    ),
)
AGES = Histogram(name="age", unit="years", edges=(30, 40, 60), real=(0.2, 0.3, 0.4, 0.1), synthetic=(0.1, 0.4, 0.5, 0))


class Page(HTMLParser):
    """Counts what matters of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.missing_alt = 0
        self.anchors: set[str] = set()
        self.ids: set[str] = set()
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.scripts += tag in ("script", "link", "iframe", "object")
        self.ids |= {values["id"]} if "id" in values else set()
        if tag == "img":
            self.sources.append(values["src"])
            self.missing_alt += not values.get("alt")
        if values.get("href", "").startswith("#"):
            self.anchors.add(values["href"][1:])
        elif "href" in values:
            self.sources.append(values["href"])


@pytest.fixture
def internal(content: Any) -> InternalContent:
    volume, nearest = content.volumes.image(0), content.volumes.image(1)
    return InternalContent(
        title="Heads",
        contract=content.contract,
        real=content.volumes,
        synthetic=content.volumes,
        reconstructions=[(volume, nearest)],
        curves={
            "autoencoder/train": [(0, 1.0), (10, 0.5)],
            "autoencoder/validation": [(0, 1.1)],
            "denoiser": [(0, 2.0)],
        },
        suspects=[Suspect("head-000007", ["suspected_copy"], volume, "case-031", nearest, 0.04)],
        refused=[Refusal("case-099", "spacing must be > 0 mm, got 0.0")],
        minutes={"prepare": 1.25},
        gates=content.gates,
        metrics=content.metrics,
    )


def test_the_report_needs_nothing_from_outside(content: Any) -> None:
    page = Page(render_report(content))
    assert page.scripts == 1  # the page's own
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "default-src 'none'" in render_report(content)


def test_every_picture_is_described_and_every_link_leads_somewhere(content: Any) -> None:
    text = render_report(content)
    page = Page(text)
    assert page.missing_alt == 0
    assert page.anchors <= page.ids
    assert text.count("<svg ") == text.count('role="img"') + text.count('class="mark"')


def test_report_and_card_name_every_gate_with_its_threshold(content: Any) -> None:
    for text in (render_report(content), render_card(content)):
        for gate in content.gates:
            assert humanise(gate.metric)[1:] in text
            assert number(gate.threshold) in text
        assert "research" in text


def test_report_and_card_never_promise_anonymity(content: Any) -> None:
    for text in (render_report(content), render_card(content)):
        assert not re.search(r"anonymi[sz]ed|guarantees (privacy|anonymity)|fully private", text)


def test_the_audits_caveats_stand_on_card_and_report_word_for_word(content: Any) -> None:
    for text in (render_card(content), unescape(render_report(content))):
        assert all(caveat in text for caveat in CAVEATS)


def test_methods_source_and_shortfall_are_printed(content: Any) -> None:
    changed = replace(content, shortfall="12 of 20 volumes were accepted within the budget.")
    for text in (render_report(changed), render_card(changed)):
        for sentence in (changed.shortfall, changed.source, *changed.methods):
            assert sentence.replace("'", "") in text.replace("&#39;", "").replace("'", "")


def test_page_and_card_say_how_many_rounds_there_were_and_why_that_matters(content: Any) -> None:
    rounds = describe_rounds([Round(searched=20, dropped=3), Round(searched=3, dropped=0)])
    changed = replace(content, counts=replace(content.counts, rounds=rounds))
    for text in (render_report(changed), render_card(changed)):
        assert "2 rounds: 3 suspected copies were dropped" in text
        assert "the final cohort is a selected set" in text


def test_a_title_cannot_become_markup(content: Any) -> None:
    text = render_report(replace(content, title="<script>alert(1)</script>"))
    assert "<script>alert" not in text


def test_a_release_without_labels_shows_no_overlay(make_content: Any) -> None:
    text = render_report(make_content(count=2, modality="CT", labelled=False, histograms=()))
    assert "label map over" not in text
    assert 'id="distributions"' not in text
    assert 'id="conditions"' not in text


def test_the_readme_code_runs(content: Any, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(released.parent)
    blocks = re.findall(r"```python\n(.*?)```", (released / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})


def test_croissant_points_at_the_table_it_describes(released: Path) -> None:
    document = json.loads((released / "croissant.json").read_text())
    manifest = json.loads((released / "manifest.json").read_text())
    table = document["distribution"][0]
    assert table["sha256"] == manifest["files"][table["contentUrl"]]["sha256"]
    assert len(document["recordSet"][0]["field"]) == len(json.loads((released / "participants.json").read_text()))
    assert {"cr", "sc", "fileSet", "recordSet"} <= CONTEXT.keys()


def test_croissant_identifies_each_column_without_blanks(content: Any) -> None:
    """A loader refuses the whole document for one; the column keeps its name."""
    table = content.table.rename(columns={"cortex_mm3": "a b", "measured_ventricles": "a_b", "age": "größe"})
    files = {"participants.parquet": FileEntry(bytes=1, sha256="0" * 64)}
    fields = describe_release(content, table, files)["recordSet"][0]["field"]
    ids = [field["@id"] for field in fields]
    assert all(re.fullmatch(r"samples/[\w.-]+", name, re.ASCII) for name in ids)
    assert len(set(ids)) == len(ids)
    assert [field["source"]["extract"]["column"] for field in fields] == list(table.columns)


def test_the_internal_report_says_first_that_it_shows_patients(internal: InternalContent, tmp_path: Path) -> None:
    write_internal_report(tmp_path / "report.html", internal)
    text = (tmp_path / "report.html").read_text()
    body = text[text.index("<body>") :]
    assert body.index("Contains patient data") < body.index("<h1>")
    assert "case-031" in text
    assert "case-099" in text
    assert Page(text).missing_alt == 0
    assert text == render_internal(internal)


def test_the_internal_report_opens_with_the_picture_of_prepared_scans(internal: InternalContent) -> None:
    page = render_internal(replace(internal, prepared=b"picture"))
    assert page.index(slices.data_uri(b"picture", "png")) < page.index('id="gates"')
    assert 'id="prepared"' not in render_internal(internal)


def test_an_internal_report_can_be_written_before_there_is_anything_synthetic(content: Any) -> None:
    text = render_internal(InternalContent(title="Heads", contract=content.contract, real=content.volumes))
    assert "Contains patient data" in text


def test_both_reports_show_how_the_weights_were_chosen(content: Any, internal: InternalContent) -> None:
    shown = 'aria-label="Checkpoint selection of the denoiser by samples"'
    pages = (
        render_report(replace(content, selection=SELECTION)),
        render_internal(replace(internal, selection=SELECTION)),
    )
    for page, plain in zip(pages, (render_report(content), render_internal(internal)), strict=True):
        assert page.count(shown) == 1
        assert shown not in plain
        assert Page(page).missing_alt == 0
    assert describe_selection(SELECTION) in pages[1]


def test_the_internal_report_shows_how_the_guidance_was_chosen_if_it_was_measured(internal: InternalContent) -> None:
    page = render_internal(replace(internal, guidance=GUIDANCE))
    assert page.count('aria-label="Slope and distance by weight of the guidance"') == 1
    assert describe_choice(GUIDANCE) in page
    assert Page(page).missing_alt == 0
    given = GUIDANCE.model_copy(update={"why": "given", "measured": ()})
    assert render_internal(replace(internal, guidance=given)) == render_internal(internal)


def test_the_figure_of_the_guidance_has_a_line_for_each_condition() -> None:
    text = figures.guidance(GUIDANCE).decode()
    assert all(humanise(name) in text for name in ("ventricles", "cortex"))
    assert figures.guidance(GUIDANCE, "png") == figures.guidance(GUIDANCE, "png")


@pytest.mark.parametrize(("low", "high"), [(25.0, 31.0), (2.0, 90.0), (-0.1, 40.0)])
def test_distances_have_numbers_beside_them_whatever_their_scale(low: float, high: float) -> None:
    curve = [
        point.model_copy(update={"validation_distance": far, "train_distance": far})
        for point, far in zip(SELECTION.curve, np.linspace(high, low, len(SELECTION.curve)).tolist(), strict=True)
    ]
    text = figures.checkpoint_selection(SELECTION.model_copy(update={"curve": tuple(curve)})).decode()
    written = re.findall(r"<text [^>]*>([\d.]+)</text>", text)  # shares, up to 1, and steps, from 100, are there too
    assert any(max(low, 1.5) <= float(value) <= high for value in written)


def test_the_figure_of_a_choice_can_be_a_png() -> None:
    assert figures.checkpoint_selection(SELECTION, "png").startswith(b"\x89PNG")
    assert figures.checkpoint_selection(SELECTION, "png") == figures.checkpoint_selection(SELECTION, "png")


def test_an_unmeasured_gate_is_shown_as_not_passed(internal: InternalContent) -> None:
    gate = internal.gates[0].model_copy(update={"value": None, "bound": None, "passed": False, "verdict": "block"})
    text = render_internal(replace(internal, gates=[gate], metrics=[]))
    assert "not passed" in text
    assert "Not measured." in text


@pytest.mark.parametrize("plot", [
    lambda: figures.histogram(AGES),
    lambda: figures.scatter([1, 2, np.nan], [1.1, 1.9, 3], "volume"),
    lambda: figures.scatter([np.nan], [np.nan], "volume"),
    lambda: figures.checkpoint_selection(SELECTION),
    lambda: figures.checkpoint_selection(SELECTION.model_copy(update={"curve": SELECTION.curve[-2:]})),  # linear scale
    lambda: figures.curve({"a": [(0, 1), (1, 0.5)], "b": []}, "loss"),
    lambda: figures.mosaic([np.eye(8)[:, :, None].repeat(8, 2).astype(np.float32)] * 3),
])  # fmt: skip
def test_a_figure_is_the_same_bytes_each_time(plot: Any) -> None:
    assert plot() == plot()


def test_an_svg_carries_no_date_and_no_fixed_size() -> None:
    text = figures.histogram(AGES.model_copy(update={"name": 'the "age"'})).decode()
    assert text.startswith("<svg role=")
    assert "metadata" not in text
    assert not re.search(r"<svg [^>]*\bwidth=", text)
    assert "&quot;age&quot;" in text


def test_the_outermost_bins_of_a_histogram_are_plotted_as_open() -> None:
    text = figures.histogram(AGES).decode()
    assert re.findall(r"<text [^>]*>([^<]+)</text>", text) == ["&lt; 30", "40", "≥ 60", "age (years)"]


def test_a_single_inner_edge_is_enough_for_a_histogram() -> None:
    halves = Histogram(name="age", unit="years", edges=(50,), real=(0.5, 0.5), synthetic=(0.4, 0.6))
    assert "≥ 50" in figures.histogram(halves).decode()


def test_a_histogram_of_one_bin_is_not_shown(make_content: Any) -> None:
    single = Histogram(name="age", unit="years", edges=(), real=(1.0,), synthetic=(1.0,))
    assert "Histogram of" not in render_report(make_content(count=1, histograms=(single,)))


def test_volumes_are_given_in_ml(content: Any) -> None:
    assert "volume of ventricles (ml)" in render_report(content)


def test_right_is_shown_on_the_left_and_the_front_and_the_top_up() -> None:
    volume = np.zeros((9, 9, 9), np.float32)
    volume[8, 8, 4] = volume[8, 4, 8] = volume[4, 8, 8] = 1  # right front; right top; front top
    axial, coronal, sagittal = slices.middle_slices(volume)
    assert axial[0, 0] == coronal[0, 0] == sagittal[0, 0] == 1


def test_an_overlay_colours_labelled_voxels_only() -> None:
    plane, label = np.full((8, 8), 0.5, np.float32), np.zeros((8, 8), np.uint8)
    label[:, :4] = 2
    picture = slices.paint_slice(plane, (0, 1), label, 64)
    assert (picture[:, 40:].std(axis=-1) == 0).all()
    assert (picture[:, :24].std(axis=-1) > 0).all()


def test_thick_slices_are_plotted_as_thick_as_they_are() -> None:
    volume = np.ones((24, 24, 4), np.float32)
    planes = slices.paint_planes(volume, (0, 1), tile=48, spacing_mm=(1.0, 1.0, 6.0))
    axial, coronal, sagittal = (planes[:, start : start + 48] for start in (0, 51, 102))
    assert all((part > 0).all() for part in (axial, coronal, sagittal))
    squashed = slices.paint_planes(volume, (0, 1), tile=48)[:, 51:99]
    assert (squashed > 0).any(axis=(1, 2)).sum() == 8


def test_a_summary_names_the_spacing_along_each_axis(content: Any) -> None:
    assert "16 × 20 × 18 voxels of 4 mm, with" in summarise(content)
    thick = content.contract.model_copy(update={"spacing_mm": (0.43, 0.43, 6.5)})
    assert "voxels of 0.43 × 0.43 × 6.5 mm" in summarise(replace(content, contract=thick))


def test_a_figure_can_be_a_png_for_other_viewers() -> None:
    data = figures.real_beside_synthetic([np.zeros((8, 8, 8), np.float32)], [np.ones((8, 8, 8), np.float32)], "png")
    assert data.startswith(b"\x89PNG")
    import io

    assert Image.open(io.BytesIO(data)).size[0] > 8


def test_a_mark_keeps_the_order_of_its_numbers() -> None:
    mark = interval_glyph(0.3, 0.2, 0.4, limit=0.9)
    value = float(re.search(r'<circle cx="([\d.]+)"', mark)[1])  # type: ignore[index]
    limit = float(re.findall(r'<line x1="([\d.]+)"', mark)[-1])
    assert value < limit
    assert interval_glyph(None, None, None) == ""
    assert "nan" not in interval_glyph(1.0, 1.0, 1.0, limit=1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0500, "0.05"),
        (12345.6, "12\u202f346"),
        (-0.25, "−0.25"),
        (0.0, "0"),
        (7, "7"),
        (None, "–"),
        (np.nan, "–"),
        (0.00012, "1.20e−04"),
        (99.96, "100"),
    ],
)
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("white_matter", "white matter"),
        ("membership_auc:denoiser", "membership AUC: denoiser"),
        ("ms_ssim_gap", "MS-SSIM gap"),
        ("core_mm3", "core mm³"),
        ("auctioned", "auctioned"),
    ],
)
def test_names_read_as_words(name: str, text: str) -> None:
    assert humanise(name) == text


def test_a_small_share_is_not_nothing() -> None:
    assert [percent(share) for share in (0, 0.004, 0.5)] == ["0%", "<1%", "50%"]


def test_nested_settings_become_rows() -> None:
    rows = flat({"a": {"b": 1, "c": None}, "d": [{"metric": "x", "max": 0.1}], "e": {}})
    assert rows == [("a.b", "1"), ("a.c", "–"), ("d", "metric x max 0.1"), ("e", "–")]
