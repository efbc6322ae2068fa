"""Evidence and cohort to a release, or to a refusal that says why."""

from typing import Any

from prefect import flow

from tasks.finished import run_stage


@flow(name="release")
def release(study: str) -> dict[str, Any]:
    """A folder that may be shared.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
    """
    return run_stage(study, "release")
