"""Every figure of both reports, as pure functions from numpy to the bytes of an SVG or a picture.

The same numbers give the same bytes: no dates, no random ids, no global plotting state. Text in an SVG
stays text, so that a page sets it in its own typeface and a screen reader finds it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from meddiff_core.contract import Spacing
from meddiff_core.diffusion.checkpoint_selection import NO_LIMIT, ScoredCheckpoint, SelectionRecord
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.guidance_choice import GuidanceChoice
from meddiff_core.evidence.section import Curve
from meddiff_core.evidence.tuning import Tuning, Walk
from meddiff_core.release.slices import (
    ALIKE,
    TILE,
    Picture,
    arrange,
    encode,
    paint_axial,
    paint_planes,
    window_of,
)
from meddiff_core.release.templating import humanise, number
from meddiff_core.types import FloatArray, LabelArray

INK = "#1c2733"
QUIET = "#66727f"
LINE = "#d5dbe1"
REAL = "#9aa5b1"
SYNTHETIC = "#0b6e75"
SERIES = (SYNTHETIC, "#c2703d", "#5b6fae", "#8a5a9e", "#6b7d2f", "#b0475c")
FEW_POINTS = 20
"""Points up to which each is marked on its line."""
NUMBERS = FuncFormatter(lambda value, _: number(float(value)))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "meddiff",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "grid.color": "#e9edf0",
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.image_inline": True,
    "path.simplify": True,
}


def mosaic(
    volumes: Sequence[FloatArray],
    labels: Sequence[LabelArray] | None = None,
    columns: int = 10,
    tile: int = 112,
    kind: str = "webp",
    spacing_mm: Spacing = ALIKE,
) -> bytes:
    """The axial middle slice of each volume, all in one window; with label maps over them where given."""
    window = window_of(volumes)
    covers = [None] * len(volumes) if labels is None else labels
    tiles = [
        paint_axial(volume, window, cover, tile, spacing_mm) for volume, cover in zip(volumes, covers, strict=True)
    ]
    return encode(arrange(tiles, min(columns, len(tiles))), kind)


def planes(
    volume: FloatArray,
    window: tuple[float, float],
    label: LabelArray | None = None,
    kind: str = "webp",
    spacing_mm: Spacing = ALIKE,
) -> bytes:
    """Axial, coronal and sagittal middle slices of one volume."""
    return encode(paint_planes(volume, window, label, spacing_mm=spacing_mm), kind)


def real_beside_synthetic(
    real: Sequence[FloatArray], synthetic: Sequence[FloatArray], kind: str = "webp", spacing_mm: Spacing = ALIKE
) -> bytes:
    """Rows of three planes: a real volume on the left, a synthetic one on the right."""
    window = window_of([*real, *synthetic])
    tiles: list[Picture] = [
        paint_planes(volume, window, tile=TILE * 3 // 4, spacing_mm=spacing_mm)
        for pair in zip(real, synthetic, strict=False)
        for volume in pair
    ]
    return encode(arrange(tiles, 2), kind)


def real_beside_reconstruction(
    real: Sequence[FloatArray], reconstructed: Sequence[FloatArray], kind: str = "webp", spacing_mm: Spacing = ALIKE
) -> bytes:
    """Rows of three planes: a real volume, what the autoencoder makes of it, and four times their difference."""
    window = window_of(real)
    span = window[1] - window[0]
    errors = [np.abs(left - right) for left, right in zip(real, reconstructed, strict=True)]
    tiles = [
        paint_planes(volume, limits, tile=TILE // 2, spacing_mm=spacing_mm)
        for row in zip(real, reconstructed, errors, strict=True)
        for volume, limits in zip(row, (window, window, (0, span / 4)), strict=True)
    ]
    return encode(arrange(tiles, 3), kind)


def histogram(found: Histogram) -> bytes:
    """Real as a filled ground, synthetic as a line over it. Shares are divided by the width of their bin.

    The outermost bins have no end: each is shown as wide as the one beside it, and labelled as open.
    """
    borders = _closed(found.edges)
    figure, axes = _figure(3.5, 2.3)
    heights = [np.asarray(shares) / np.diff(borders) for shares in (found.real, found.synthetic)]
    axes.stairs(heights[0], borders, fill=True, color=REAL, alpha=0.45, label="real")
    axes.stairs(heights[1], borders, color=SYNTHETIC, linewidth=1.8, label="synthetic")
    axes.set_xticks(*_open_ticks(borders))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0, max(float(h.max()) for h in heights) * 1.08 or 1)
    axes.set_xlabel(_literal(f"{found.name} ({found.unit})" if found.unit else found.name))
    return _svg(figure, f"Histogram of {humanise(found.name)}: shares of real subjects and synthetic volumes")


def _closed(edges: Sequence[float]) -> NDArray[np.float64]:
    """Inner edges with two more, where the open bins are cut off in the figure."""
    widths = np.diff(edges) if len(edges) > 1 else np.ones(1)
    return np.array([edges[0] - widths[0], *edges, edges[-1] + widths[-1]])


def _open_ticks(borders: NDArray[np.float64]) -> tuple[list[float], list[str]]:
    """Places and words: both open bins at their middle, and up to three borders between them."""
    inner, quarters = borders[2:-2], np.linspace(borders[0], borders[-1], 5)[1:-1]
    nearest = np.abs(inner[:, None] - quarters).argmin(0) if len(inner) else []
    shown = [float(inner[position]) for position in sorted(set(nearest))]
    places = [float(borders[:2].mean()), *shown, float(borders[-2:].mean())]
    return places, [f"< {number(float(borders[1]))}", *map(number, shown), f"≥ {number(float(borders[-2]))}"]


def scatter(requested: ArrayLike, measured: ArrayLike, name: str, unit: str = "") -> bytes:
    """Requested against measured values of synthetic volumes, with the line where both agree."""
    x, y = np.asarray(requested, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    figure, axes = _figure(3.5, 3.2)
    if both.any():
        low, high = min(x[both].min(), y[both].min()), max(x[both].max(), y[both].max())
        pad = (high - low) * 0.05 or 1.0
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=REAL, linewidth=1, dashes=(4, 3))
        axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad))
    axes.scatter(x[both], y[both], s=14, color=SYNTHETIC, alpha=0.6, linewidths=0)
    suffix = f" ({unit})" if unit else ""
    axes.set_xlabel(_no_formula(f"{name} requested{suffix}"))
    axes.set_ylabel(f"measured{suffix}")
    axes.grid(True)
    return _svg(figure, f"{name}: requested against measured value of {int(both.sum())} synthetic volumes")


def curve(series: Mapping[str, Sequence[tuple[float | int, float | int]]], name: str) -> bytes:
    """Figures of a training by step, one line each."""
    figure, axes = _figure(3.5, 2.3 + 0.12 * len(series))
    for (label, points), colour in zip(series.items(), SERIES * len(series), strict=False):
        steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
        axes.plot(steps, values, color=colour, linewidth=1.6, label=_no_formula(label))
    axes.set_xlabel("step")
    axes.grid(True, axis="y")
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _svg(figure, f"Training curve: {name}")


def lines(found: Curve) -> bytes:
    """The lines of one part of the audit, each with its confidence band where it has one."""
    figure, axes = _figure(3.5, 2.5 + 0.16 * ((len(found.lines) + 1) // 2))
    for position, line in enumerate(found.lines):
        colour, style = SERIES[position % len(SERIES)], "--" if position >= len(SERIES) else "-"
        marker = "." if len(line.x) <= FEW_POINTS else ""
        axes.plot(line.x, line.y, style, marker=marker, color=colour, linewidth=1.6, label=_literal(line.name))
        if line.low and line.high:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=_literal(found.x), ylabel=_literal(found.y))
    axes.grid(True, axis="y")
    if len(found.lines) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=QUIET)
    return _svg(figure, f"{humanise(found.title)}: {found.y} by {found.x}")


def _literal(name: str) -> str:
    """A name as words, of which nothing is taken for a formula."""
    return _no_formula(humanise(name))


def _no_formula(text: str) -> str:
    return text.replace("$", r"\$")


def checkpoint_selection(record: SelectionRecord, kind: str = "svg") -> bytes:
    """Checkpoint selection of the denoiser: distances, memorisation by samples and by weights, the kept step across.

    The kept average is shown strongly, others faintly. Samples of early weights may be farther by powers of ten;
    then distances are logarithmic beyond 1.
    """
    figure, (distances, memorisation, membership) = _figures(3.5, 5.2, 3)
    if _span_decades([far for point in record.curve for far in (point.validation_distance, point.train_distance)]):
        distances.set_yscale("symlog", linthresh=1.0)
        distances.yaxis.set_major_formatter(NUMBERS)
    for average in dict.fromkeys(point.average for point in record.curve):
        points = [point for point in record.curve if point.average == average]
        _plot_scores(distances, points, average == record.average)
        attraction = [(point.nearer_train, point.nearer_train_low, point.nearer_train) for point in points]
        betrayal = [(point.membership.auc, point.membership.low, point.membership.high) for point in points]
        for axes, values in ((memorisation, attraction), (membership, betrayal)):
            _plot_memory(axes, points, values, average == record.average)
    for axes in (memorisation, membership):
        axes.axhline(0.5, color=REAL, linewidth=1, dashes=(4, 3))
    if (limit := record.curve[-1].membership.limit) < NO_LIMIT:
        membership.axhline(limit, color=INK, linewidth=0.7, dashes=(2, 2))
    late = record.step > (record.curve[0].step + record.curve[-1].step) / 2
    place: Any = {"xytext": (-3 if late else 3, 3), "textcoords": "offset points", "ha": "right" if late else "left"}
    membership.annotate("kept", (record.step, 0), fontsize=8, color=QUIET, **place)
    memorisation.set(ylim=(0, 1.04), ylabel="nearer to train")
    membership.set(ylim=(0, 1.04), xlabel="step", ylabel="membership AUC")
    distances.set_ylabel("kernel distance")
    distances.legend(frameon=False, fontsize=8)
    for axes in (distances, memorisation, membership):
        axes.axvline(record.step, color=INK, linewidth=0.8)
        axes.grid(True, axis="y")
    return (
        _svg(figure, "Checkpoint selection of the denoiser by samples") if kind == "svg" else as_picture(figure, kind)
    )


def tuning(measured: Tuning, kind: str = "svg") -> bytes:
    """Distance and error of the solvers by evaluations: whole lines for fitted levels, dashes for Karras's.

    The band is the noise of the reference's distance; the circle is the chosen walk.
    """
    figure, (distances, errors) = _figures(4.6, 4.6, 2)
    distances.axhspan(measured.reference.low, measured.reference.high, color=REAL, alpha=0.25, linewidth=0)
    distances.axhline(measured.train.value, color=REAL, linewidth=1, dashes=(4, 3), label="train")
    for colour, solver in zip(SERIES, dict.fromkeys(walk.solver for walk in measured.walks), strict=False):
        walks = [walk for walk in measured.walks if walk.solver == solver]
        _plot_solver(distances, errors, walks, colour)
    chosen = measured.chosen
    for axes, value in ((distances, chosen.distance.value), (errors, chosen.error)):
        axes.plot(chosen.evaluations, value, "o", markersize=9, fillstyle="none", color=INK)
        axes.grid(True, axis="y")
    distances.set_yscale("symlog", linthresh=max(measured.reference.high, 1e-9))
    errors.set_yscale("log")
    errors.xaxis.set_major_locator(MaxNLocator(integer=True))
    distances.set_ylabel("kernel distance")
    errors.set(xlabel="evaluations", ylabel="error")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return _svg(figure, "Solvers by network evaluations") if kind == "svg" else as_picture(figure, kind)


def guidance(choice: GuidanceChoice, kind: str = "svg") -> bytes:
    """Slopes of measured on requested volumes, and distance to validation scans, by weight; the circle is the choice.

    Squares are what the calibration came to, if one was tried. The line of a slope is 1; the band is the noise of the
    distance without guidance.
    """
    figure, (slopes, distances) = _figures(4.6, 4.2, 2)
    weights, first = [one.guidance for one in choice.weights], choice.measured[0]
    slopes.axhline(1, color=REAL, linewidth=1, dashes=(4, 3))
    for row, colour in zip(range(len(first.following)), cycle(SERIES)):
        values = [one.following[row].slope.value for one in choice.weights]
        slopes.plot(weights, values, ".-", color=colour, linewidth=1.4, label=humanise(first.following[row].condition))
        if choice.tried:
            slopes.plot(choice.tried.guidance, choice.tried.following[row].slope.value, "s", color=colour, markersize=5)
    distances.axhspan(first.distance.low, first.distance.high, color=REAL, alpha=0.25, linewidth=0)
    distances.plot(weights, [one.distance.value for one in choice.weights], ".-", color=SYNTHETIC, linewidth=1.4)
    if choice.tried:
        distances.plot(choice.tried.guidance, choice.tried.distance.value, "s", color=SYNTHETIC, markersize=5)
    chosen = next(one for one in choice.weights if one.guidance == choice.guidance)
    distances.plot(chosen.guidance, chosen.distance.value, "o", markersize=9, fillstyle="none", color=INK)
    for axes in (slopes, distances):
        axes.grid(True, axis="y")
    slopes.set_ylabel("slope")
    distances.set(xlabel="weight of the guidance", ylabel="kernel distance")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return _svg(figure, "Slope and distance by weight of the guidance") if kind == "svg" else as_picture(figure, kind)


def _plot_solver(distances: Axes, errors: Axes, walks: Sequence[Walk], colour: str) -> None:
    for schedule, style in (("fitted", ".-"), ("karras", ".--")):
        own = [walk for walk in walks if walk.schedule == schedule]
        counts, label = [walk.evaluations for walk in own], walks[0].solver if schedule == "fitted" else None
        distances.plot(counts, [walk.distance.value for walk in own], style, color=colour, linewidth=1.2, label=label)
        errors.plot(counts, [walk.error for walk in own], style, color=colour, linewidth=1.2)


def _span_decades(distances: Sequence[float]) -> bool:
    """Whether a power of ten lies among them, beyond 1: a logarithmic scale has its numbers there alone."""
    sizes = [max(1.0, abs(distance)) for distance in distances]
    return max(sizes) > 10 * min(sizes)


def _plot_scores(distances: Axes, points: Sequence[ScoredCheckpoint], kept: bool) -> None:
    """The distances of one average."""
    steps = [point.step for point in points]
    for side, colour in (("validation", SYNTHETIC), ("train", SERIES[1])):
        values = [getattr(point, f"{side}_distance") for point in points]
        label = f"to {side}" if kept else None
        distances.plot(steps, values, ".-", color=colour, linewidth=1.4, alpha=1 if kept else 0.3, label=label)


def _plot_memory(
    axes: Axes, points: Sequence[ScoredCheckpoint], values: Sequence[tuple[float, float, float]], kept: bool
) -> None:
    """Value, lower and upper bound of one average."""
    steps, (value, low, high) = [point.step for point in points], zip(*values, strict=True)
    axes.plot(steps, value, ".-", color=SERIES[2], linewidth=1.4, alpha=1 if kept else 0.3)
    for bound in (low, high):
        axes.plot(steps, bound, color=SERIES[2], linewidth=0.7, alpha=1 if kept else 0.3)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = _figures(width, height, 1)
    return figure, axes


def _figures(width: float, height: float, rows: int) -> tuple[Figure, list[Axes]]:
    """Empty axes below each other, over one another's steps."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        column: list[Axes] = list(figure.subplots(rows, sharex=True, squeeze=False)[:, 0])
    for axes in column:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(NUMBERS)
        axes.yaxis.set_major_formatter(NUMBERS)
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
    return figure, column


def as_picture(figure: Figure, kind: str = "png") -> bytes:
    """The figure as pixels on white, for viewers that show no SVG."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure, description: str) -> bytes:
    """The figure as an SVG that scales with the page and says what it shows."""
    buffer = io.BytesIO()
    salt = f"meddiff {description}"  # ids of two figures on one page must differ
    with mpl.rc_context(STYLE | {"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg [^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_escape(description)}" ', 1).encode()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
