"""A scan of thick voxels, as it was measured: what super-resolution observes.

Interpolated onto the grid, values would count as measured that nobody measured. So axes whose voxels are larger than
the grid's keep their samples, and only the others are brought to the grid.
"""

import numpy as np

from meddiff_core.applications.scans import CoarseScan
from meddiff_core.contract import Contract, spacing_text
from meddiff_core.data.conform import Matrix, resample
from meddiff_core.errors import CaseRefused
from meddiff_core.types import FloatArray

COARSER = 1.1
"""Times the grid's voxel from which an axis is coarse."""
MOST_SHEARED = 0.02
"""Of the axes of a scan against each other."""


def coarse_scan(case: str, unit: FloatArray, step: Matrix, contract: Contract) -> CoarseScan:
    """The samples of a scan in 0 to 1, RAS+, along its coarse axes; `step` leads from voxels of the grid to its own.

    Raises:
        CaseRefused: it is nowhere coarser than the grid, or its axes are not at right angles.
    """
    lengths = np.diagonal(step[:3, :3]).copy()
    if np.abs(step[:3, :3] - np.diag(lengths)).max() > MOST_SHEARED * lengths.min():
        raise CaseRefused(case, "axes must be at right angles, they are sheared (a tilted gantry?)")
    coarse = 1 / lengths >= COARSER
    if not coarse.any():
        i, j, k = (float(length) for length in np.array(contract.spacing_mm) * lengths.clip(1e-9) ** -1)
        own = spacing_text(round(length, 3) for length in (i, j, k))
        raise CaseRefused(
            case, f"must be coarser than the models along an axis: {own}, theirs {spacing_text(contract.spacing_mm)}"
        )
    narrow, counts, offsets = np.eye(4), [], []
    for axis, (length, start, size) in enumerate(zip(lengths, step[:3, 3], contract.size, strict=True)):
        if coarse[axis]:
            first = max(0, int(np.ceil(round(start - length / 2, 6))))
            last = min(unit.shape[axis] - 1, int(np.floor(round(start + length * (size - 0.5), 6))))
            narrow[axis, 3] = first
            counts.append(last - first + 1)
            offsets.append((first - start) / length)
        else:
            narrow[axis, axis], narrow[axis, 3] = length, start
            counts.append(size)
            offsets.append(0.0)
    i, j, k = counts
    factors = tuple(1 / length if one else 1.0 for length, one in zip(lengths.tolist(), coarse, strict=True))
    return CoarseScan(
        image=resample(unit, narrow, (i, j, k)),
        factors=(factors[0], factors[1], factors[2]),
        offsets=(float(offsets[0]), float(offsets[1]), float(offsets[2])),
    )
