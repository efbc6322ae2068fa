"""Scans as they came beside what the networks will see: the picture that shows what no figure does.

A face that a mask left in, an organ at the edge of the grid, tissue that turned black or a head that lies on its
side is seen at once. Scans of the holdout are not looked at.
"""

import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.data.conform import Conformed, Loaded, conform_scan, group_labels, load_case
from meddiff_core.data.fingerprint import CaseFingerprint, Fingerprint, all_refused
from meddiff_core.data.foreground import padding_of
from meddiff_core.data.losses import Loss, loss_of, worst_first
from meddiff_core.errors import CaseRefused, DataRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, LabelArray, Mapper, Progress, Refusal

MOST_LOOKED_AT = 24
MOST_SHOWN = 12
WORST_SHOWN = 4
"""Scans among those shown that lost most."""
MOST_OUTLINED = 14
"""Label groups that have a colour each; more share one outline."""
PLANES = ((0, 1), (0, 2), (1, 2))
"""Axes of an axial, a coronal and a sagittal slice, across and up."""
GROUND, INK, QUIET, FRAME = "#0f1419", "#e3e8ed", "#8d99a6", "#4fb3bf"
OUTLINES = (
    "#f2c14e", "#ef6f6c", "#7bd389", "#b58df1", "#5db7f5", "#f49ac1", "#c5d86d", "#ff9f5a",
    "#6fe0d2", "#d7a86e", "#a3b1ff", "#e8e34a", "#ff85e0", "#9be36a",
)  # fmt: skip
COARSE = 150
"""Pixels up to which a slice is shown voxel by voxel."""
TILE_INCHES, HEAD_INCHES, NAME_INCHES, GAP_INCHES = 1.12, 0.46, 0.26, 0.3


@dataclass(frozen=True)
class View:
    """Three slices of one volume."""

    slices: tuple[NDArray[np.uint8], ...]
    labels: tuple[LabelArray, ...]
    """Stored values on the same slices; none where there are no label maps."""
    spacing_mm: tuple[float, float, float]
    frame: NDArray[np.float64] | None = None
    """(2, 3), corners of the study's grid in voxels of this volume, where it has another."""


@dataclass(frozen=True)
class Pair:
    """A scan before and after, and what it lost."""

    case: str
    before: View
    after: View
    loss: Loss


@dataclass(frozen=True)
class Look:
    """Losses and figure of some scans."""

    losses: tuple[Loss, ...]
    """The worst first."""
    picture: bytes
    """PNG."""


def look_at_conforming(
    cases: Sequence[CaseRef],
    fingerprint: Fingerprint,
    contract: Contract,
    config: DataConfig,
    mapper: Mapper,
    seed: int = 0,
) -> Generator[Progress, None, Look]:
    """Conform up to two dozen of the given cases, which must not be of the holdout, and plot a dozen.

    Raises:
        DataRefused: none of them can be conformed.
    """
    jobs = choose_cases(cases, fingerprint, seed)
    pairs: dict[int, Pair] = {}
    refused: list[Refusal] = []
    for position, result in mapper(partial(_pair_of, contract=contract, config=config), jobs):
        if isinstance(result, Pair):
            pairs[position] = result
        else:
            refused.append(result)
        yield Progress("look at scans", len(pairs) + len(refused), len(jobs))
    if not pairs:
        raise DataRefused(f"none of {len(jobs)} scans looked at can be conformed; {all_refused(refused)}")
    losses = worst_first([pair.loss for pair in pairs.values()])
    by_case = {pair.case: pair for pair in pairs.values()}
    return Look(tuple(losses), plot_prepared(_shown([by_case[loss.case] for loss in losses])))


def _shown(found: Sequence[Pair]) -> list[Pair]:
    """The worst, and others from all the rest."""
    worst, others = list(found[:WORST_SHOWN]), found[WORST_SHOWN:]
    places = np.unique(np.linspace(0, len(others) - 1, MOST_SHOWN - WORST_SHOWN).round().astype(int))
    return worst + [others[place] for place in places if others]


