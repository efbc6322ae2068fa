"""Trained models and scans to the results of one task."""

from typing import Any

from prefect import flow


@flow(name="apply")
def apply(
    study: str, task: str, scans: list[str], output: str, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A folder of results for each scan; scans that were done are skipped.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
        task: segment, inpaint, super-resolve, reconstruct, denoise, counterfactual, edit, anomaly or score.
        scans: Files and folders of scans. Prefect keeps parameters: no path may name a patient.
        output: Folder of the results, which are patient data.
        options: Those of `meddiff apply TASK --help`, by their names.
    """
    from tasks.apply import apply_work
    from tasks.work import run_as_task

    done = run_as_task(task, lambda: apply_work(study, task, scans, output, options or {}))
    return {"done": done.done, "refused": len(done.rows) - done.done, "table": str(done.table)}
