"""From a flow run in Prefect to the run in MLflow that tells of it: a link artifact, once MLflow has said where.

The other way leads a tag of MLflow's run. A link that cannot be made is one link less, and no reason to end a run.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress


def flow_run_id() -> str | None:
    """Prefect's id of the flow run that this is in, if it is in one."""
    if "prefect" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else None


class Links:
    """Flow runs that have no link yet, by the run that tells of them."""

    def __init__(self) -> None:
        self._flow_runs: dict[str, str] = {}

    def expect(self, run: str, flow_run: str) -> None:
        """A run will be shown somewhere."""
        self._flow_runs[run] = flow_run

    def show(self, urls: Iterable[tuple[str, str]]) -> None:
        """Make the links to some runs."""
        for run, url in urls:
            if flow_run := self._flow_runs.pop(run, None):
                with suppress(Exception):  # of Prefect's client or its transport: whatever it is, work goes on
                    _link(flow_run, url)


def _link(flow_run: str, url: str) -> None:
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate

    data = f"[run in MLflow]({url})"  # Prefect's own helper links what it runs in, which may be another flow by now
    artifact = ArtifactCreate(key="mlflow-run", type="markdown", data=data, flow_run_id=UUID(flow_run))
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)
