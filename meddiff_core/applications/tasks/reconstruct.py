"""Reconstruction of undersampled k-space: the measured frequencies are observed.

They are put back exactly at the end, so the model decides about the others alone. The image is taken for real: phase
that a scan has must have been removed.
"""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.posterior.observation import Observation, kspace, spectrum
from meddiff_core.applications.posterior.sampling import sample_posterior
from meddiff_core.applications.posterior.tolerance import tolerance
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import Work

CENTRE = 0.25
"""Share of the measured lines that make up the full centre."""
DECAY = 0.35
"""Radius at which the density of the other lines has fallen to 1/e, as a share of the highest frequency."""


def reconstruct(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """The image of given k-space, or of k-space that a whole scan would have had if fewer lines had been measured.

    Raises:
        ConfigurationError: nothing would be measured, or everything.
    """
    known = yield from tolerance(calibration)
    full, mask, notes = _measured(scan, settings)
    value = torch.view_as_real(full[mask])
    observation = Observation(kspace(mask), value, known["spectrum"][mask][:, None].expand(-1, 2), "kspace")
    zero_filled = torch.fft.ifftn(torch.where(mask, full, 0), norm="ortho").real
    samples = yield from sample_posterior(models, scan, settings, [observation], known, zero_filled.clamp(0, 1))
    mixed = torch.where(mask, full, spectrum(samples.mean))
    image = torch.fft.ifftn(mixed, norm="ortho").real.clamp(0, 1)
    maps = {
        "reconstructed": GridMap(
            "intensity", image.numpy(), "The image; measured frequencies are exactly those given."
        ),
        "uncertainty": GridMap(
            "uncertainty", samples.std(known["image"]).numpy(), "Expected error of the image, one standard deviation."
        ),
        "zero_filled": GridMap(
            "intensity", zero_filled.clamp(0, 1).numpy(), "The image if missing frequencies were zero, to compare."
        ),
    }
    if models.contract.labels:
        maps["labels"] = GridMap("labels", samples.labels.numpy(), "Most likely label value of each voxel.")
    return Outcome(maps, samples.figures | {"measured_share": float(mask.float().mean())}, notes)


def _measured(scan: GridScan, settings: TaskSettings) -> tuple[Tensor, Bool[Tensor, "i j k"], tuple[str, ...]]:
    """K-space (i, j, k), where it was measured, and what a person should know of it."""
    if scan.kspace is not None:
        full = torch.from_numpy(scan.kspace).to(torch.complex64)
        mask, notes = full != 0, tuple[str, ...]()
    else:
        full = spectrum(torch.from_numpy(scan.image))
        mask = cartesian_mask(scan.image.shape, settings.undersampling, derive_seed(settings.seed, "k-space"))
        lines = f"{int(mask[:, :, 0].sum())} of {mask[:, :, 0].numel()} lines along the third axis"
        notes = (f"No k-space was given: it was computed from the whole scan and {lines} were kept.",)
    if not mask.any() or mask.all():
        share = "nothing" if not mask.any() else "everything"
        raise ConfigurationError(f"reconstruct: k-space must be measured in part (undersampling >= 2), {share} was")
    return full, mask, notes


def cartesian_mask(size: tuple[int, ...], undersampling: int, seed: int) -> Bool[Tensor, "i j k"]:
    """Lines along k of a 3D Cartesian scan: a full centre, and others at random, denser near it (Lustig et al. 2007).

    Of both lines that a real image makes each other's mirror image, either may be measured.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    i, j = (np.abs(np.fft.fftfreq(side)) * 2 for side in size[:2])
    radius = np.hypot(*np.meshgrid(i, j, indexing="ij")).ravel()
    count = max(1, round(radius.size / undersampling))
    order = np.argsort(radius, kind="stable")
    centre, others = order[: round(CENTRE * count)], order[round(CENTRE * count) :]
    odds = np.exp(-((radius[others] / DECAY) ** 2)) + 0.02
    chosen = random.choice(others, count - len(centre), replace=False, p=odds / odds.sum())
    lines = np.zeros(radius.size, dtype=bool)
    lines[centre], lines[chosen] = True, True
    return torch.from_numpy(np.broadcast_to(lines.reshape(*size[:2], 1), size).copy())
