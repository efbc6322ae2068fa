"""A volume's image at low resolution, on which copies are as plain as on the full one and much cheaper to find."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.types import FloatArray, Latents, StoredArray


def pooled_image(image: StoredArray, contract: Contract, longest: int) -> FloatArray:
    """(i, j, k) in [0, 1], averaged over cells so that no side is longer than `longest` voxels.

    Sides are first padded with background to a multiple of the cell's.
    """
    factors = cell_sides(image.shape, contract.spacing_mm, longest)
    padded = np.pad(image, [(0, -side % factor) for side, factor in zip(image.shape, factors, strict=True)])
    shape = [part for side, factor in zip(padded.shape, factors, strict=True) for part in (side // factor, factor)]
    means = padded.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
    return np.asarray(means / np.float32(contract.intensity.levels))


def cell_sides(size: Sequence[int], spacing_mm: Sequence[float], longest: int) -> tuple[int, int, int]:
    """Voxels along each side of a cell, so that no axis has more than `longest` cells.

    Cells are cubes as far as the spacing allows: where slices are thick, more of them are kept. Along no axis is less
    than two cells left.
    """
    widest = -(-max(size) // longest) * min(spacing_mm)
    i, j, k = (
        min(max(1, round(widest / spacing), -(-side // longest)), -(-side // 2))
        for side, spacing in zip(size, spacing_mm, strict=True)
    )
    return i, j, k


def pooled_latents(latents: Latents, *cells: int) -> Tensor:
    """(n, z * cells) means; one number is for all axes. No axis is cut into more cells than it has voxels."""
    i, j, k = (min(pair) for pair in zip(cells * 3, latents.shape[2:], strict=False))
    return functional.adaptive_avg_pool3d(latents, (i, j, k)).flatten(1)
