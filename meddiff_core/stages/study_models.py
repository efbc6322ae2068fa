"""The two checkpoints of a study as tasks use them, and what is measured of them once on validation scans."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.files.known import read_contract
from meddiff_core.applications.models import open_models
from meddiff_core.applications.scans import GridScan
from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Condition, Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.store import digest_volume
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.types import Volumes
from meddiff_core.workspace import Workspace

NAMES = ("autoencoder", "denoiser")
CALIBRATIONS = "applications"
"""Folder in a study; patient data, as the study is."""
MEASURED_BY = 2
"""Grows when a measurement changes, so that none that an older version kept is read as one of today."""
MOST_VALIDATION = 24
"""Scans that are measured; more would be minutes."""


@dataclass(frozen=True)
class StudyModels:
    """Where models lie and which they are; small, so that it travels to other processes."""

    folder: Path
    """Of the study."""
    digests: dict[str, str]
    """Of each checkpoint, as a release names it."""
    contract: Contract
    device: str

    @property
    def digest(self) -> str:
        """Of both."""
        return digest_of([self.digests[name] for name in NAMES])

    def calibration(self) -> Calibration:
        """The networks, and room for what is measured of them."""
        models = open_models(self.folder / "models", self.digest, self.device)
        kept = self.folder / CALIBRATIONS / digest_of([self.digest, MEASURED_BY])[:16]
        return Calibration(models, partial(validation_scans, self.folder, self.contract), kept)


def find_models(workspace: Workspace, device: str) -> StudyModels:
    """The models of a study as they lie there.

    Raises:
        ConfigurationError: they were not trained.
        IntegrityError: a checkpoint is broken.
    """
    for name in NAMES:
        if not (workspace.path(name) / "facts.json").is_file():
            raise ConfigurationError(f"{name} must be trained, is missing; run `meddiff train` first")
    digests = {name: digest_of(digest_checkpoint(workspace.path(name))) for name in NAMES}
    return StudyModels(workspace.folder, digests, read_contract(workspace.path("autoencoder")), device)


def validation_scans(folder: Path, contract: Contract) -> list[GridScan]:
    """A scan of each of some validation subjects, evenly through the side.

    Raises:
        IntegrityError: the data set is gone, or of other models.
    """
    dataset = Dataset.open(folder)
    if differences := dataset.contract.differences(contract):
        raise IntegrityError(f"data set and models must share a contract; {'; '.join(differences)}")
    volumes, conditions = dataset.volumes("validation"), dataset.conditions("validation")
    first = {subject: row for row, subject in reversed(list(enumerate(dataset.subjects("validation"))))}
    rows = sorted(first.values())
    if not rows:
        raise ConfigurationError("validation side must have scans to measure the models on, it is empty")
    places = np.linspace(0, len(rows) - 1, min(MOST_VALIDATION, len(rows))).round().astype(int)
    return [_grid_scan(volumes, row, conditions[row], contract) for row in sorted({rows[place] for place in places})]


def _grid_scan(volumes: Volumes, row: int, condition: Condition, contract: Contract) -> GridScan:
    stored = volumes.image(row)
    known: Condition = {name: value for name, value in condition.items() if value is not None}
    inside = np.ones(contract.size, np.bool_)
    return GridScan(contract.intensity.unit(stored), inside, digest_volume(stored), volumes.label(row), known or None)