def choose_cases(
    cases: Sequence[CaseRef], fingerprint: Fingerprint, seed: int
) -> list[tuple[CaseRef, CaseFingerprint]]:
    """Up to two dozen: the largest and the smallest, others by chance."""
    known = {found.case: found for found in fingerprint.cases}
    jobs = [(case, known[case.case]) for case in cases if case.case in known]
    jobs.sort(key=lambda job: digest_of([seed, job[0].case]))
    by_size = sorted(jobs, key=lambda job: float(np.prod(job[1].extent_mm)))
    chosen = {job[0].case: job for job in [*by_size[:2], *by_size[-2:], *jobs]}
    return list(chosen.values())[:MOST_LOOKED_AT]


def _pair_of(job: tuple[CaseRef, CaseFingerprint], contract: Contract, config: DataConfig) -> Pair | Refusal:
    case, found = job
    try:
        scan = load_case(case, found, config)
        conformed = conform_scan(scan, found, contract)
    except CaseRefused as refused:
        return Refusal(refused.case, refused.reason)
    after = view_of(contract.intensity.unit(conformed.image), conformed.label, (0, 1), contract.size, conformed.affine)
    return Pair(case.case, _before(scan, conformed, found, contract), after, loss_of(scan, conformed, found, contract))


def _before(scan: Loaded, conformed: Conformed, found: CaseFingerprint, contract: Contract) -> View:
    """The scan on its own grid, through the middle of what will be kept."""
    array = scan.volume.array
    shown = array[~padding_of(array)]  # padding at -3024 would leave no contrast for the rest
    low, high = np.percentile(shown if shown.size else array, (0.5, 99.5))
    label = None if scan.label is None or not contract.labels else group_labels(scan.label, contract)
    step = np.linalg.solve(scan.volume.affine, conformed.affine)
    corners = np.array([[-0.5] * 3, np.array(contract.size) - 0.5]) @ step[:3, :3].T + step[:3, 3]
    doubled = tuple(start + stop for start, stop in found.box)
    return view_of(array, label, (float(low), float(high)), doubled, scan.volume.affine, corners)


def view_of(
    array: NDArray[Any],
    label: LabelArray | None,
    window: tuple[float, float],
    doubled: tuple[int, ...],
    affine: NDArray[np.float64],
    frame: NDArray[np.float64] | None = None,
) -> View:
    """Slices of an array, dark to bright as `window` says, where twice the voxel's index is `doubled`."""
    low, high = window
    grey = [np.clip((plane - low) / max(high - low, 1e-9), 0, 1) * 255 for plane in _planes(array, doubled)]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return View(
        slices=tuple(np.rint(plane).astype(np.uint8) for plane in grey),
        labels=() if label is None else tuple(_planes(label, doubled)),
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        frame=frame,
    )


