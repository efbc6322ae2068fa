"""Filling of a region that a scan lost, or that a lesion took: what is around it is observed, and stays as it is.

Voxels that were measured are pasted back after decoding. The autoencoder keeps no scan exactly, so what it lost
around the region is continued into it, fading within a few voxels: a filled region has no visible border.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.applications.posterior.observation import Observation, labels_in, voxels
from meddiff_core.applications.posterior.sampling import sample_posterior
from meddiff_core.applications.posterior.tolerance import tolerance
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.encoding import label_channels
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Work

REACH = 1.0
"""Voxels within which what the autoencoder lost fades into a region."""
FADING = 0.2
"""Share of known neighbours at which it has faded by half."""


def inpaint(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """The scan with its mask filled; a label map that is known around the mask helps.

    Raises:
        ConfigurationError: there is no mask, it is empty, or nothing is left outside of it.
    """
    known = yield from tolerance(calibration)
    hole = torch.from_numpy(_hole(scan))
    seen, image = torch.from_numpy(scan.inside) & ~hole, torch.from_numpy(scan.image)
    observations = [Observation(voxels(seen), image[seen], known["image"][seen])]
    if scan.labels is not None and models.contract.labels:
        labels = label_channels(scan.labels, models.contract)[0]
        observations.append(Observation(labels_in(seen), labels[:, seen], known["labels"][:, seen], "labels"))
    begin = torch.where(seen, image, image[seen].mean())
    samples = yield from sample_posterior(models, scan, settings, observations, known, begin)
    filled = torch.where(hole, samples.mean + continued(image - samples.mean, seen), image).clamp(0, 1)
    spread = torch.where(hole, samples.std(known["image"]), torch.zeros(()))
    maps = {
        "inpainted": GridMap("intensity", filled.numpy(), "The scan, with the mask filled by the mean of the samples."),
        "uncertainty": GridMap(
            "uncertainty", spread.numpy(), "Expected error within the mask, one standard deviation; 0 outside."
        ),
    }
    if models.contract.labels:
        maps["labels"] = GridMap("labels", samples.labels.numpy(), "Most likely label values of the filled scan.")
    return Outcome(maps, samples.figures | {"filled_share": float(hole.float().mean())})


def _hole(scan: GridScan) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """The mask, once it is sure that there is one and that something was measured outside of it."""
    if scan.mask is None or not scan.mask.any():
        raise ConfigurationError(
            "inpaint: the mask must mark the voxels to be filled, marks none (is it on this scan?)"
        )
    if not (scan.inside & ~scan.mask).any():
        raise ConfigurationError("inpaint: the mask must leave voxels of the scan to go by, covers all of them")
    return scan.mask


def continued(residual: Float[Tensor, "i j k"], known: Bool[Tensor, "i j k"]) -> Float[Tensor, "i j k"]:
    """A residual continued from where it is known, fading away from there."""
    weight = known.double().numpy()
    near = gaussian_filter(weight, REACH)
    total = gaussian_filter(residual.double().numpy() * weight, REACH)
    return torch.from_numpy(total / (near + FADING) * np.minimum(1, near / FADING)).float()
