"""Volumes as pictures: middle slices, label overlays, contact sheets, all numpy to encoded bytes.

Slices are shown as radiologists expect them: the patient's right on the left, anterior or superior up.
Small volumes are enlarged smoothly, label maps class by class, so that neither shows as blocks.
"""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from meddiff_core.contract import Spacing
from meddiff_core.release.colours import label_colours
from meddiff_core.types import FloatArray, LabelArray

Window = tuple[float, float]
Picture = NDArray[np.uint8]
"""(rows, columns, 3)."""

TILE = 168
"""Pixels along a side of one slice."""
GAP = 3
ALIKE = (1.0, 1.0, 1.0)
"""Voxels as long along each axis."""
OPACITY = 0.5
QUALITY = 86


def window_of(volumes: Sequence[FloatArray]) -> Window:
    """One window for all of them, so that their brightness may be compared; outliers do not set it."""
    values = np.concatenate([volume.ravel()[:: max(1, volume.size // 100_000)] for volume in volumes])
    low, high = np.percentile(values, (0.5, 99.7))
    return float(low), float(max(high, low + 1e-6))


def middle_slices(volume: NDArray[Any]) -> list[NDArray[Any]]:
    """Axial, coronal, sagittal, each (rows, columns) as it is shown."""
    i, j, k = (size // 2 for size in volume.shape)
    return [plane.T[::-1, ::-1] for plane in (volume[:, :, k], volume[:, j, :], volume[i, :, :])]


def _pixel_sides(spacing_mm: Spacing) -> list[tuple[float, float]]:
    """(row, column) of a pixel of the axial, coronal and sagittal slice, in units of the shortest."""
    i, j, k = (length / min(spacing_mm) for length in spacing_mm)
    return [(j, i), (k, i), (k, j)]


def middle_slab(volume: NDArray[Any]) -> NDArray[Any]:
    """(i, j, 1): all that a contact sheet needs of a volume, so that many large ones fit in memory."""
    middle = volume.shape[2] // 2
    return volume[:, :, middle : middle + 1]


def paint_axial(
    volume: FloatArray,
    window: Window,
    label: LabelArray | None = None,
    tile: int = TILE,
    spacing_mm: Spacing = ALIKE,
) -> Picture:
    """The axial middle slice alone."""
    cover = None if label is None else middle_slices(label)[0]
    return paint_slice(middle_slices(volume)[0], window, cover, tile, _pixel_sides(spacing_mm)[0])


def paint_slice(
    plane: FloatArray,
    window: Window,
    label: LabelArray | None = None,
    tile: int = TILE,
    pixel: tuple[float, float] = (1.0, 1.0),
) -> Picture:
    """A square picture of a slice, black around it, its label map over it; `pixel` is a pixel's height and width."""
    low, high = window
    grey = np.clip((plane - low) / (high - low), 0, 1).astype(np.float32)
    picture = np.repeat(_enlarge(grey, tile, pixel)[..., None], 3, axis=2)
    if label is not None:
        cover = _enlarge_label(label, tile, pixel)
        colours = np.array([(0, 0, 0), *label_colours(int(label.max()))], dtype=np.float32)[cover] / 255
        opacity = np.where(cover[..., None] > 0, OPACITY, 0)
        picture = picture * (1 - opacity) + colours * opacity
    return _square(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), tile)


def paint_planes(
    volume: FloatArray,
    window: Window,
    label: LabelArray | None = None,
    tile: int = TILE,
    spacing_mm: Spacing = ALIKE,
) -> Picture:
    """Axial, coronal and sagittal middle slices side by side."""
    labels = [None] * 3 if label is None else middle_slices(label)
    parts = zip(middle_slices(volume), labels, _pixel_sides(spacing_mm), strict=True)
    return arrange([paint_slice(plane, window, cover, tile, pixel) for plane, cover, pixel in parts], 3)


def arrange(pictures: Sequence[Picture], columns: int) -> Picture:
    """Pictures of one size in a grid with thin black gaps."""
    height, width = pictures[0].shape[:2]
    rows = math.ceil(len(pictures) / columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    for n, picture in enumerate(pictures):
        top, left = n // columns * (height + GAP), n % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def encode(picture: Picture, kind: str = "webp") -> bytes:
    """`webp` for pages, `png` for whatever else shows figures."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format=kind, quality=QUALITY, method=4)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "webp") -> str:
    """A picture as it stands inside a page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _enlarge(plane: FloatArray, tile: int, pixel: tuple[float, float]) -> FloatArray:
    """(rows, columns) scaled so that the longer side is `tile`."""
    sides = [size * length for size, length in zip(plane.shape, pixel, strict=True)]
    factor = tile / max(sides)
    rows, columns = (max(1, round(side * factor)) for side in sides)
    resized = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)).resize(
        (columns, rows), Image.Resampling.BICUBIC
    )
    return np.asarray(resized, dtype=np.float32)


def _enlarge_label(label: LabelArray, tile: int, pixel: tuple[float, float]) -> NDArray[np.intp]:
    present = np.unique(label)
    shares = [_enlarge((label == value).astype(np.float32), tile, pixel) for value in present]
    winners: NDArray[np.intp] = present.astype(np.intp)[np.argmax(shares, axis=0)]
    return winners


def _square(picture: Picture, tile: int) -> Picture:
    rows, columns = picture.shape[:2]
    above, left = (tile - rows) // 2, (tile - columns) // 2
    return np.pad(picture, ((above, tile - rows - above), (left, tile - columns - left), (0, 0)))
