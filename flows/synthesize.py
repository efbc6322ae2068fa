"""The whole chain: from a folder of scans to a sealed release."""

from typing import Any

from prefect import flow

from flows.audit import audit
from flows.generate import generate
from flows.prepare import prepare
from flows.release import release
from flows.screen import screen
from flows.train import train
from meddiff_core.stages.readiness import version_taken
from tasks.progress import echo
from tasks.stage import open_stage


@flow(name="synthesize")
def synthesize(study: str) -> dict[str, Any]:
    """Every stage in order; each does only what is missing or out of date."""
    with open_stage(study, "synthesize") as workspace:
        if warning := version_taken(workspace):
            echo(warning)
        prepare(study)
        train(study)
        generate(study)
        screen(study)
        audit(study)
        return release(study)