def _planes(array: NDArray[Any], doubled: tuple[int, ...]) -> list[NDArray[Any]]:
    i, j, k = (min(twice // 2, length - 1) for twice, length in zip(doubled, array.shape, strict=True))
    return [array[:, :, k], array[:, j, :], array[i, :, :]]


def plot_prepared(pairs: Sequence[Pair]) -> bytes:
    """A PNG: each scan's three planes as they came, with the study's grid framed, beside what the networks see."""
    columns = 1 if len(pairs) <= 2 else 2
    rows = -(-len(pairs) // columns)
    block = 6 * TILE_INCHES + 2 * GAP_INCHES
    width = columns * block + GAP_INCHES
    height = HEAD_INCHES + rows * (TILE_INCHES + NAME_INCHES) + GAP_INCHES / 2
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    for column in range(columns):
        _plot_heads(figure, GAP_INCHES + column * block, width, height)
    for number, pair in enumerate(pairs):
        left = GAP_INCHES + number % columns * block
        top = height - HEAD_INCHES - number // columns * (TILE_INCHES + NAME_INCHES)
        _plot_pair(figure, pair, left, top, width, height)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _plot_heads(figure: Figure, left: float, width: float, height: float) -> None:
    second = left + 3 * TILE_INCHES + GAP_INCHES
    for place, text in ((left, "As it came, the grid framed"), (second, "What the networks see")):
        figure.text(place / width, 1 - 0.3 / height, text, color=INK, fontsize=10, fontweight="bold")


def _plot_pair(figure: Figure, pair: Pair, left: float, top: float, width: float, height: float) -> None:
    second = left + 3 * TILE_INCHES + GAP_INCHES
    words: Any = {"color": QUIET, "fontsize": 6.5, "parse_math": False}
    figure.text(left / width, (top - 0.2) / height, f"{_shortened(pair.case)}   {_grid(pair.before)}", **words)
    figure.text(second / width, (top - 0.2) / height, f"{_grid(pair.after)}   {_told(pair.loss)}", **words)
    for start, view in ((left, pair.before), (second, pair.after)):
        for number in range(3):
            place = (start + number * TILE_INCHES, top - NAME_INCHES - TILE_INCHES)
            side = TILE_INCHES - 0.04
            axes = figure.add_axes((place[0] / width, place[1] / height, side / width, side / height))
            plot_slice(axes, view, number)


def _grid(view: View) -> str:
    (i, j), k = view.slices[0].shape, view.slices[1].shape[1]
    spacing = sorted({f"{value:.3g}" for value in view.spacing_mm}, key=float)
    return (
        f"{i} × {j} × {k} at {spacing[0] if len(spacing) == 1 else ' × '.join(f'{v:.3g}' for v in view.spacing_mm)} mm"
    )


def _shortened(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 + 1 :]}"


def _told(loss: Loss) -> str:
    outside = 1 - (1 - loss.outside_mask) * (1 - loss.outside_grid)
    return f"{loss.difference:.1%} different, {loss.below + loss.above:.1%} clipped, {outside:.0%} left out"


def plot_slice(axes: Axes, view: View, number: int) -> None:
    """As radiologists expect it: the patient's right and front on the left, front or head up."""
    across, up = PLANES[number]
    picture = view.slices[number][::-1].T
    size = (picture.shape[1] * view.spacing_mm[across], picture.shape[0] * view.spacing_mm[up])
    place = (0.0, size[0], 0.0, size[1])
    axes.set_facecolor("black")
    how = "nearest" if max(picture.shape) < COARSE else "antialiased"
    axes.imshow(picture, "gray", vmin=0, vmax=255, origin="lower", extent=place, aspect="equal", interpolation=how)
    if view.labels:
        _plot_outlines(axes, view.labels[number][::-1].T, place)
    axes.set(xlim=place[:2], ylim=place[2:])
    if view.frame is not None:
        _plot_frame(axes, view, across, up, size[0])
    axes.set_axis_off()


def _plot_frame(axes: Axes, view: View, across: int, up: int, width: float) -> None:
    """The study's grid over a slice, all of it in sight."""
    assert view.frame is not None
    sides = np.array([view.spacing_mm[across], view.spacing_mm[up]])
    low, high = (np.sort(view.frame, axis=0)[:, [across, up]] + 0.5) * sides
    left, right = width - high[0], width - low[0]
    axes.add_patch(Rectangle((left, low[1]), *(high - low), fill=False, edgecolor=FRAME, linewidth=0.6))
    (x0, x1), (y0, y1), slack = axes.get_xlim(), axes.get_ylim(), 0.02 * float((high - low).max())
    axes.set(
        xlim=(min(x0, left - slack), max(x1, right + slack)), ylim=(min(y0, low[1] - slack), max(y1, high[1] + slack))
    )


def _plot_outlines(axes: Axes, label: LabelArray, place: tuple[float, float, float, float]) -> None:
    values = [int(value) for value in np.unique(label) if value]
    parts = [label == value for value in values] if len(values) <= MOST_OUTLINED else [label > 0]
    for value, part in zip(values, parts, strict=False):
        padded = np.pad(part.astype(np.float32), 1)
        rows, columns = part.shape
        x = (np.arange(-1, columns + 1) + 0.5) * place[1] / columns
        y = (np.arange(-1, rows + 1) + 0.5) * place[3] / rows
        axes.contour(x, y, padded, levels=[0.5], colors=[OUTLINES[(value - 1) % len(OUTLINES)]], linewidths=0.6)
