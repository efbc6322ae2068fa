"""Models and cohort design to candidates."""

from typing import Any

from prefect import flow

from tasks.finished import run_stage


@flow(name="generate")
def generate(study: str) -> dict[str, Any]:
    """A first candidate for every slot of the cohort.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
    """
    return run_stage(study, "generate")
