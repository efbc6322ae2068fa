"""Candidates to a cohort of accepted volumes."""

from typing import Any

from prefect import flow

from tasks.stage import run_stage


@flow(name="screen")
def screen(study: str) -> dict[str, Any]:
    """Reject what the training volumes do not vouch for, and sample again in its place."""
    return run_stage(study, "screen")
