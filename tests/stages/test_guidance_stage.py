"""The guidance of a study: a number as it is, or measured on samples of the validation scans' conditions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddiff_core.contract import Condition, ContinuousCondition, Contract
from meddiff_core.generation.engine import Engine
from meddiff_core.generation.predictors import load_predictors
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.latents import encode_latents
from meddiff_core.stages import guidance
from meddiff_core.stages.guidance import Lines, choose_guidance, make_predictors, read_choice
from meddiff_core.stages.making import Resources
from meddiff_core.study import CalibrationConfig, Study
from meddiff_core.types import LabelArray, StoredArray
from meddiff_core.workspace import Workspace

HERE = Resources("cpu")
SIDE, COUNT = 8, 9
LINES = (CalibrationConfig(condition="left_mm3", intercept=300, slope=0.5),)
SAMPLING = {"steps": 2, "sigma_max": 5.0, "sigma_min": 0.4, "best_of": 2}


class Noise:
    """Volumes of noise."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed).integers(0, 255, (COUNT, SIDE, SIDE, SIDE))

    def __len__(self) -> int:
        return COUNT

    def image(self, index: int) -> StoredArray:
        return self._random[index].astype(np.uint8)

    def label(self, index: int) -> LabelArray:
        return (self._random[index] % 3).astype(np.uint8)


class Sides:
    """Stands for the data set: what is asked of it here."""

    def __init__(self, contract: Contract, asked: list[str]) -> None:
        self.contract, self._asked = contract, asked

    def conditions(self, side: str) -> list[Condition]:
        self._asked.append(side)
        rows = ({"age": 30.0 + n * n % 7, "sex": "FM"[n % 2], "left_mm3": 800.0 + 200 * n} for n in range(COUNT))
        known = {spec.name for spec in self.contract.conditions}
        return [{name: value for name, value in row.items() if name in known} for row in rows]


Open = Callable[..., Workspace]


@pytest.fixture
def asked() -> list[str]:
    """Sides whose conditions were looked at."""
    return []


@pytest.fixture
def trained(
    tmp_path: Path,
    make_contract: Callable[..., Any],
    save_models: Callable[..., Path],
    finish: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
) -> Open:
    """(sampling, measurable) to a study whose models were made."""

    def make(measurable: bool = True, **sampling: Any) -> Workspace:
        left = ContinuousCondition(name="left_mm3", low=0, high=4096, mean=1500, std=500, group="left")
        specs = make_contract().conditions
        contract = make_contract(size=(SIDE,) * 3, conditions=(*specs, left) if measurable else specs)
        study = {"name": "knees", "data": {"images": "scans"}, "sampling": SAMPLING | sampling}
        workspace = Workspace(Study.model_validate(study), tmp_path)
        if not workspace.path("latents").exists():
            network, _ = load_autoencoder(save_models(tmp_path / "models", contract) / "autoencoder")
            sides = {"train": Noise(0), "validation": Noise(1)}
            finish(encode_latents(workspace.path("latents"), network, sides, contract))
        monkeypatch.setattr(guidance.Dataset, "open", lambda folder: Sides(contract, asked))
        monkeypatch.setattr(guidance, "SAMPLES", 8)
        return workspace

    return make


def make(workspace: Workspace, finish: Callable[..., Any], resources: Resources = HERE) -> dict[str, Any]:
    made = finish(choose_guidance(workspace, resources))
    assert made.summary == {"guidance": read_choice(workspace).guidance}
    return dict(json.loads(workspace.path("guidance").read_text()))


def refuse(*arguments: object, **more: object) -> None:
    raise AssertionError("nothing is to be sampled")


def backwards(function: Callable[[Any], Any], items: Sequence[Any]) -> Any:
    """A `Mapper` that is ready in another order."""
    for position in reversed(range(len(items))):
        yield position, function(items[position])


def test_a_weight_of_the_study_is_taken_as_it_is_and_costs_nothing(
    trained: Open, finish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "sample_nearest", refuse)
    found = make(trained(guidance=2.5), finish)
    assert (found["guidance"], found["interval"], found["why"], found["measured"]) == (2.5, None, "given", [])


def test_where_no_volume_can_be_asked_for_there_is_no_guidance_and_nothing_is_sampled(
    trained: Open, finish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "sample_nearest", refuse)
    workspace = trained(measurable=False)
    assert make(workspace, finish)["why"] == "nothing measurable"
    assert workspace.sampling.guidance == 1


def test_samples_are_measured_at_each_weight_whatever_the_order_of_the_work(
    trained: Open, finish: Callable[..., Any], asked: list[str]
) -> None:
    workspace = trained()
    found = make(workspace, finish)
    assert set(asked) == {"validation"}, "training conditions would praise memory, and the holdout is sealed"
    assert [one["guidance"] for one in found["measured"]] == [1, 1.5, 2, 3]
    assert len({one["distance"]["value"] for one in found["measured"]}) == 4
    assert [one["following"][0]["condition"] for one in found["measured"]] == ["left_mm3"] * 4
    assert make(workspace, finish, Resources("cpu", backwards)) == found
    assert workspace.sampling.guidance == found["guidance"]
    assert list((workspace.folder / "figures").iterdir()) == [workspace.folder / "figures" / "guidance.png"]


def test_the_best_of_n_is_measured_as_the_cohort_will_have_them(trained: Open, finish: Callable[..., Any]) -> None:
    one, four = (make(trained(best_of=count), finish) for count in (1, 4))
    assert (one["best_of"], four["best_of"]) == (1, 4)
    slopes = [[line["following"][0]["slope"] for line in found["measured"]] for found in (one, four)]
    assert all(a != b for a, b in zip(*slopes, strict=True))


@pytest.mark.parametrize(("better", "fitted"), [(True, LINES), (False, ())], ids=["follows better", "does not"])
def test_a_line_that_samples_follow_is_inverted_if_that_helps(
    trained: Open, finish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, better: bool, fitted: Lines
) -> None:
    monkeypatch.setattr(guidance, "lines_of", lambda measured: LINES)
    monkeypatch.setattr(guidance, "is_better", lambda *found: better)
    workspace = trained()
    make(workspace, finish)
    choice = read_choice(workspace)
    assert [one.guidance for one in choice.weights] == [1, 1.5, 2, 3]
    assert choice.tried is not None
    assert (choice.tried.guidance, choice.tried.calibration) == (choice.guidance, LINES)
    plain = next(one for one in choice.weights if one.guidance == choice.guidance)
    assert choice.tried.following != plain.following
    assert (choice.calibration, workspace.sampling.calibration or ()) == (fitted, fitted)


def test_a_calibration_of_the_study_is_measured_with_and_none_is_fitted(
    trained: Open, finish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guidance, "lines_of", refuse)
    workspace = trained(calibration=LINES)
    make(workspace, finish)
    choice = read_choice(workspace)
    assert {one.calibration for one in choice.measured} == {LINES}
    assert (choice.tried, choice.calibration, workspace.sampling.calibration) == (None, LINES, LINES)


def test_predictors_are_fitted_on_the_train_side_the_same_each_time(
    trained: Open, finish: Callable[..., Any], asked: list[str]
) -> None:
    workspace = trained()
    first, second = (finish(make_predictors(workspace, HERE)) for _ in range(2))
    assert first == second
    assert set(asked) == {"train", "validation"}
    found = load_predictors(workspace.path("predictors"))
    assert [target.condition for target in found.targets] == ["age", "sex", "sex"]
    assert first.summary == {"predicted": 3}
