"""Scans to a data set that models can be trained on."""

from typing import Any

from prefect import flow

from tasks.finished import run_stage

PLANNED = ("inventory", "fingerprint", "split", "plan")


@flow(name="plan")
def plan(study: str) -> dict[str, Any]:
    """Look at the scans and decide everything; train nothing."""
    from tasks.stage import make_missing, open_stage

    with open_stage(study, "plan") as workspace:
        return make_missing(workspace, PLANNED)


@flow(name="prepare")
def prepare(study: str) -> dict[str, Any]:
    """Inventory, fingerprint, split, plan, and the conformed volumes.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
    """
    return run_stage(study, "prepare")
