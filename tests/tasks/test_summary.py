"""What is said of a plan before any training starts."""

from pathlib import Path

import pytest

from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.study import Study
from meddiff_core.workspace import CHAIN, Workspace
from tasks.plan_summary import _anew, _estimate

MEASURED = TrainingPlan(steps=60, batch=2, seconds_per_step=2.0, memory_gb=0.5)


@pytest.mark.parametrize(
    ("autoencoder", "denoiser", "said"),
    [
        (MEASURED, MEASURED.model_copy(update={"memory_gb": 1.25}), "4 minutes of training on cpu, 1.2 GB of memory"),
        (MEASURED, TrainingPlan(steps=60, batch=2), "not measured"),
        (TrainingPlan(steps=0, batch=2), MEASURED, "2 minutes of training on cpu, 0.5 GB of memory"),
        (TrainingPlan(steps=0, batch=2), TrainingPlan(steps=0, batch=2), "nothing to train"),
    ],
    ids=["both measured", "one trained in parts", "one imported", "both imported"],
)
def test_the_estimate_holds_only_what_was_measured(
    plan: Plan, autoencoder: TrainingPlan, denoiser: TrainingPlan, said: str
) -> None:
    assert (
        _estimate(plan.model_copy(update={"autoencoder_training": autoencoder, "denoiser_training": denoiser})) == said
    )


def test_what_a_change_makes_anew_is_reported_with_its_time(tmp_path: Path) -> None:
    workspace = Workspace(
        Study.model_validate({"name": "knees", "data": {"images": "scans"}, "sampling": {"guidance": 1.0}}), tmp_path
    )
    assert _anew(workspace) == []  # nothing was made yet
    for name in CHAIN:
        workspace.path(name).parent.mkdir(parents=True, exist_ok=True)
        workspace.path(name).write_text("{}")
    for name in CHAIN:
        workspace.record(name, f"digest of {name}", workspace.inputs(name), {"minutes": 1.5})
    assert _anew(workspace) == []
    changed = workspace.study.model_copy(update={"release": workspace.study.release.model_copy(update={"title": "K"})})
    assert _anew(Workspace(changed, tmp_path)) == [
        "made again            report 1.5, release 1.5; about 3 minutes, as the last time"
    ]
