"""A scan onto the study's grid, and back onto its own.

Masked first, then resampled once: a second interpolation would blur, and a mask applied later would leave a
rim of face. The grid is laid in the scan's RAS+ voxel axes around its foreground, with steps rounded so that
the same scan stored in another orientation gives the same voxels, bit by bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import polar

from meddiff_core.contract import Contract
from meddiff_core.data.fingerprint import CaseFingerprint, Foreground
from meddiff_core.data.foreground import Box, Mask, mask_of
from meddiff_core.data.ingest import digest_case, load_image, load_label
from meddiff_core.errors import CaseRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, FloatArray, LabelArray, StoredArray, Volume

FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Conformed:
    """A scan on the study's grid."""

    image: StoredArray
    label: LabelArray | None
    affine: Matrix
    """(4, 4), voxel of the grid to mm of the scan's world, RAS."""


@dataclass(frozen=True)
class Loaded:
    """A scan on its own grid, with what the study reads beside it."""

    volume: Volume
    label: NDArray[np.int32] | None
    mask: Mask | None
    """Voxels to keep; None keeps all."""


def conform_case(case: CaseRef, found: CaseFingerprint, contract: Contract, config: DataConfig) -> Conformed:
    """One scan onto the grid of the contract.

    Raises:
        CaseRefused: it cannot be read, or is not the scan that `found` describes.
    """
    return conform_scan(load_case(case, found, config), found, contract)


def load_case(case: CaseRef, found: CaseFingerprint, config: DataConfig) -> Loaded:
    """A scan, its label map and its mask; CaseRefused where it is not the scan that `found` describes."""
    if digest_case(case) != (found.image_sha256, found.label_sha256):
        raise CaseRefused(case.case, "image or label map changed since the fingerprint was taken")
    volume = load_image(case)
    label = load_label(case, volume) if case.label else None
    return Loaded(volume, label, mask_of(case.case, volume, label, config.mask))


def conform_scan(scan: Loaded, found: CaseFingerprint | Foreground, contract: Contract) -> Conformed:
    """A scan that was read onto the grid of the contract."""
    volume, label, mask = scan.volume, scan.label, scan.mask
    step = grid_step(volume.affine, contract.spacing_mm, found.box, contract.size)
    unit = contract.intensity.normalise(volume.array, *ends_of(found, contract))
    resampled = resample(unit if mask is None else unit * mask, step, contract.size)
    if mask is not None:
        resampled *= nearest(mask, step, contract.size)
    groups = None
    if label is not None and contract.labels:
        groups = group_labels(nearest(label, step, contract.size), contract)
    return Conformed(contract.intensity.store(resampled), groups, volume.affine @ step)


def grid_step(affine: Matrix, spacing_mm: tuple[float, float, float], box: Box, size: tuple[int, int, int]) -> Matrix:
    """(4, 4) from a voxel of the grid to a voxel of the scan: axes of the scan made orthogonal, box in the middle."""
    rotation = polar(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))[0]
    axes = np.round(np.linalg.solve(affine[:3, :3], rotation * np.array(spacing_mm)), 6) + 0.0  # no -0
    centre = np.array([(start + stop - 1) / 2 for start, stop in box], np.float64)
    step = np.eye(4)
    step[:3, :3] = axes
    step[:3, 3] = _snapped(centre - axes @ ((np.array(size) - 1) / 2), axes)
    return step


def _snapped(origin: NDArray[Any], axes: NDArray[Any]) -> NDArray[Any]:
    """Onto a voxel along each axis that keeps its spacing: half a voxel aside would blur it for nothing."""
    kept = np.isclose(np.abs(axes).sum(axis=1), 1) & np.isclose(np.abs(axes).max(axis=1), 1)
    return np.where(kept, np.floor(np.round(origin, 6)), origin)


def ends_of(found: CaseFingerprint | Foreground, contract: Contract) -> tuple[float, float]:
    """Intensities of a scan that become 0 and 1: MR by the scan's own percentiles, CT by the window."""
    mapping = contract.intensity
    if mapping.percentiles is None:
        return mapping.low, mapping.high
    return found.percentiles[0], found.percentiles[-1]


def group_labels(label: NDArray[np.int32], contract: Contract) -> LabelArray:
    """Source values to 1 + position of their group; all others to background."""
    stored = np.zeros(label.shape, np.uint8)
    for position, values in enumerate(contract.labels.values(), start=1):
        stored[np.isin(label, values)] = position
    return stored


def resample(array: FloatArray, step: Matrix, size: tuple[int, int, int]) -> FloatArray:
    """Linear interpolation after a smoothing that leaves the resolution of the target (Cardoso et al. 2015)."""
    factors = np.linalg.norm(step[:3, :3], axis=1)
    sigmas = np.sqrt(np.maximum(factors**2 - 1, 0)) / FWHM_PER_SIGMA
    smooth = ndimage.gaussian_filter(array, sigmas, mode="nearest") if sigmas.any() else array
    return _sampled(smooth, step, size, order=1)


def nearest(array: NDArray[Any], step: Matrix, size: tuple[int, int, int]) -> NDArray[Any]:
    """Values of the nearest voxels; outside of the array 0."""
    kind = array.dtype
    return _sampled(array.view(np.uint8) if kind == np.bool_ else array, step, size, order=0).astype(kind)


def _sampled(array: NDArray[Any], step: Matrix, size: tuple[int, int, int], order: int) -> NDArray[Any]:
    sampled = ndimage.affine_transform(
        array, step[:3, :3], step[:3, 3], size, order=order, mode="grid-constant", prefilter=False
    )
    return np.asarray(sampled)


def restore(
    image: StoredArray, label: LabelArray | None, contract: Contract, affine: Matrix, like: Volume
) -> tuple[Volume, LabelArray | None]:
    """A volume of the grid, whose voxels lie at `affine`, onto the grid of `like`.

    Intensities are those of the contract (HU, or of the median training scan); outside of the volume they are
    what 0 stands for. Labels keep their stored values.
    """
    step = np.asarray(np.linalg.solve(affine, like.affine), np.float64)
    i, j, k = like.array.shape
    unit = resample(contract.intensity.unit(image), step, (i, j, k))
    physical = unit * np.float32(contract.intensity.high - contract.intensity.low) + np.float32(contract.intensity.low)
    restored = Volume(physical.astype(np.float32), like.affine)
    return restored, None if label is None else nearest(label, step, (i, j, k))
