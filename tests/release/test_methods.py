"""The methods text says what was done, and only that."""

from typing import Any

import pytest

from meddiff_core.diffusion.choice import ChoiceRecord, Point, describe_choice
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.release.methods import describe_methods
from meddiff_core.study import Study


@pytest.fixture
def plan(content: Any) -> Plan:
    training = TrainingPlan(steps=90, batch=2, seconds_per_step=2.0, memory_gb=0.1)
    return Plan(
        contract=content.contract.model_copy(update={"size": (16, 24, 16)}),
        autoencoder=AutoencoderShape(in_channels=5, channels=(8, 8, 8), latent_channels=2),
        autoencoder_training=training,
        denoiser=DenoiserShape(latent_channels=2, channels=(32, 32)),
        denoiser_training=training,
        device="cpu",
        reasons={},
    )


def test_the_choice_of_weights_has_a_sentence_where_there_was_one(plan: Plan) -> None:
    study = Study.model_validate({"name": "heads", "data": {"images": "scans"}})
    sides = {"train": 7, "validation": 2, "holdout": 3}
    point = Point(
        step=60, average="0.1", validation_distance=1.0, train_distance=1.0, nearer_train=0.5, nearer_train_low=0.2
    )
    choice = ChoiceRecord(step=60, average="0.1", curve=(point,))
    without, told = describe_methods(study, plan, sides), describe_methods(study, plan, sides, choice)
    assert [sentence for sentence in told if sentence not in without] == [describe_choice(choice)]
    assert "after 60 steps" in " ".join(told)
