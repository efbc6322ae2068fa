"""The chain's table and what makes its artefacts fit together."""

from pathlib import Path

import pytest

from meddiff_core.errors import ConfigurationError
from meddiff_core.stages.chain import MAKERS, kept, make_missing
from meddiff_core.stages.making import Made, Resources
from meddiff_core.stages.readiness import version_taken
from meddiff_core.study import Study
from meddiff_core.types import Message, Progress, Work
from meddiff_core.workspace import CHAIN, Workspace


def test_every_artefact_has_a_maker_and_they_are_made_in_the_order_of_the_chain() -> None:
    assert list(MAKERS) == list(CHAIN)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(Study.model_validate({"name": "knees", "data": {"images": "scans"}}), tmp_path)


def make_count(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Stands for a maker: the digest is the number of calls."""
    path = workspace.path("fingerprint")
    calls = len(path.read_text()) + 1 if path.exists() else 1
    yield Progress("count", 1, 1)
    path.write_text("x" * calls)
    return Made(str(calls), {"calls": calls})


def test_what_is_up_to_date_is_left_as_it_is_and_what_is_not_says_why(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAKERS, "fingerprint", make_count)
    names = ["fingerprint"]

    def said() -> list[str]:
        return [event.text for event in make_missing(workspace, names, Resources("cpu")) if isinstance(event, Message)]

    assert said() == ["fingerprint: to be made"]
    assert said() == ["fingerprint: up to date"]
    workspace.record("inventory", "other scans", {}, {})
    assert said() == ["fingerprint: inventory changed"]
    record = workspace.ledger.read("fingerprint")
    assert record is not None
    assert (record.digest, record.summary["calls"]) == ("2", 2)
    assert record.summary.keys() == {"calls", "minutes"}


def test_scans_are_looked_at_in_every_run(workspace: Workspace) -> None:
    workspace.path("inventory").write_text("{}")
    workspace.record("inventory", "digest", workspace.inputs("inventory"), {})
    assert workspace.state("inventory").condition == "done"
    assert kept(workspace, "inventory") is None


def test_an_edited_plan_is_not_made_anew_and_refuses_another_study(workspace: Workspace) -> None:
    workspace.path("plan").write_text('{"denoiser_training": {"steps": 7}}')
    workspace.record("plan", "digest before the edit", {}, {})
    with pytest.raises(ConfigurationError, match=r"plan\.json was edited, and the scans or the study changed"):
        kept(workspace, "plan")


def test_a_version_that_is_taken_is_said_before_what_changes_it_is_made(workspace: Workspace) -> None:
    for name in ("inventory", "audit"):
        workspace.path(name).write_text("{}")
        workspace.record(name, f"digest of {name}", workspace.inputs(name), {})
    (workspace.path("release") / "knees-1.0.0").mkdir(parents=True)
    workspace.record("inventory", "a file was touched", {}, {})
    assert version_taken(workspace) is None
    workspace.record("cohort", "another cohort", {}, {})
    assert "1.0.0 exists and is never overwritten, and audit is made anew" in str(version_taken(workspace))
    renamed = Study.model_validate({"name": "knees", "data": {"images": "scans"}, "release": {"version": "2.0.0"}})
    assert version_taken(Workspace(renamed, workspace.folder)) is None
