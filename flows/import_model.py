"""Models that were trained elsewhere to models of a study."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.prepare import plan, prepare
from flows.train import train
from meddiff_core.artefacts import digest_file
from tasks.caching import refreshing
from tasks.imports import import_models
from tasks.stage import open_stage


@flow(name="import-model")
def import_model(study: str, description: str) -> dict[str, Any]:
    """The plan follows the models, the scans are brought to their grid, and training starts from them, if at all."""
    with open_stage(study, "import-model") as workspace:
        plan(study)
        with refreshing():
            import_models(workspace.folder, description, key=digest_file(Path(description)))
        prepare(study)
        return train(study)
