"""Evidence and cohort to a release, or to a refusal that says why."""

from typing import Any

from prefect import flow

from tasks.release import package_release
from tasks.stage import make, open_stage


@flow(name="release")
def release(study: str) -> dict[str, Any]:
    """A folder that may be given away."""
    with open_stage(study, "release") as workspace:
        workspace.require("audit")
        summary = make(workspace, "release", package_release).summary
        return summary | {"path": str(workspace.path("release") / summary["folder"])}
