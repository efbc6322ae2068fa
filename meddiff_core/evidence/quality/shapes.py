"""Shape and place of each structure, left-right symmetry and noise of one volume.

Volumes of structures can all be right in a label map that is frayed, torn or lopsided. Every figure is finite, also
for a structure that is absent: it has surface 0 and lies in the middle.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.evidence.measurements import FOREGROUND
from meddiff_core.evidence.surfaces import surface_areas
from meddiff_core.models.dice import dice
from meddiff_core.types import FloatArray, LabelArray, StoredArray

SURFACE, CENTROID = "surface_to_volume:", "centroid_mm:"
"""Prefixes of figures per label group; centroids have one more suffix, the axis i, j or k."""
AXES = "ijk"


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


def _surfaces(label: LabelArray, contract: Contract) -> dict[str, float]:
    groups, voxel = len(contract.labels), contract.voxel_mm3
    volumes = np.bincount(label.ravel(), minlength=groups + 1)[1:] * voxel
    ratios = surface_areas(label, groups, contract.spacing_mm) / np.maximum(volumes, voxel)
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
