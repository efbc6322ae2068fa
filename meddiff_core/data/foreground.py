"""Which voxels of a scan are the subject: by its label map, a brain extractor, or by taking air and padding away.

The box around them places every scan in the study's grid, and their intensities set its scale. Air would
otherwise decide both; and where a scan holds no air, as a crop does, a threshold would take its darker tissue
for air. So air must be shown to be there: dark, even, and at the border.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.errors import CaseRefused, ConfigurationError
from meddiff_core.types import FloatArray, Volume

Mask = NDArray[np.bool_]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Start and stop per axis, in voxels."""
AIR_HU = -500.0
"""Between lung or air, and tissue."""
OUTER_AIR_HU = -960.0
"""The air around a patient is darker than this in the median; a lung is not."""
ROBUST = (0.1, 99.5)
"""Percentiles that a few hot or dead voxels do not move."""
LEAST_BORDER = 0.05
"""Share of the outermost voxels that air must hold."""
MOST_UNEVEN = 0.2
"""Air's standard deviation by its median deviation, as a share of its distance to tissue. The darker half of a ramp
has 0.37, that of one Gaussian about as much, air in a noisy MR 0.15."""
MOST_BRIGHT = 0.2
"""Air's median above black, as a share of tissue's."""
ALL_AROUND = 0.5
"""Share of the border that air must hold where it is not black."""
MAD_TO_STD = 1.4826
"""Of a Gaussian."""
MOST_VOXELS = 6_000_000
"""That are looked at: a fraction of a second for a head, seconds for a body."""
LEAST_PIECE = 0.01
"""A piece smaller than this share of the largest is no limb."""


def mask_of(case: str, volume: Volume, label: NDArray[np.int32] | None, kind: str) -> Mask | None:
    """Voxels to keep, or None where the study keeps all."""
    if kind == "none":
        return None
    mask = extract_brain(volume) if kind == "brain" else _inside(case, label)
    if not mask.any():
        raise CaseRefused(case, f"mask: {kind} must leave voxels, it leaves none")
    return mask


def _inside(case: str, label: NDArray[np.int32] | None) -> Mask:
    if label is None:
        raise CaseRefused(case, "mask: label needs a label map, there is none")
    return label > 0


