"""Models and cohort design to candidates."""

from typing import Any

from prefect import flow

from meddiff_core.generation.schedule import write_slots
from tasks.generate import draw_shards
from tasks.stage import make, open_stage


@flow(name="generate")
def generate(study: str) -> dict[str, Any]:
    """A first candidate for every slot of the cohort."""
    with open_stage(study, "generate") as workspace:
        workspace.require("denoiser")
        slots = write_slots(range(workspace.study.cohort.size))
        return make(workspace, "candidates", draw_shards, slots=slots, attempt=0).summary
