"""Candidates to a cohort of accepted volumes."""

from typing import Any

from prefect import flow

from tasks.finished import run_stage


@flow(name="screen")
def screen(study: str) -> dict[str, Any]:
    """Reject what the training volumes do not vouch for, and sample again in its place.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
    """
    return run_stage(study, "screen")
