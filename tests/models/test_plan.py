"""An edited plan is obeyed or refused by the key that no longer fits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.artefacts import write_json
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.plan import Plan, load_plan


@pytest.fixture
def edited(tmp_path: Path, plan: Plan) -> Callable[[str, Any], Path]:
    """(key `a.b`, value) to the path of a plan in which that key was edited; None takes the key out."""

    def edit(key: str, value: Any) -> Path:
        content = json.loads(plan.model_dump_json())
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        section[last] = value
        if value is None:
            del section[last]
        write_json(tmp_path / "plan.json", content)
        return tmp_path / "plan.json"

    return edit


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path, plan: Plan) -> None:
    write_json(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan


def test_an_edit_that_fits_is_obeyed(edited: Callable[[str, Any], Path]) -> None:
    assert load_plan(edited("autoencoder_training.steps", 91)).autoencoder_training.steps == 91


def test_a_plan_says_how_long_and_how_large(plan: Plan) -> None:
    assert plan.autoencoder_training.minutes == 3
    assert plan.latent_size == (4, 4, 4)


def test_a_plan_of_an_older_version_opens(edited: Callable[[str, Any], Path], plan: Plan) -> None:
    path = edited("denoiser_training.judged", False)
    content = json.loads(path.read_text())
    del content["denoiser_training"]["scored"]
    path.write_text(json.dumps(content))
    assert not load_plan(path).denoiser_training.scored


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("autoencoder_training.steps", "many", r"plan\.json autoencoder_training\.steps: .*integer"),
        ("contract.spacing", 2, r"plan\.json contract\.spacing: .*not permitted"),
        ("denoiser.channels", None, r"plan\.json denoiser\.channels: Field required"),
        ("contract.size", [16, 16, 18], r"contract\.size: must be multiples of the latent factor 4, is \(16, 16, 18\)"),
        ("autoencoder.in_channels", 3, r"autoencoder\.in_channels: must be 4 for this contract, is 3"),
        ("denoiser_training.steps", 0, r"denoiser_training\.steps: must be at least 1 without start_from, is 0"),
        ("contract.labels", {}, r"autoencoder\.in_channels: must be 1 for this contract, is 4"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_by_its_key(
    edited: Callable[[str, Any], Path], key: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_plan(edited(key, value))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"plan\.json"):
        load_plan(tmp_path / "plan.json")
