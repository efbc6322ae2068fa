"""Super-resolution: thick voxels are averages of the wanted volume, and averages are what is observed.

The result averages to exactly what was measured: what the samples' mean misses of it is interpolated and added back.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.posterior.observation import Observation, Profile, along_axes, downsampled, thick_voxels
from meddiff_core.applications.posterior.sampling import sample_posterior
from meddiff_core.applications.posterior.tolerance import coarse_std, tolerance
from meddiff_core.applications.scans import CoarseScan, GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Work

PROFILE: Profile = "box"
ROUNDS = 10
"""Of adding back what is missing, after which averages differ by less than a stored level."""


def super_resolve(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """A scan of thick voxels on the grid of the model.

    Raises:
        ConfigurationError: its voxels are not larger than the grid's.
    """
    coarse, size = _coarse(scan), models.contract.size
    known = yield from tolerance(calibration)
    axes = list(zip(size, coarse.image.shape, coarse.factors, coarse.offsets, strict=True))
    rows = [thick_voxels(*axis, PROFILE) for axis in axes]
    value = torch.from_numpy(coarse.image)
    operator = downsampled(size, value.shape, coarse.factors, coarse.offsets, PROFILE)
    observation = Observation(operator, value, coarse_std(known["residual"], rows))
    back = [interpolated(*axis) for axis in axes]
    begin = consistent(along_axes(value[None], back)[0], value, rows, back).clamp(0, 1)
    samples = yield from sample_posterior(models, scan, settings, [observation], known, begin)
    sharp = consistent(samples.mean, value, rows, back).clamp(0, 1)
    maps = {
        "super_resolved": GridMap(
            "intensity", sharp.numpy(), "The scan on the model's grid; it averages to what came."
        ),
        "uncertainty": GridMap(
            "uncertainty", samples.std(known["image"]).numpy(), "Expected error of the image, one standard deviation."
        ),
    }
    if models.contract.labels:
        maps["labels"] = GridMap("labels", samples.labels.numpy(), "Most likely label value of each voxel.")
    factors = dict(zip(("factor_i", "factor_j", "factor_k"), map(float, coarse.factors), strict=True))
    return Outcome(maps, samples.figures | factors)


def _coarse(scan: GridScan) -> CoarseScan:
    if scan.coarse is None or max(scan.coarse.factors) <= 1:
        came = "not larger" if scan.coarse is None else f"{max(scan.coarse.factors):g} times as large"
        raise ConfigurationError(
            f"super-resolve: voxels of the scan must be larger than those of the model, are {came}"
        )
    return scan.coarse


def interpolated(size: int, count: int, factor: float, offset: float) -> Float[Tensor, "n m"]:
    """(size, count): weights of linear interpolation of `count` voxels, see `thick_voxels`, at those of a grid."""
    place = ((torch.arange(size, dtype=torch.float64) - offset) / factor).clamp(0, count - 1)
    return (1 - (place[:, None] - torch.arange(count)).abs()).clamp_min(0).float()


def consistent(
    image: Float[Tensor, "i j k"], value: Float[Tensor, "p q r"], rows: Sequence[Tensor], back: Sequence[Tensor]
) -> Float[Tensor, "i j k"]:
    """The image changed as smoothly as possible such that its averages are those measured (Irani & Peleg 1991)."""
    for _ in range(ROUNDS):
        image = image + along_axes((value - along_axes(image[None], rows)[0])[None], back)[0]
    return image
