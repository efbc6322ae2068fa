"""Screened volumes to a cohort without suspected copies, and to evidence."""

from typing import Any

from prefect import flow

from tasks.audit import audit_cohort
from tasks.cohort import fill_cohort
from tasks.readiness import REPORT
from tasks.report import write_report
from tasks.stage import make, open_stage


@flow(name="audit")
def audit(study: str) -> dict[str, Any]:
    """Replace suspected copies, measure the cohort against the sealed holdout, apply the gates, and write the study's
    own report.
    """
    with open_stage(study, "audit") as workspace:
        workspace.require("verdicts")
        make(workspace, "cohort", fill_cohort)
        report = workspace.folder / REPORT
        if workspace.state("audit").condition != "done":
            report.unlink(missing_ok=True)  # it tells of another audit
        summary = make(workspace, "audit", audit_cohort).summary
        if not report.exists():
            write_report(workspace)
        return summary | {"report": str(report)}
