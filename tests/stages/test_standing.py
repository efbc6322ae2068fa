"""What was decided stays decided when the study changes elsewhere."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddiff_core.artefacts import write_json
from meddiff_core.contract import Contract
from meddiff_core.diffusion import sizing
from meddiff_core.diffusion.sizing import infer_plan
from meddiff_core.models.plan import Plan
from meddiff_core.stages.standing import last_plan, standing_decisions
from meddiff_core.workspace import Workspace

Change = Callable[..., Workspace]
SMALL: dict[str, Any] = {
    "plan": {"latent_factor": 4},
    "train": {
        "autoencoder": {"channels": [8, 8, 8]},
        "denoiser": {"channels": [32, 32], "batch": 2},
    },
}


@pytest.fixture
def change(tmp_path: Path) -> Change:
    """(**changes of keys with `__` for dots) -> the study with them."""

    def make(**changes: Any) -> Workspace:
        content: dict[str, Any] = deepcopy({"name": "knees", "data": {"images": "scans"}, **SMALL})
        for key, value in changes.items():
            *sections, last = key.split("__")
            section = content
            for name in sections:
                section = section.setdefault(name, {})
            section[last] = value
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        return Workspace.open(tmp_path)

    return make


@pytest.fixture
def planned(change: Change, contract: Contract, finish: Callable[..., Plan]) -> Plan:
    """The plan of the unchanged study, which lies in its folder."""
    workspace = change()
    for name in ("fingerprint", "split"):
        write_json(workspace.path(name), {})
        workspace.record(name, f"digest of {name}", workspace.inputs(name), {})
    plan = finish(infer_plan(contract, {"size": "because"}, workspace.study, 10, "cpu"))
    write_json(workspace.path("plan"), plan)
    workspace.record("plan", workspace.plan_digest(), workspace.inputs("plan"), {})
    return plan


def standing(workspace: Workspace, contract: Contract) -> set[str]:
    return set(standing_decisions(workspace, last_plan(workspace), contract))


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({}, {"autoencoder", "denoiser"}),
        ({"train__denoiser__steps": 7}, {"autoencoder"}),
        ({"train__denoiser__batch": None}, {"autoencoder", "denoiser"}),
        ({"train__autoencoder__steps": 7}, {"denoiser"}),
        ({"train__autoencoder__channels": [8, 8, 16]}, {"denoiser"}),
        ({"train__autoencoder__kl_weight": 0.5}, {"autoencoder", "denoiser"}),
        ({"plan__memory_gb": 100}, {"autoencoder", "denoiser"}),
        ({"plan__memory_gb": 0.001}, set()),
        ({"plan__budget_minutes": 5}, set()),
        ({"plan__budget_minutes": 5, "train__autoencoder__steps": 7}, set()),
        ({"plan__latent_factor": 2}, set()),
        ({"plan__latent_factor": None}, {"autoencoder", "denoiser"}),
    ],
)
def test_a_decision_stands_until_the_study_contradicts_it(
    planned: Plan, change: Change, contract: Contract, changes: dict[str, Any], stands: set[str]
) -> None:
    assert standing(change(**changes), contract) == stands


def test_the_very_values_of_the_plan_contradict_nothing(planned: Plan, change: Change, contract: Contract) -> None:
    given = {
        "train__autoencoder__steps": planned.autoencoder_training.steps,
        "train__autoencoder__batch": planned.autoencoder_training.batch,
        "train__denoiser__steps": planned.denoiser_training.steps,
        "train__denoiser__augmentations": list(planned.augmentations),
    }
    assert standing(change(**given), contract) == {"autoencoder", "denoiser"}


def test_other_scans_or_another_grid_leave_nothing_standing(planned: Plan, change: Change, contract: Contract) -> None:
    assert standing(change(), contract.model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})) == set()
    workspace = change()
    workspace.record("fingerprint", "another digest", {}, {})
    assert last_plan(workspace) is None


def test_what_stands_is_not_measured_again(
    planned: Plan, change: Change, contract: Contract, finish: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    cost = sizing.Cost(1.0, 0.0, 0.1)
    monkeypatch.setattr(sizing, "_autoencoder_cost", lambda *_: measured.append("autoencoder") or cost)
    monkeypatch.setattr(sizing, "_denoiser_cost", lambda *_: measured.append("denoiser") or cost)
    workspace = change(train__denoiser__steps=7)
    kept = standing_decisions(workspace, last_plan(workspace), contract)
    plan = finish(infer_plan(contract, {"size": "because"}, workspace.study, 10, "cpu", kept))
    assert measured == ["denoiser"]
    assert plan.autoencoder_training == planned.autoencoder_training
    assert plan.reasons["autoencoder_training"] == planned.reasons["autoencoder_training"]
    assert plan.denoiser_training.steps == 7


def test_a_plan_made_again_of_what_stands_is_the_same(
    planned: Plan, change: Change, contract: Contract, finish: Callable[..., Plan]
) -> None:
    workspace = change(train__autoencoder__steps=planned.autoencoder_training.steps)
    kept = standing_decisions(workspace, last_plan(workspace), contract)
    assert finish(infer_plan(contract, {"size": "because"}, workspace.study, 10, "cpu", kept)) == planned


def test_a_denoiser_does_not_stand_on_latents_of_another_shape(
    planned: Plan, change: Change, contract: Contract, finish: Callable[..., Plan]
) -> None:
    workspace = change(train__autoencoder__latent_channels=6)
    kept = standing_decisions(workspace, last_plan(workspace), contract)
    assert set(kept) == {"denoiser"}
    plan = finish(infer_plan(contract, {"size": "because"}, workspace.study, 10, "cpu", kept))
    assert plan.denoiser.latent_channels == 6
