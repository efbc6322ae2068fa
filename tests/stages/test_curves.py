"""Training curves lie beside the models, survive a kill, and change no digest of a model."""

import json
from pathlib import Path

import pytest

from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.stages import curves
from meddiff_core.stages.curves import read_curves, record_curves
from meddiff_core.study import Study
from meddiff_core.types import Message, Progress, Work
from meddiff_core.workspace import Workspace

STEPS = 6


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(curves, "WRITE_EVERY_S", 0.0)
    return Workspace(Study.model_validate({"name": "knees", "data": {"images": "scans"}}), tmp_path)


def training(first: int = 0, offset: float = 0.0) -> Work[str]:
    """Losses that fall by step, from the step after `first`, with one validation."""
    yield Message("training")
    for step in range(first + 1, STEPS + 1):
        yield Progress("train", step, STEPS, {"loss": offset + 1 / step} | ({"once": 1.0} if step == STEPS else {}))
    return "facts"


def run(workspace: Workspace, work: Work[str], key: str = "key", name: str = "autoencoder") -> tuple[list[object], str]:
    recorded, seen = record_curves(workspace, name, key, work), list[object]()
    while True:
        try:
            seen.append(next(recorded))
        except StopIteration as end:
            return seen, end.value


def test_what_a_training_yields_passes_unchanged_and_is_kept(workspace: Workspace) -> None:
    assert run(workspace, training()) == (list(training()), "facts")
    run(workspace, training(offset=5), name="denoiser")  # the same metric of another model would overwrite it
    assert read_curves(workspace) == {"loss": [(step, 5 + 1 / step) for step in range(1, STEPS + 1)]}


def test_a_killed_training_that_resumes_has_the_curves_of_one_that_was_never_killed(workspace: Workspace) -> None:
    run(workspace, training())
    whole = (workspace.folder / "models" / "autoencoder.curves.json").read_bytes()
    run(workspace, training(), key="another")
    killed = record_curves(workspace, "autoencoder", "key", training())
    for _ in range(5):
        next(killed)
    killed.close()
    run(workspace, training(first=2))
    assert (workspace.folder / "models" / "autoencoder.curves.json").read_bytes() == whole


def test_another_training_keeps_nothing_of_the_one_before(workspace: Workspace) -> None:
    run(workspace, training())
    run(workspace, training(first=4), key="another")
    assert [step for step, _ in read_curves(workspace)["loss"]] == [5, 6]


def test_a_value_that_is_not_finite_is_left_out(workspace: Workspace) -> None:
    def diverging() -> Work[str]:
        yield from (
            Progress("train", step, 3, {"loss": loss}) for step, loss in ((1, 1.0), (2, float("nan")), (3, 2.0))
        )
        return ""

    run(workspace, diverging())
    assert read_curves(workspace) == {"loss": [(1, 1.0), (3, 2.0)]}


def test_curves_are_no_part_of_the_digest_of_a_model(workspace: Workspace) -> None:
    model = workspace.path("autoencoder")
    model.mkdir(parents=True)
    (model / "facts.json").write_text(json.dumps({"steps": 1}))
    before = digest_checkpoint(model)
    run(workspace, training())
    assert digest_checkpoint(model) == before


def test_a_study_without_curves_has_none(workspace: Workspace) -> None:
    assert read_curves(workspace) == {}


def test_a_model_that_was_just_trained_has_the_digest_that_its_record_will_give(workspace: Workspace) -> None:
    workspace.record("autoencoder", "a", {}, {})
    before = workspace.models_digest(denoiser="d")
    assert before != workspace.models_digest()
    workspace.record("denoiser", "d", {}, {})
    assert workspace.models_digest() == before
