"""Volumes of structures as an image alone tells them, corrected by scans whose volumes are known.

A label map that the autoencoder reads from an image alone has structures drawn towards their mean: on held-out brain
scans ventricles were read with r = 0.98, but 2,500 mm3 too large and changes 0.8 times as large as they are. A line for
each structure, fitted on the validation scans, takes that back.
"""

from collections.abc import Mapping

import numpy as np
import torch

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.change import read_labels, volumes_of
from meddiff_core.applications.tasks.encoding import Probabilities
from meddiff_core.applications.tasks.starts import exact_inference
from meddiff_core.types import LabelArray, Progress, Work

FEWEST = 8
"""Scans with known label maps below which volumes stay as they are read."""
SLOPES = (0.5, 2.0)
"""Within which a line is believed: a flatter reading tells too little, and its correction would multiply noise."""
Lines = Mapping[str, tuple[float, float]]
"""Intercept in mm3 and slope of true volumes over volumes that were read, by label group."""


def volume_lines(models: Models, calibration: Calibration, first: Probabilities) -> Work[Lines]:
    """Lines of the validation scans."""
    found = yield from calibration.kept("volumes", lambda own, scans: _measure(own, scans, first))
    return {group: (float(found[group][0]), float(found[group][1])) for group in models.contract.labels}


def corrected(labels: LabelArray | None, models: Models, lines: Lines) -> dict[str, float]:
    """Volume in mm3 by label group of a label map that was read from an image alone."""
    found = volumes_of(labels, models.contract)
    return {group: max(0.0, lines[group][0] + lines[group][1] * volume) for group, volume in found.items()}


def fit_line(read: list[float], true: list[float]) -> tuple[float, float]:
    """Intercept and slope of true over read volumes; 0 and 1 where they cannot be told."""
    if len(read) < FEWEST or np.ptp(read) == 0:
        return 0.0, 1.0
    slope, intercept = np.polyfit(read, true, 1)
    return (float(intercept), float(slope)) if SLOPES[0] <= slope <= SLOPES[1] else (0.0, 1.0)


def _measure(models: Models, scans: list[GridScan], first: Probabilities) -> Work[Tensors]:
    pairs: dict[str, tuple[list[float], list[float]]] = {group: ([], []) for group in models.contract.labels}
    for number, scan in enumerate(scans):
        yield Progress("volumes of validation scans", number, len(scans))
        with exact_inference(models):
            read = volumes_of(read_labels(models, scan.image, first), models.contract)
        for group, volume in volumes_of(scan.labels, models.contract).items():
            pairs[group][0].append(read[group])
            pairs[group][1].append(volume)
    return {group: torch.tensor(fit_line(*pair), dtype=torch.float64) for group, pair in pairs.items()}
