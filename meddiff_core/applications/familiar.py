"""Whether a scan is anything that the models know, asked before a task believes it.

A network makes a brain of a knee. Its denoiser, though, brings what it never saw back from noise worse than any scan
of a patient, by far more than disease, noise or thick slices do: only what lies that far out is refused.
"""

import numpy as np
import torch

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.encoding import mean_labels
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.score import denoising_errors, outlier_score
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Progress, Work

FARTHEST = 15.0
"""Outlier score, in standard deviations of validation scans, from which a scan is from elsewhere."""


def check_familiar(case: str, models: Models, scan: GridScan, calibration: Calibration, force: bool) -> Work[str]:
    """A note if the scan is far from the training scans and `force` takes it all the same; else an empty text.

    Raises:
        CaseRefused: it is far from them.
    """
    first = yield from mean_labels(models, calibration)

    def measure(own: Models, scans: list[GridScan]) -> Work[Tensors]:
        errors = []
        for number, one in enumerate(scans):
            yield Progress("what the models know", number, len(scans))
            errors.append(denoising_errors(own, one, first))
        return {"errors": torch.from_numpy(np.stack(errors))}

    reference = yield from calibration.kept("familiar", measure)
    found = outlier_score(denoising_errors(models, scan, first), reference["errors"].numpy())
    if found <= FARTHEST:
        return ""
    why = f"unlike any scan that the models know, by {found:.0f} standard deviations (at most {FARTHEST:g})"
    if not force:
        raise CaseRefused(case, f"is {why}: another part of the body, contrast or place of the head? --force takes it")
    return f"forced: it is {why}"
