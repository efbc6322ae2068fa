"""A picture of a scan and what became of it, in three planes: what no figure says is seen here first.

Everything is shown on the scan's own grid, so that a result which lies aside, or is of another side, is seen.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.files.placement import OwnGrid
from meddiff_core.applications.outcome import GridMap
from meddiff_core.data.foreground import body_of, box_of
from meddiff_core.data.prepared import GROUND, INK, QUIET, View, plot_slice, view_of
from meddiff_core.types import LabelArray

MOST_ROWS = 5
SIGNED = ("difference", "score")
"""Kinds of maps that show where to look."""
TILE_INCHES, NAME_INCHES, EDGE_INCHES = 2.2, 0.24, 0.12
PNG = {"Software": None}


def plot_result(title: str, own: OwnGrid, maps: Mapping[str, GridMap], placed: Mapping[str, NDArray[Any]]) -> bytes:
    """A PNG: the scan, and each map on its grid, through where most has changed."""
    labels = next((placed[name] for name, one in maps.items() if one.kind == "labels"), None)
    shown = [name for name, one in maps.items() if one.kind != "labels"][: MOST_ROWS - 1]
    place = _place(own, maps, placed)
    scan = own.volume.array
    window = (own.low, own.high)
    image = next((name for name in shown if maps[name].kind == "intensity"), None)
    rows = [
        (
            "the scan" if labels is None or image else "the scan, with the labels",
            scan,
            window,
            None if image else labels,
        )
    ]
    for name in shown:
        ends = window if maps[name].kind == "intensity" else _range(placed[name], maps[name].kind in SIGNED)
        told = f"{name}, with its labels" if name == image and labels is not None else name
        rows.append((told, placed[name], ends, labels if name == image else None))
    width, height = 3 * TILE_INCHES + 2 * EDGE_INCHES, len(rows) * (TILE_INCHES + NAME_INCHES) + 0.42
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    figure.text(EDGE_INCHES / width, 1 - 0.24 / height, title, color=INK, fontsize=10, parse_math=False)
    for number, (name, array, ends, outlines) in enumerate(rows):
        top = height - 0.36 - number * (TILE_INCHES + NAME_INCHES)
        _plot_row(figure, _caption(name, ends), _view(array, outlines, ends, place, own), top)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata=PNG)
    return buffer.getvalue()


def _caption(name: str, ends: tuple[float, float]) -> str:
    return f"{name}   black {ends[0]:.4g}, white {ends[1]:.4g}"


def _view(
    array: NDArray[Any], labels: LabelArray | None, ends: tuple[float, float], place: tuple[int, ...], own: OwnGrid
) -> View:
    return view_of(array, labels, ends, tuple(2 * index for index in place), own.volume.affine)


def _plot_row(figure: Figure, name: str, view: View, top: float) -> None:
    width, height = figure.get_size_inches()
    figure.text(EDGE_INCHES / width, (top - 0.14) / height, name, color=QUIET, fontsize=7, parse_math=False)
    for plane in range(3):
        left, bottom = EDGE_INCHES + plane * TILE_INCHES, top - NAME_INCHES - TILE_INCHES + 0.04
        side = TILE_INCHES - 0.04
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        plot_slice(axes, view, plane)


def _range(array: NDArray[Any], signed: bool) -> tuple[float, float]:
    most = float(np.percentile(np.abs(array[array != 0]), 99.5)) if array.any() else 1.0
    return (-most, most) if signed and array.min() < 0 else (0.0, most)


def _place(own: OwnGrid, maps: Mapping[str, GridMap], placed: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    """Where to look: in the middle of the mask, at the largest change, or in the middle of the subject."""
    if own.hole is not None:
        return tuple(round(float(place)) for place in ndimage.center_of_mass(own.hole))
    for name, one in maps.items():
        if one.kind in SIGNED and placed[name].any():
            smooth = ndimage.uniform_filter(np.abs(placed[name]), 5)
            return tuple(int(place) for place in np.unravel_index(int(smooth.argmax()), smooth.shape))
    subject = own.foreground if own.foreground is not None else body_of(own.volume, None)
    return tuple((start + stop - 1) // 2 for start, stop in box_of(subject))
