"""The power spectrum of a volume at low resolution: a fixed look at it that no shift and no flip can change.

It needs no training and no weights, and so finds whole copies also where too few volumes exist to train an encoder.
"""

from collections.abc import Sequence

import numpy as np
from scipy import fft

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.evidence.features.pooling import pooled_image
from meddiff_core.types import FloatArray, Volumes

SIDE = 32
"""Voxels along each side of the cube that is transformed; the volume is padded with background."""
HIGHEST = 8
"""Cycles per cube up to which power is kept: finer detail is what noise and blur change."""
FLOOR = 1e-4
"""Of the mean power, below which the logarithm is levelled."""


class SpectrumFeatures:
    """Log power of the low frequencies, averaged over the left-right flip; gain is a constant that is taken off."""

    name = "spectrum"

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.digest = digest_of({"spectrum": 1, "side": SIDE, "highest": HIGHEST, "floor": FLOOR})

    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 9 * 17 * 9)."""
        return np.stack([self._of(pooled_image(volumes.image(index), self.contract, SIDE)) for index in indices])

    def _of(self, image: FloatArray) -> FloatArray:
        cube = np.zeros((SIDE,) * 3, np.float32)
        cube[tuple(slice(0, side) for side in image.shape)] = image
        power = np.square(np.abs(fft.rfftn(cube)))
        kept = np.arange(-HIGHEST, HIGHEST + 1)
        power = power[np.ix_(kept, kept, kept[HIGHEST:])]
        folded = (power + power[::-1])[HIGHEST:]  # a flip along i changes the sign of its frequency
        level = np.log(folded + FLOOR * folded.mean() + 1e-12)
        return np.asarray((level - level.mean()).ravel(), dtype=np.float32)
