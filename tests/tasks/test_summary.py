"""What is said of a plan before any training starts."""

from collections.abc import Callable

import pytest

from meddiff_core.contract import Contract
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.denoiser import DenoiserShape
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
    make_contract: Callable[..., Contract], autoencoder: TrainingPlan, denoiser: TrainingPlan, said: str
) -> None:
    plan = Plan(
        contract=make_contract(),
        autoencoder=AutoencoderShape(in_channels=4, channels=(8, 16), latent_channels=4),
        autoencoder_training=autoencoder,
        denoiser=DenoiserShape(latent_channels=4, channels=(32,)),
        denoiser_training=denoiser,
        device="cpu",
        reasons={},
    )
    assert _estimate(plan) == said
