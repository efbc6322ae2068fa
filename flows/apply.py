"""Trained models and scans to the results of one task."""

from typing import Any

from prefect import flow

from tasks.apply import apply_work
from tasks.work import run_as_task


@flow(name="apply")
def apply(
    study: str, task: str, scans: list[str], output: str, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A folder of results for each scan; scans that were done are skipped."""
    done = run_as_task(task, lambda: apply_work(study, task, scans, output, options or {}))
    return {"done": done.done, "refused": len(done.rows) - done.done, "table": str(done.table)}
