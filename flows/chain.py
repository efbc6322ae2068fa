"""The stages one after the other, as subflows; not in `synthesize`, so that a run with nothing to do imports none."""

from typing import Any

from flows.audit import audit
from flows.generate import generate
from flows.prepare import prepare
from flows.release import release
from flows.screen import screen
from flows.train import train
from meddiff_core.stages.readiness import version_taken
from tasks.finished import figures_if_finished
from tasks.progress import echo
from tasks.stage import open_stage

STAGES = {"train": train, "generate": generate, "screen": screen, "audit": audit, "release": release}


def run_chain(study: str) -> dict[str, Any]:
    """Each stage that has something to do, as a subflow; gives the figures of the release."""
    with open_stage(study, "synthesize") as workspace:
        if warning := version_taken(workspace):
            echo(warning)
        prepare(study)
        figures: dict[str, Any] = {}
        for name, stage in STAGES.items():  # a subflow costs seconds, also one that has nothing to do
            figures = figures_if_finished(study, name) or stage(study)
        return figures
