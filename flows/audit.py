"""Accepted volumes to evidence."""

from typing import Any

from prefect import flow

from tasks.audit import audit_cohort
from tasks.report import write_report
from tasks.stage import make, open_stage, require


@flow(name="audit")
def audit(study: str) -> dict[str, Any]:
    """Measure the cohort against the sealed holdout, apply the gates, and write the study's own report."""
    with open_stage(study, "audit") as workspace:
        require(workspace, "verdicts")
        summary = make(workspace, "audit", audit_cohort).summary
        return summary | {"report": str(write_report(workspace))}
