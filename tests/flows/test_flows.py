"""Flows: their names, and how they fail."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from meddiff_core.errors import DataRefused
from meddiff_core.workspace import CHAIN

Run = Callable[..., Any]


@pytest.mark.parametrize("name", ["prepare", "train", "generate", "screen", "audit", "release", "synthesize"])
def test_a_flow_is_called_as_its_module(name: str) -> None:
    found = getattr(importlib.import_module(f"flows.{name}"), name)
    assert isinstance(found, prefect.Flow)
    assert found.name == name
    assert list(found.parameters.properties) == ["study", *["grow"] * (name == "synthesize")]


def test_every_artefact_is_made_by_a_flow() -> None:
    assert {artefact.stage for artefact in CHAIN.values()} == {
        "prepare", "train", "generate", "screen", "audit", "release",
    }  # fmt: skip


@pytest.mark.server
@pytest.mark.timeout(600)
def test_a_flow_without_scans_fails_with_its_reason(prefect_api: None, new_study: Run, tmp_path: Path) -> None:
    from flows.prepare import plan

    state = plan(str(new_study("no-scans", data={"images": str(tmp_path)})), return_state=True)
    assert state.is_failed()
    with pytest.raises(DataRefused, match="no scans"):
        state.result()


@pytest.mark.server
@pytest.mark.timeout(600)
def test_a_failing_task_fails_its_flow_and_a_refusal_is_not_tried_again(
    prefect_api: None, new_study: Run, tmp_path: Path
) -> None:
    from flows.prepare import plan

    (tmp_path / "scan.nii.gz").write_bytes(b"no image")
    folder = new_study("bad-scans", data={"images": str(tmp_path), "labels": None, "mask": "none", "covariates": {}})
    state = plan(str(folder), return_state=True)
    assert state.is_failed()
    with pytest.raises(DataRefused, match="all 1 were refused"):
        state.result()
    assert runs_of_tasks(state) == [("fingerprint", 1, "Failed"), ("inventory", 1, "Completed")]


def runs_of_tasks(state: Any) -> list[tuple[str, int, str]]:
    """Name, tries and last state of the tasks of a flow's run."""
    of_flow = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=of_flow)
    return sorted((run.name, run.run_count, run.state_name) for run in runs)
