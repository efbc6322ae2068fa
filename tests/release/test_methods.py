"""The methods text says where the models come from and how they were chosen, and only that."""

from typing import Any

import pytest

from meddiff_core.contract import ContinuousCondition, Contract, IntensityMapping
from meddiff_core.diffusion.checkpoint_selection import ScoredCheckpoint, SelectionRecord, describe_selection
from meddiff_core.diffusion.solvers import SOLVERS
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.models.preconditioning import RectifiedFlow
from meddiff_core.release.methods import describe_methods
from meddiff_core.study import DataConfig, SamplingConfig, Study

UNGUIDED = SamplingConfig(guidance=1.0)
SIDES = {"train": 6, "validation": 2, "holdout": 2}


@pytest.fixture
def plan() -> Plan:
    training = TrainingPlan(steps=70, batch=2, seconds_per_step=1.0, memory_gb=1.0)
    intensity = IntensityMapping(modality="MR", low=0, high=100, percentiles=(0.5, 99.5))
    return Plan(
        contract=Contract(
            spacing_mm=2.0, size=(16, 16, 16), intensity=intensity, mask="none", labels={}, conditions=()
        ),
        autoencoder=AutoencoderShape(in_channels=1, channels=(8, 8), latent_channels=3),
        autoencoder_training=training,
        denoiser=DenoiserShape(latent_channels=3, channels=(32,)),
        denoiser_training=training,
        device="cpu",
        reasons={},
    )


def methods(plan: Plan, **sampling: int) -> str:
    settings = UNGUIDED.model_copy(update=sampling)
    return " ".join(
        describe_methods(Study(name="heads", data=DataConfig(images="scans"), sampling=settings), plan, SIDES)
    )


def test_models_trained_here_are_said_to_be(plan: Plan) -> None:
    text = methods(plan)
    assert "AutoencoderKL, 70 steps of 2 volumes) was trained" in text
    assert "EDM preconditioning, 70 steps of 2 latents) was trained" in text
    assert "elsewhere" not in text


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        ({}, "without guidance"),
        ({"guidance": 2.0}, "with classifier-free guidance (weight 2)"),
        ({"guidance": 1.5, "guided_by": "autoguidance"}, "with autoguidance (weight 1.5)"),
    ],
)
def test_guidance_is_that_of_the_study(plan: Plan, sampling: dict[str, Any], text: str) -> None:
    study = Study(
        name="heads", data=DataConfig(images="scans"), sampling=SamplingConfig(**({"guidance": 1.0} | sampling))
    )
    assert text in " ".join(describe_methods(study, plan, SIDES))


def test_grain_is_declared_where_volumes_have_it(plan: Plan) -> None:
    assert "grain was added within the foreground" in methods(plan)
    assert "grain" not in methods(plan, grain=False)


def test_the_best_of_n_is_said_to_be_where_there_was_something_to_choose_by(plan: Plan) -> None:
    assert "rejection sampling" not in methods(plan)
    volume = ContinuousCondition(name="left_mm3", low=0, high=9, mean=5, std=2, group="left")
    contract = plan.contract.model_copy(update={"labels": {"left": (1,)}, "conditions": (volume,)})
    measurable = plan.model_copy(update={"contract": contract})
    assert "Of 4 volumes from different noise for each request" in methods(measurable)
    assert "measured as left_mm3 on the label map: rejection sampling" in methods(measurable)
    assert "compared by drafts over 5 noise levels, was sampled in full" in methods(measurable, draft_steps=5)
    study = Study(name="heads", data=DataConfig(images="scans"), sampling=UNGUIDED)
    text = " ".join(describe_methods(study, measurable, SIDES, predicted=["age"]))
    assert "left_mm3 on the label map and as age by a regression from latents: rejection" in text
    single = Study(name="heads", data=DataConfig(images="scans"), sampling=SamplingConfig(guidance=1, best_of=1))
    assert "rejection sampling" not in " ".join(describe_methods(single, measurable, SIDES))


def test_imported_models_are_said_to_be_and_what_that_means_for_the_holdout(plan: Plan) -> None:
    kept = TrainingPlan(steps=0, batch=2)
    shape = plan.denoiser.model_copy(update={"parametrisation": RectifiedFlow()})
    changes = {"autoencoder_training": kept, "denoiser": shape, "start_from": "imported"}
    text = methods(plan.model_copy(update=changes))
    assert "An autoencoder (MONAI AutoencoderKL) was used as it had been trained elsewhere" in text
    assert "velocity of a rectified flow, on from imported weights, 70 steps of 2 latents) was trained" in text
    assert "a held-out scan that they were trained on is not held out from them" in text


def test_the_choice_of_weights_has_a_sentence_where_there_was_one(plan: Plan) -> None:
    study = Study(name="heads", data=DataConfig(images="scans"), sampling=UNGUIDED)
    point = ScoredCheckpoint(
        step=60, average="0.1", validation_distance=1.0, train_distance=1.0, nearer_train=0.5, nearer_train_low=0.2
    )
    selection = SelectionRecord(step=60, average="0.1", curve=(point,))
    without, described = describe_methods(study, plan, SIDES), describe_methods(study, plan, SIDES, selection)
    assert [sentence for sentence in described if sentence not in without] == [describe_selection(selection)]
    assert "after 60 steps" in " ".join(described)


@pytest.mark.parametrize("solver", [*SOLVERS, "ancestral"])
def test_solver_and_levels_are_those_of_the_study(plan: Plan, solver: str) -> None:
    sampling = SamplingConfig.model_validate(
        {"guidance": 1, "solver": solver, "steps": 30, "sigmas": [40, 2.5, 0.3, 0.02]}
    )
    study = Study(name="heads", data=DataConfig(images="scans"), sampling=sampling)
    text = " ".join(describe_methods(study, plan, SIDES))
    assert f"over 4 noise levels ({7 if solver == 'heun' else 4} evaluations)" in text


@pytest.mark.parametrize(
    ("changes", "present", "absent"),
    [
        ({}, ["feature-matching", "patch-adversarial"], ["Fourier", "ImageNet", "Dice"]),
        ({"perceptual": "fft"}, ["Fourier spectrum"], ["feature-matching"]),
        ({"perceptual": "both"}, ["Fourier spectrum", "feature-matching"], ["ImageNet"]),
        ({"perceptual": "imagenet"}, ["ImageNet perceptual"], ["feature-matching"]),
        ({"perceptual": "none", "adversarial_weight": 0}, ["reconstruction"], ["matching", "adversarial", "spectrum"]),
        ({"perceptual_weight": 0}, ["patch-adversarial"], ["feature-matching"]),
    ],
)
def test_the_terms_of_the_loss_are_those_that_the_study_weighs(
    plan: Plan, changes: dict[str, object], present: list[str], absent: list[str]
) -> None:
    train = {"autoencoder": changes}
    study = Study.model_validate({"name": "heads", "data": {"images": "scans"}, "train": train, "sampling": UNGUIDED})
    text = " ".join(describe_methods(study, plan, SIDES))
    assert all(name in text for name in present)
    assert not any(name in text for name in absent)


def test_the_terms_of_label_maps_need_label_maps(plan: Plan) -> None:
    labelled = plan.model_copy(update={"contract": plan.contract.model_copy(update={"labels": {"left": (1,)}})})
    assert "label cross-entropy, Dice" in methods(labelled)
    assert "cross-entropy" not in methods(plan)