def body_of(volume: Volume, modality: str | None) -> Mask:
    """All that is neither padding nor the air around the subject; dark tissue, lungs and sinuses belong to it.

    A scan of many voxels is looked at on every n-th along its longest axes.
    """
    steps = steps_within(volume.array.shape, MOST_VOXELS)
    array = volume.array[tuple(slice(None, None, step) for step in steps)]
    padding = padding_of(array)
    outside = padding | (_air_ct if modality == "CT" else _air_mr)(array, padding)
    body = np.ones_like(padding) if outside.all() else _large_pieces(~outside)
    for axis, (step, length) in enumerate(zip(steps, volume.array.shape, strict=True)):
        body = np.take(body, np.arange(length) // step, axis) if step > 1 else body
    return body


def steps_within(shape: tuple[int, ...], most: int) -> list[int]:
    """Every n-th voxel along each axis, so that at most so many are left."""
    steps = [1, 1, 1]
    while np.prod(counts := [-(-length // step) for length, step in zip(shape, steps, strict=True)]) > most:
        steps[int(np.argmax(counts))] += 1
    return steps


def padding_of(array: FloatArray) -> Mask:
    """The constant part that touches the border: padding, the outside of a stripped skull, air that was clipped."""
    border = array[_faces(array.shape)]
    values, counts = np.unique(border, return_counts=True)
    value, share = values[np.argmax(counts)], counts.max() / border.size
    if share < (LEAST_BORDER if value == array.min() else 0.5):
        return np.zeros(array.shape, np.bool_)
    return _reached(array == value, _faces(array.shape))


def _air_ct(array: FloatArray, padding: Mask) -> Mask:
    """Connected to the border below -500 HU, unless it is lung: a crop may lie within one."""
    air = _reached((array < AIR_HU) | padding, _faces(array.shape))
    real = array[air & ~padding]
    return air if real.size and np.median(real) <= OUTER_AIR_HU else np.zeros_like(padding)


def _air_mr(array: FloatArray, padding: Mask) -> Mask:
    """Dark and even voxels that hold a part of the border, where the scan has such; else none."""
    none, values = np.zeros_like(padding), array[~padding]
    if values.size == 0:
        return none
    floor, top = (float(value) for value in np.percentile(values, ROBUST))
    if floor == top:
        return none
    split = split_values(np.clip(values, floor, top))
    if split.spread > MOST_UNEVEN * (split.bright - split.dark):
        return none
    edge = (_faces(array.shape) | ndimage.binary_dilation(padding)) & ~padding
    air = _reached((array < split.threshold) | padding, _faces(array.shape) | padding)
    share = (air & edge).sum() / max(edge.sum(), 1)
    # Fluid at the border of a crop is even as well, but not black; air above an offset is not black, but all around.
    black = min(0.0, floor) if not padding.any() else min(floor, float(array[padding][0]))
    # Where padding shows what black is, as around a brain that was cut out, evenly brighter voxels are tissue.
    if padding.any() and split.brightness(black) > MOST_BRIGHT:
        return none
    least = LEAST_BORDER if split.brightness(black) <= MOST_BRIGHT else ALL_AROUND
    return air if share >= least and split.brightness(floor) <= MOST_BRIGHT else none


@dataclass(frozen=True)
class Split:
    """Values in two parts."""

    dark: float
    """Median of the darker part."""
    bright: float
    """Mean of the brighter part."""
    spread: float
    """Standard deviation of the darker part, by its median deviation."""

    def brightness(self, black: float) -> float:
        """Of the darker part above black, as a share of the brighter one's."""
        return (self.dark - black) / (self.bright - black)

    @property
    def threshold(self) -> float:
        """Six standard deviations above the dark part, between a tenth and a quarter of the way to the bright one."""
        way = self.bright - self.dark
        return self.dark + float(np.clip(6 * self.spread, way / 10, way / 4))


def split_values(values: FloatArray) -> Split:
    """The darker and the brighter part, split where they differ most (Otsu 1979), on 256 bins."""
    counts, edges = np.histogram(values, bins=256)
    sums, below = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2), np.cumsum(counts)
    above = below[-1] - below[:-1]
    means = sums[:-1] / below[:-1], (sums[-1] - sums[:-1]) / above
    best = int(np.argmax(below[:-1] * (above * (means[1] - means[0]) ** 2)))
    dark = values[values < edges[best + 1]]
    middle = float(np.median(dark))
    return Split(middle, float(means[1][best]), MAD_TO_STD * float(np.median(np.abs(dark - middle))))


def _faces(shape: tuple[int, ...]) -> Mask:
    """The outermost voxels."""
    faces = np.ones(shape, np.bool_)
    faces[1:-1, 1:-1, 1:-1] = False
    return faces


def _reached(mask: Mask, start: Mask) -> Mask:
    """Parts of a mask that are connected to `start` by more than a channel of one or two voxels."""
    core = ndimage.binary_erosion(mask, border_value=1)
    pieces, count = ndimage.label(core)
    touching = np.zeros(count + 1, np.bool_)
    touching[np.unique(pieces[start & core])] = True
    touching[0] = False
    return np.asarray(ndimage.binary_dilation(touching[pieces]) & mask)


def _large_pieces(mask: Mask) -> Mask:
    """The largest connected piece and others of limbs' size, by what of each is thicker than two voxels.

    A speck, the shell of a table or a ghost in the air are left out; the second leg is not.
    """
    pieces, count = ndimage.label(mask)
    thick = ndimage.binary_erosion(mask, border_value=1)
    weights = np.bincount(pieces[thick], minlength=count + 1)
    if not weights[1:].any():
        weights = np.bincount(pieces.ravel(), minlength=count + 1)
    weights[0] = 0
    return np.asarray((weights >= max(1, LEAST_PIECE * weights.max()))[pieces])


def box_of(mask: Mask) -> Box:
    """The smallest box that holds every voxel of a mask."""
    i, j, k = ndimage.find_objects(mask.astype(np.int8))[0]
    return (i.start, i.stop), (j.start, j.stop), (k.start, k.stop)


def extract_brain(volume: Volume) -> Mask:
    """Brain mask of a T1-weighted head by deepbet (Fisch et al. 2024), about 2 s on a CPU."""
    try:
        from deepbet.bet import BrainExtraction  # an extra
    except ImportError as error:
        raise ConfigurationError("data.mask: brain needs the extra `brain`: pip install meddiff[brain]") from error
    scan = nib.Nifti1Image(volume.array, volume.affine)
    mask = BrainExtraction(no_gpu=True).run(scan)[1]
    return np.asarray(mask.dataobj) > 0
