"""Models that were trained elsewhere to models of a study."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.prepare import PLANNED
from flows.train import train
from meddiff_core.stages.imports import import_models
from tasks.stage import make_missing, open_stage, work_on


@flow(name="import-model")
def import_model(study: str, description: str) -> dict[str, Any]:
    """The plan follows the models, the scans are brought to their grid, and training starts from them, if at all."""
    with open_stage(study, "import-model") as workspace:
        make_missing(workspace, PLANNED)
        work_on(workspace, "import models", lambda resources: import_models(workspace, resources, Path(description)))
        make_missing(workspace, ["dataset"])
        return train(study)
