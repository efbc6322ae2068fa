"""Scans to a data set that models can be trained on."""

from typing import Any

from prefect import flow

from meddiff_core.data.ingest import listing_digest
from tasks.inventory import take_inventory
from tasks.prepare import conform_scans, fingerprint_scans, plan_study, split_subjects
from tasks.stage import make, make_plan, open_stage


@flow(name="plan")
def plan(study: str) -> dict[str, Any]:
    """Look at the scans and decide everything; train nothing."""
    with open_stage(study, "plan") as workspace:
        scans = listing_digest(take_inventory(workspace))
        make(workspace, "fingerprint", fingerprint_scans, scans)
        make(workspace, "split", split_subjects)
        return make_plan(workspace, plan_study).summary


@flow(name="prepare")
def prepare(study: str) -> dict[str, Any]:
    """Fingerprint, split, plan, and the conformed volumes."""
    plan(study)
    with open_stage(study, "prepare") as workspace:
        return make(workspace, "dataset", conform_scans).summary
