"""The function of each task. What a user sees of them stands in `kinds`, which imports nothing heavy."""

from collections.abc import Callable

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.types import Work

Task = Callable[[Models, GridScan, TaskSettings, Calibration], Work[Outcome]]

TASKS: dict[str, Task] = {}
"""By the names of `kinds.KINDS`."""
