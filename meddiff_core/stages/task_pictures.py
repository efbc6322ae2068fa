"""One picture a task: the first scan that was measured, and what each method made of it. Pictures show a patient."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from meddiff_core.applications.measured.bench import Bench, Panel
from meddiff_core.artefacts import write_bytes
from meddiff_core.release.figures import STYLE, as_picture
from meddiff_core.release.slices import middle_slices

SHOWN = 6
"""Panels beside each other."""


def plot_task(folder: Path, bench: Bench, task: str) -> list[Path]:
    """A file `task-NAME.png`, if the task kept a picture."""
    if not (rows := bench.pictures.get(task)):
        return []
    path = folder / f"task-{task}.png"
    write_bytes(path, picture_of(rows))
    return [path]


def picture_of(rows: Sequence[Sequence[Panel]]) -> bytes:
    """A row a setting; rows of a single panel are put beside each other."""
    if all(len(row) == 1 for row in rows):
        alone = [panel for row in rows for panel in row]
        rows = [alone[start : start + SHOWN] for start in range(0, len(alone), SHOWN)]
    columns = max(map(len, rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.75 * columns, 2.05 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for line, row in zip(grid, rows, strict=True):
        for axes, panel in zip(line, row, strict=False):
            _show(axes, panel, _place(row))
    return as_picture(figure)


def _place(row: Sequence[Panel]) -> int:
    """The axial slice with most of what is marked; the middle one where nothing is."""
    marked = [panel.volume for panel in row if panel.kind == "labels" and int(panel.volume.max()) == 1]
    if not marked:
        return int(row[0].volume.shape[2] // 2)
    return int((marked[0] > 0).sum((0, 1)).argmax())


def _show(axes: Axes, panel: Panel, place: int) -> None:
    plane = _axial(panel.volume, place)
    if panel.kind == "labels":
        axes.imshow(plane, cmap="nipy_spectral", interpolation="nearest", vmin=0, vmax=max(2, int(panel.volume.max())))
    elif panel.kind == "difference":
        axes.imshow(plane, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    elif panel.kind == "score":
        axes.imshow(plane, cmap="inferno", vmin=0, vmax=float(np.quantile(panel.volume, 0.999)) or 1.0)
    else:
        axes.imshow(plane, cmap="gray", vmin=0, vmax=1)
    axes.set_title(panel.title.replace("$", r"\$"), fontsize=7, wrap=True)


def _axial(volume: NDArray[np.generic], place: int) -> NDArray[np.generic]:
    """As radiologists see it: the patient's right on the left, anterior up."""
    slab = volume[:, :, place : place + 1]
    return middle_slices(slab)[0]
