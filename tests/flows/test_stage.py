"""A record never speaks of other bytes than lie beside it, wherever the run before was killed."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prefect
import pytest

from meddiff_core.errors import ConfigurationError
from meddiff_core.stages import chain
from meddiff_core.stages.making import Made, Resources
from meddiff_core.types import Progress, Work
from meddiff_core.workspace import Workspace
from tasks.finished import run_stage
from tasks.stage import make, open_stage
from tasks.tracking import runs

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
Run = Callable[..., Any]
CALLS = "calls"


def write_modality(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Stands for any maker: makes an artefact from a setting, and dies half-way where it is asked to."""
    modality = str(workspace.study.data.modality)
    with (workspace.folder / CALLS).open("a") as file:
        file.write(f"{modality} ")
    yield Progress("write", 0, 1)
    workspace.replaced("fingerprint").write_text("half")
    if (workspace.folder / "die").exists():
        raise RuntimeError("killed")
    workspace.path("fingerprint").write_text(modality)
    return Made(modality, {})


@prefect.flow(name="stage")
def make_one(study: str) -> str:
    with open_stage(study, "prepare") as workspace:
        return make(workspace, "fingerprint").digest


@dataclass(frozen=True)
class Stage:
    """A study in which one artefact is made."""

    folder: Path
    write_study: Run

    def make(self, modality: str) -> tuple[str, str, str]:
        """The recorded digest, the text on disk, and what all calls of the maker so far were for."""
        self.write_study(self.folder, data={"modality": modality})
        digest = make_one(str(self.folder))
        return digest, (self.folder / "fingerprint.json").read_text(), (self.folder / CALLS).read_text().strip()

    def die(self, modality: str) -> None:
        """The same, but the maker does not end."""
        (self.folder / "die").touch()
        with pytest.raises(RuntimeError, match="killed"):
            self.make(modality)
        (self.folder / "die").unlink()


@pytest.fixture(scope="module")
def untold() -> Iterator[None]:
    """What is logged waits: no process is started to send it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "sending", lambda outbox: nullcontext())
        yield


@pytest.fixture
def stage(
    prefect_api: None,
    untold: None,
    new_study: Run,
    write_study: Run,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Stage:
    monkeypatch.setattr(chain, "MAKERS", {"fingerprint": write_modality})
    return Stage(new_study(request.node.name), write_study)


def test_what_is_up_to_date_is_not_made_again(stage: Stage) -> None:
    stage.make("MR")
    assert stage.make("MR") == ("MR", "MR", "MR")


def test_an_artefact_whose_record_was_lost_is_made_again(stage: Stage) -> None:
    """As when the process dies between the two: its bytes are not known."""
    stage.make("MR")
    Workspace.open(stage.folder).ledger.forget("fingerprint")
    assert stage.make("MR") == ("MR", "MR", "MR MR")


def test_a_result_from_before_another_one_is_not_taken_for_the_present_one(stage: Stage) -> None:
    stage.make("MR")
    stage.make("CT")
    assert stage.make("MR") == ("MR", "MR", "MR CT MR")


def test_going_back_after_a_kill_makes_the_artefact_again(stage: Stage) -> None:
    stage.make("MR")
    stage.die("CT")
    assert stage.make("MR") == ("MR", "MR", "MR CT MR")


def test_an_older_result_does_not_stand_for_an_attempt_that_was_killed(stage: Stage) -> None:
    stage.make("MR")
    stage.make("CT")
    stage.die("MR")
    assert stage.make("MR") == ("MR", "MR", "MR CT MR MR")


def test_what_was_deleted_is_made_again_even_after_a_kill(stage: Stage) -> None:
    stage.make("MR")
    (stage.folder / "fingerprint.json").unlink()
    stage.die("MR")
    assert stage.make("MR") == ("MR", "MR", "MR MR MR")


def test_a_stage_without_what_it_needs_names_the_command(prefect_api: None, untold: None, new_study: Run) -> None:
    with pytest.raises(
        ConfigurationError, match=r"dataset must be up to date, is missing; run `meddiff prepare` first"
    ):
        prefect.flow(lambda: run_stage(str(new_study("needs")), "train"), name="needs")()
