"""A condition that no label map shows chooses the best of n as far as latents were found to tell it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from meddiff_core.contract import CategoricalCondition, Condition, ContinuousCondition
from meddiff_core.generation.predictors import (
    RELIABLE,
    Predictors,
    fit_predictors,
    latent_features,
    load_predictors,
    reliability,
    save_predictors,
)
from meddiff_core.types import Latents

SPECS = (
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=15),
    CategoricalCondition(name="sex", categories=("F", "M")),
    ContinuousCondition(name="noise", low=0, high=1, mean=0.5, std=0.3),
    ContinuousCondition(name="left_mm3", low=0, high=9, mean=5, std=2, group="left"),
)


def people(count: int, seed: int) -> tuple[Latents, list[Condition]]:
    """Latents whose left half follows age and whose right half follows sex, with gaps in the table."""
    random = np.random.default_rng(seed)
    ages, men = random.uniform(20, 80, count), random.integers(0, 2, count)
    latents = torch.from_numpy(random.normal(size=(count, 2, 6, 6, 6)).astype(np.float32))
    latents[:, 0, :3] += torch.from_numpy((ages - 50) / 60).float()[:, None, None, None]
    latents[:, 1, 3:] += torch.from_numpy(men - 0.5).float()[:, None, None, None]
    rows: list[Condition] = [
        {"age": None if n % 7 == 3 else float(ages[n]), "sex": "FM"[men[n]], "noise": float(random.random())}
        for n in range(count)
    ]
    return latents, rows


@pytest.fixture(scope="module")
def predictors() -> Predictors:
    sides = [(latent_features(latents), rows) for latents, rows in (people(120, 0), people(40, 1))]
    return fit_predictors(SPECS, *sides)


def test_what_latents_tell_is_found_and_what_they_do_not_is_known_to_be_unreliable(predictors: Predictors) -> None:
    told = reliability(predictors)
    assert list(told) == ["age", "sex F", "sex M", "noise"]
    assert min(told["age"], told["sex F"], told["sex M"]) > 0.8
    assert told["noise"] < RELIABLE
    assert not predictors.useful({"noise": 0.5, "left_mm3": 5.0, "age": None})
    assert predictors.useful({"sex": "F"})


def test_reliability_is_that_of_volumes_that_were_not_fitted() -> None:
    """With more features than volumes everything fits the training side."""
    latents, rows = people(20, 2)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    found = fit_predictors(SPECS, (latent_features(noise), rows), (latent_features(noise.flip(0)), rows))
    assert not found.useful({"age": 30.0, "sex": "F"})


def test_the_distance_is_smallest_at_what_the_volume_is(predictors: Predictors) -> None:
    latents, rows = people(60, 3)
    right = sum(
        predictors.distance(latents[[n]], {"sex": row["sex"]})
        < predictors.distance(latents[[n]], {"sex": "F" if row["sex"] == "M" else "M"})
        for n, row in enumerate(rows)
    )
    assert right > 54
    ages = np.linspace(20, 80, 25)
    nearest = [ages[np.argmin([predictors.distance(one[None], {"age": age}) for age in ages])] for one in latents]
    known = [n for n, row in enumerate(rows) if row["age"] is not None]
    slope = np.polyfit([float(rows[n]["age"] or 0) for n in known], [nearest[n] for n in known], 1)[0]
    assert slope == pytest.approx(1, abs=0.2), "a ridge shrinks, and that must not pull every sample to the mean"


def test_what_is_not_asked_for_counts_nothing(predictors: Predictors) -> None:
    latents, _ = people(1, 4)
    assert predictors.distance(latents, {"noise": 0.1, "left_mm3": 3.0}) == 0
    both = predictors.distance(latents, {"age": 30.0, "sex": "M"})
    assert both == pytest.approx(
        predictors.distance(latents, {"age": 30.0}) + predictors.distance(latents, {"sex": "M"})
    )


def test_features_of_a_volume_depend_on_no_other() -> None:
    latents, _ = people(5, 5)
    together = latent_features(latents)
    assert all(np.array_equal(latent_features(latents[[n]])[0], together[n]) for n in range(5))


def test_predictors_come_back_as_they_were_saved(predictors: Predictors, tmp_path: Path) -> None:
    save_predictors(tmp_path / "predictors", predictors)
    found = load_predictors(tmp_path / "predictors")
    assert found.targets == predictors.targets
    assert np.array_equal(found.weights, predictors.weights)
    assert load_predictors(tmp_path / "none").targets == ()


def test_too_few_volumes_predict_nothing() -> None:
    latents, rows = people(6, 6)
    side = latent_features(latents), rows
    assert fit_predictors(SPECS, side, side).targets == ()
