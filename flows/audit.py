"""Screened volumes to a cohort without suspected copies, and to evidence."""

from typing import Any

from prefect import flow

from tasks.finished import run_stage


@flow(name="audit")
def audit(study: str) -> dict[str, Any]:
    """Replace suspected copies, measure the cohort against the sealed holdout, apply the gates, and write the study's
    own report.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
    """
    return run_stage(study, "audit")
