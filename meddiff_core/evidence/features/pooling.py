"""A volume's image at low resolution, on which copies are as plain as on the full one and much cheaper to find."""

import numpy as np
from torch import Tensor
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.types import FloatArray, Latents, StoredArray


def pooled_image(image: StoredArray, contract: Contract, longest: int) -> FloatArray:
    """(i, j, k) in [0, 1], averaged over cubes so that no side is longer than `longest` voxels.

    Sides are first padded with background to a multiple of the cube's.
    """
    factor = -(-max(image.shape) // longest)
    padded = np.pad(image, [(0, -side % factor) for side in image.shape])
    shape = [part for side in padded.shape for part in (side // factor, factor)]
    means = padded.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
    return np.asarray(means / np.float32(contract.intensity.levels))


def pooled_latents(latents: Latents, *cells: int) -> Tensor:
    """(n, z * cells) means; one number is for all axes. No axis is cut into more cells than it has voxels."""
    i, j, k = (min(pair) for pair in zip(cells * 3, latents.shape[2:], strict=False))
    return functional.adaptive_avg_pool3d(latents, (i, j, k)).flatten(1)
