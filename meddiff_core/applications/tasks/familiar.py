"""Whether a scan is anything that the models know, asked before a task believes it.

A network makes a brain of a knee. Its denoiser, though, brings back from noise what it never saw worse than any scan
of validation subjects: measured on brains, a turned head or a ball stand 6 to 7 standard deviations out, inverted
contrast 10, while lesions, noise of 5% and slices of 16 mm stay below 3. Noise of 20% reaches 6 as well, so what is
there to be repaired is only said where repairing is the task.
"""

import numpy as np
import torch

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.kinds import TaskKind
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.encoding import mean_labels
from meddiff_core.applications.tasks.score import denoising_errors, outlier_score
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Progress, Work

FARTHEST = 5.0
"""Outlier score, in standard deviations of validation scans, up to which no scan is from elsewhere."""


def check_familiar(
    case: str, models: Models, scan: GridScan, calibration: Calibration, kind: TaskKind, force: bool
) -> Work[tuple[str, ...]]:
    """A note if the scan is farther out than every validation scan, and is taken all the same.

    Raises:
        CaseRefused: it is, and the task wants scans that the models know, and nobody forces it.
    """
    if kind.unfamiliar == "taken" or scan.kspace is not None:
        return ()
    first = yield from mean_labels(models, calibration)

    def measure(own: Models, scans: list[GridScan]) -> Work[Tensors]:
        errors = []
        for number, one in enumerate(scans):
            yield Progress("what the models know", number, len(scans))
            errors.append(denoising_errors(own, one, first))
        table = np.stack(errors)
        scores = [outlier_score(own_errors, np.delete(table, row, axis=0)) for row, own_errors in enumerate(table)]
        return {"errors": torch.from_numpy(table), "scores": torch.tensor(scores, dtype=torch.float64)}

    reference = yield from calibration.kept("familiar", measure)
    bound = max(FARTHEST, float(reference["scores"].max()))
    found = outlier_score(denoising_errors(models, scan, first), reference["errors"].numpy())
    if found <= bound:
        return ()
    why = f"unlike the scans that the models know: {found:.1f} standard deviations from them, at most {bound:.1f}"
    if kind.unfamiliar == "noted" or force:
        return (f"it is {why}",)
    raise CaseRefused(case, f"is {why}; another part of the body, contrast or pose? --force takes it")
