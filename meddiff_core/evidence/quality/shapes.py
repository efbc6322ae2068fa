"""Shape and place of each structure, left-right symmetry and noise of one volume.

Volumes of structures can all be right in a label map that is frayed, torn or lopsided. Every figure is finite, also
for a structure that is absent: it has surface 0 and lies in the middle.
"""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.measurements import FOREGROUND
from meddiff_core.models.dice import dice
from meddiff_core.types import FloatArray, LabelArray, StoredArray

SURFACE, CENTROID = "surface_to_volume:", "centroid_mm:"
"""Prefixes of figures per label group; centroids have one more suffix, the axis i, j or k."""
AXES = "ijk"
OFFSETS = tuple(offset for offset in product((-1, 0, 1), repeat=3) if offset > (0, 0, 0))
"""One of each pair of opposite directions to the 26 neighbours."""
SHARES = {1: 0.0915556, 2: 0.0739613, 3: 0.0703913}
"""Share of all directions that are nearest to one along an axis, a diagonal of a face, or one of the cube."""


def shape(image: StoredArray, label: LabelArray | None, contract: Contract) -> dict[str, float]:
    """Figures of one volume (i, j, k) by name.

    `noise`: see `noise_level`. `asymmetry`: sum of |left - right| over that of left + right intensities, 0 to 1.
    With a label map `symmetry`: mean Dice of its groups with their mirror images. Per group `surface_to_volume:`
    (1/mm) and `centroid_mm:` from the centroid of all groups. Mirrored is about the plane across i through the middle
    of the foreground, to half a voxel.
    """
    unit = contract.intensity.unit(image)
    twice = _twice_the_middle(unit > FOREGROUND if label is None else label > 0)
    mirror = _mirrored(unit, twice)
    total = float((unit + mirror).sum(dtype=np.float64))
    figures = {
        "noise": noise_level(unit),
        "asymmetry": float(np.abs(unit - mirror).sum(dtype=np.float64)) / max(total, 1e-12),
    }
    if label is not None:
        scores = dice(label, _mirrored(label, twice), len(contract.labels))
        figures["symmetry"] = float(np.nanmean(scores)) if label.any() else 0.0
        figures |= _surfaces(label, contract) | _centroids(label, contract)
    return figures


def noise_level(unit: FloatArray) -> float:
    """Deviation of white noise, from second differences along all three axes at once (Immerkær 1996, in 3D).

    They are 0 for whatever is smooth along one axis, so edges and shading hardly count; by their median within the
    foreground. Texture of single voxels counts as noise.
    """
    inside = ndimage.binary_erosion(unit > FOREGROUND, np.ones((3, 3, 3)))[1:-1, 1:-1, 1:-1]
    if not inside.any():
        return 0.0
    rough = unit
    for axis in range(3):
        rough = np.diff(rough, n=2, axis=axis)
    return float(1.4826 * np.median(np.abs(rough[inside])) / 6**1.5)


def _twice_the_middle(foreground: NDArray[np.bool_]) -> int:
    """Twice the mean index along i, rounded; that of the grid if there is nothing."""
    along = foreground.sum((1, 2), dtype=np.float64)
    if not along.any():
        return len(along) - 1
    return round(2 * float(np.average(np.arange(len(along)), weights=along)))


def _mirrored(volume: NDArray[Any], twice_middle: int) -> NDArray[Any]:
    """Voxel i takes the value of voxel `twice_middle - i`, or 0 from outside."""
    source = twice_middle - np.arange(len(volume))
    inside = (source >= 0) & (source < len(volume))
    mirror = np.zeros_like(volume)
    mirror[inside] = volume[source[inside]]
    return mirror


def surface_areas(label: LabelArray, groups: int, spacing_mm: float) -> Matrix:
    """(groups,) in mm2: crossings of lines in 13 directions (Crofton's formula, Legland et al. 2007).

    Counted voxel faces would give half as much again on a smooth surface. Balls of 4 voxels and more come out within
    4%, boxes along the grid a tenth too small.
    """
    padded = np.pad(label, 1)
    areas = np.zeros(groups + 1)
    for offset in OFFSETS:
        steps = sum(map(abs, offset))
        here, there = (padded[_window(offset, sign)] for sign in (1, -1))
        crossed = here != there
        crossings = sum(np.bincount(side[crossed], minlength=groups + 1) for side in (here, there))
        areas += 2 * SHARES[steps] * np.asarray(crossings) / np.sqrt(steps)
    return np.asarray(areas[1:] * spacing_mm**2)


def _window(offset: tuple[int, ...], sign: int) -> tuple[slice, ...]:
    """The part of a volume that has a neighbour at `sign * offset`."""
    moves = [sign * step for step in offset]
    return tuple(slice(max(0, -move), -move if move > 0 else None) for move in moves)


def _surfaces(label: LabelArray, contract: Contract) -> dict[str, float]:
    groups, step = len(contract.labels), contract.spacing_mm
    volumes = np.bincount(label.ravel(), minlength=groups + 1)[1:] * step**3
    ratios = surface_areas(label, groups, step) / np.maximum(volumes, step**3)
    return {f"{SURFACE}{group}": float(ratio) for group, ratio in zip(contract.labels, ratios, strict=True)}


def _centroids(label: LabelArray, contract: Contract) -> dict[str, float]:
    offsets, present = np.zeros((len(contract.labels), 3)), np.unique(label[label > 0])
    if present.size:
        middle = ndimage.center_of_mass(label > 0)
        offsets[present - 1] = np.subtract(ndimage.center_of_mass(label > 0, label, present), middle)
    return {
        f"{CENTROID}{group}:{axis}": float(offset)
        for group, row in zip(contract.labels, offsets * contract.spacing_mm, strict=True)
        for axis, offset in zip(AXES, row, strict=True)
    }
