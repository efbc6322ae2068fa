"""What Prefect is told besides the states of its runs, so that its automations can tell a person.

An event names the flow run and the study, which is public as the name of its releases; never a scan or a subject.
"""

from typing import Any


def emit(event: str, **payload: Any) -> None:
    """Send an event of the open flow run; outside of one, nothing. It is never waited for."""
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.events import emit_event

    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run = flow.flow_run.id if flow and flow.flow_run else task.task_run.flow_run_id if task else None
    if run is not None:
        emit_event(f"meddiff.{event}", {"prefect.resource.id": f"prefect.flow-run.{run}"}, payload=payload)
