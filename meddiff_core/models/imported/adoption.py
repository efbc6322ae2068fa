"""Imported models in a study: its plan follows them, and they become its own as they are or by training on.

A grid, a network or an intensity range that the plan had chosen for itself would make nonsense of weights that
were trained with others, without any error.
"""

from pathlib import Path
from typing import Any

from meddiff_core.contract import Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.checkpoint import load_checkpoint, save_checkpoint
from meddiff_core.models.imported.description import Recipe
from meddiff_core.models.plan import Plan, TrainingPlan, check_plan
from meddiff_core.study import TrainConfig

IMPORTED = "imported"
"""Where a study keeps the models that it imported."""


def follow_models(plan: Plan, recipe: Recipe, config: TrainConfig) -> Plan:
    """The plan with the contract and the networks of imported models.

    They are used as they are, or trained on for the steps that the study gives.

    Raises:
        ConfigurationError: what these scans cannot be brought to, or steps for the autoencoder alone.
    """
    _check_scans(plan.contract, recipe.contract)
    steps = {"autoencoder_training": config.autoencoder.steps or 0, "denoiser_training": config.denoiser.steps or 0}
    trainings = {name: _training(getattr(plan, name), count) for name, count in steps.items()}
    taken = "Of the imported models."
    reasons = dict.fromkeys(("spacing_mm", "size", "intensity", "mask", "labels", "conditions"), taken)
    reasons |= {name: _reason(count) for name, count in steps.items()}
    networks = {"autoencoder": recipe.autoencoder, "denoiser": recipe.denoiser}
    changes = {"contract": recipe.contract, "start_from": IMPORTED, "reasons": reasons, **networks, **trainings}
    followed = plan.model_copy(update=changes)
    check_plan(followed)
    return followed


def _check_scans(ours: Contract, theirs: Contract) -> None:
    """What follows from the scans and from how they are measured, whatever the contract says."""
    for key, must, found, why in (
        ("intensity.modality", ours.intensity.modality, theirs.intensity.modality, "as the scans"),
        ("intensity.percentiles", ours.intensity.percentiles, theirs.intensity.percentiles, "as scans are measured"),
        ("mask", ours.mask, theirs.mask, "as data.mask of the study"),
    ):
        if must != found:
            raise ConfigurationError(f"contract.{key}: must be {must} {why}, is {found}")


def _training(planned: TrainingPlan, steps: int) -> TrainingPlan:
    """What was measured was measured on other networks."""
    return planned.model_copy(
        update={"steps": steps, "seconds_per_step": None, "seconds_besides": 0.0, "memory_gb": None}
    )


def _reason(steps: int) -> str:
    if steps:
        return f"{steps} steps on from the imported weights: given by the study; time and memory were not measured."
    return "The imported weights as they are; to train on from them, give the steps."


def adopt_model(start: Path, target: Path, contract: Contract, facts: dict[str, Any]) -> None:
    """Copy a checkpoint as it is, with some facts of its new place.

    Raises:
        ConfigurationError: it is of another contract.
    """
    tensors, own = load_checkpoint(start)
    if differences := Contract.model_validate(own["contract"]).differences(contract):
        raise ConfigurationError(f"plan.json start_from: contract must be that of the plan; {'; '.join(differences)}")
    save_checkpoint(target, tensors, own | facts)
