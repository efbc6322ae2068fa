"""Candidates to a cohort of accepted volumes."""

from typing import Any

from prefect import flow

from tasks.screen import fit_screen, screen_candidates
from tasks.stage import make, open_stage


@flow(name="screen")
def screen(study: str) -> dict[str, Any]:
    """Reject what the training volumes do not vouch for, and draw again in its place."""
    with open_stage(study, "screen") as workspace:
        workspace.require("candidates")
        make(workspace, "reference", fit_screen)
        return make(workspace, "verdicts", screen_candidates).summary
