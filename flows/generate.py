"""Models and cohort design to candidates."""

from typing import Any

from prefect import flow

from tasks.stage import run_stage


@flow(name="generate")
def generate(study: str) -> dict[str, Any]:
    """A first candidate for every slot of the cohort."""
    return run_stage(study, "generate")
