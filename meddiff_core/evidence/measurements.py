"""What one volume measures: intensities, sharpness, and the size and wholeness of each structure.

The same figures are taken of real, reconstructed and synthetic volumes, so that a bound fitted on one
holds for the other. Every figure is finite, also for a broken volume: an absent structure has volume 0
and wholeness 0, and so lies outside every bound instead of passing unseen.
"""

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.generation.best_of import structure_volumes
from meddiff_core.types import FloatArray, LabelArray, Progress, StoredArray, Volumes

MEASURED_VOLUME = "volume_mm3:"
"""Prefix of the measurement that a condition `volume of GROUP` is compared with."""
FOREGROUND = 0.02
"""Share of the intensity range above which a voxel is foreground."""
SMALLEST_PIECE = 4
"""Voxels from which a separate component counts as a piece."""


def measure(image: StoredArray | FloatArray, label: LabelArray | None, contract: Contract) -> dict[str, float]:
    """Figures of one volume (i, j, k) by name.

    `image` is stored integers, or floats that are already in [0, 1]. `finite` is 1 or 0; `mean` and `std` are
    over all voxels; percentiles and `sharpness` (mean gradient, per mm) over the foreground. Per label group:
    `volume_mm3:`, `components:` (share in its largest 26-connected component) and `pieces:`.
    """
    finite = bool(np.isfinite(image).all())
    unit = _unit(image, contract)
    figures = {"finite": float(finite), **_intensities(unit, contract)}
    if label is not None:
        figures |= _structures(label, contract)
    return figures


def measure_all(label: str, volumes: Volumes, contract: Contract) -> Generator[Progress, None, list[dict[str, float]]]:
    """`measure` of every volume, in their order; `label` says whose on the way."""
    figures = []
    for index in range(len(volumes)):
        figures.append(measure(volumes.image(index), volumes.label(index), contract))
        yield Progress(label, index + 1, len(volumes))
    return figures


def _unit(image: NDArray[Any], contract: Contract) -> FloatArray:
    """To [0, 1]; what is not finite counts as 0, so that every other figure can still be taken."""
    if np.issubdtype(image.dtype, np.floating):
        return np.asarray(np.nan_to_num(image, posinf=0, neginf=0), dtype=np.float32)
    return contract.intensity.unit(image)


def _intensities(unit: FloatArray, contract: Contract) -> dict[str, float]:
    foreground = unit > FOREGROUND
    inside = unit[foreground]
    low, middle, high = np.percentile(inside, [5, 50, 95]) if inside.size else (0.0, 0.0, 0.0)
    return {
        "mean": float(unit.mean(dtype=np.float64)),
        "std": float(unit.std(dtype=np.float64)),
        "foreground_share": float(foreground.mean()),
        "p05": float(low),
        "p50": float(middle),
        "p95": float(high),
        "sharpness": _sharpness(unit, foreground, contract),
    }


def _sharpness(unit: FloatArray, foreground: NDArray[np.bool_], contract: Contract) -> float:
    if not foreground.any():
        return 0.0
    gradients: list[FloatArray] = list(np.gradient(unit, *contract.spacing_mm))
    steepness = np.sqrt(sum(gradient**2 for gradient in gradients))
    return float(steepness[foreground].mean(dtype=np.float64))


def _structures(label: LabelArray, contract: Contract) -> dict[str, float]:
    volumes = structure_volumes(label, contract)
    boxes: list[Any] = ndimage.find_objects(label, max_label=len(contract.labels))
    figures = {}
    for value, group in enumerate(contract.labels, start=1):
        box = boxes[value - 1]
        whole, pieces = _wholeness(label[box] == value) if box is not None else (0.0, 0)
        figures[f"{MEASURED_VOLUME}{group}"] = volumes[group]
        figures[f"components:{group}"] = whole
        figures[f"pieces:{group}"] = float(pieces)
    return figures


def _wholeness(mask: NDArray[np.bool_]) -> tuple[float, int]:
    components, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    return float(sizes.max() / sizes.sum()), int((sizes >= SMALLEST_PIECE).sum())
