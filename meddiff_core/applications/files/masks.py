"""Masks that belong to a scan: on its grid, of two values, and of a size that means something.

A mask on another grid that was laid over by its indices would fill healthy tissue and leave the lesion. It is refused
with the difference, unless the two grids differ by rounding alone. Sizes are compared before anything is decoded.
"""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from meddiff_core.applications.scans import Mask
from meddiff_core.data.conform import Matrix, resample
from meddiff_core.data.nifti import read_label
from meddiff_core.data.scan import describe_grid
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Volume

MOST_VOXELS = 2**28
"""Of one file: a body of 0.7 mm. A few bytes may claim to hold any number of them."""
TOUCHED = 0.05
"""Share of a voxel of the grid that must lie in a mask for it to be filled: what is left out is taken as measured."""
FULL = 0.95
"""Share of the subject from which a mask leaves nothing to go by."""


def check_size(case: str, path: Path, what: str, volume: Volume | None = None) -> None:
    """Refuse, by its header alone, a file that is too large, or of another size than the scan it belongs to."""
    try:
        image: Any = nib.load(path)
        shape = tuple(int(length) for length in image.shape)
    except Exception:  # a damaged header makes nibabel raise many kinds; reading it will say what is wrong
        return
    if (voxels := math.prod(shape)) > MOST_VOXELS:
        raise CaseRefused(case, f"{what} must have at most {MOST_VOXELS} voxels, claims {voxels}")
    if volume is not None and sorted(shape[:3]) != sorted(volume.array.shape):
        expected = describe_grid(volume.array.shape, volume.affine)
        found = describe_grid(shape, np.asarray(image.affine))
        raise CaseRefused(case, f"{what} must be on the scan's grid {expected}, is {found} as stored")


def read_mask(case: str, path: Path, volume: Volume, option: str) -> Mask:
    """A mask on the grid of its scan, RAS+.

    Raises:
        CaseRefused: it cannot be read, lies on another grid, has other values than two, or none or all of the voxels.
    """
    check_size(case, path, option, volume)
    try:
        values = read_label(case, path, volume).values
    except CaseRefused as refused:
        reason = refused.reason.replace("the image's grid", "the scan's grid")
        for words in ("label map", "label values"):
            reason = reason.replace(words, option)
        raise CaseRefused(case, reason) from refused
    except Exception as error:  # as every reader of files from outside
        raise CaseRefused(case, f"{option} cannot be read: {type(error).__name__}") from error
    found = np.unique(values)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        shown = ", ".join(map(str, found[:5].tolist()))
        raise CaseRefused(case, f"{option} must be 0 and one other value, has {len(found)} values: {shown}")
    mask = np.asarray(values > 0)
    if not mask.any() or mask.all():
        raise CaseRefused(case, f"{option} must mark a part of the scan, it marks {'all' if mask.any() else 'nothing'}")
    return mask


def hole_on_grid(case: str, hole: Mask, inside: Mask, step: Matrix, size: tuple[int, int, int]) -> Mask:
    """Voxels of the grid that a mask touches.

    Raises:
        CaseRefused: it touches none, or leaves nothing of the subject.
    """
    within = hole & inside
    if not within.any():
        raise CaseRefused(case, "--mask must mark a part of the subject, it lies outside")
    if within.sum() > FULL * inside.sum():
        raise CaseRefused(case, f"--mask must leave a part of the subject, it marks {within.sum() / inside.sum():.0%}")
    touched = np.asarray(resample(hole.astype(np.float32), step, size) > TOUCHED)
    if not touched.any():
        raise CaseRefused(case, f"--mask must reach a voxel of the models' grid, its {int(hole.sum())} voxels do not")
    return touched
