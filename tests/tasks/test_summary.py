"""What is said of a plan before any training starts."""

import pytest

from meddiff_core.models.plan import Plan, TrainingPlan
from tasks.summary import _estimate

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
