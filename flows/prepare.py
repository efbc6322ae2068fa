"""Scans to a data set that models can be trained on."""

from typing import Any

from prefect import flow

from tasks.stage import make_missing, open_stage, run_stage

PLANNED = ("inventory", "fingerprint", "split", "plan")


@flow(name="plan")
def plan(study: str) -> dict[str, Any]:
    """Look at the scans and decide everything; train nothing."""
    with open_stage(study, "plan") as workspace:
        return make_missing(workspace, PLANNED)


@flow(name="prepare")
def prepare(study: str) -> dict[str, Any]:
    """Inventory, fingerprint, split, plan, and the conformed volumes."""
    return run_stage(study, "prepare")
