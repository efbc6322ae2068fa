"""The function of each task. What a user sees of them stands in `kinds`, which imports nothing heavy."""

from collections.abc import Callable

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.anomaly import anomaly
from meddiff_core.applications.tasks.counterfactual import counterfactual
from meddiff_core.applications.tasks.denoise import denoise
from meddiff_core.applications.tasks.edit import edit
from meddiff_core.applications.tasks.inpaint import inpaint
from meddiff_core.applications.tasks.reconstruct import reconstruct
from meddiff_core.applications.tasks.score import score
from meddiff_core.applications.tasks.segment import segment
from meddiff_core.applications.tasks.super_resolve import super_resolve
from meddiff_core.types import Work

Task = Callable[[Models, GridScan, TaskSettings, Calibration], Work[Outcome]]

TASKS: dict[str, Task] = {
    "segment": segment,
    "denoise": denoise,
    "inpaint": inpaint,
    "super-resolve": super_resolve,
    "reconstruct": reconstruct,
    "counterfactual": counterfactual,
    "edit": edit,
    "anomaly": anomaly,
    "score": score,
}
"""By the names of `kinds.KINDS`."""
