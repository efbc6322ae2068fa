"""What a release says of how it was made: enough to make it again, and nothing of the machine."""

import platform
from typing import Any

from meddiff_core.stages.release import describe_environment, describe_hyperparameters
from meddiff_core.study import DataConfig, Study


def test_the_environment_names_versions_and_kinds_and_no_machine() -> None:
    said = describe_environment("cuda:1", {"meddiff": "0.1", "torch": "2.13"})
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    assert said == f"{python}, device cuda, meddiff 0.1, torch 2.13"


def test_hyperparameters_are_those_of_the_plan_without_what_was_measured_on_the_machine(plan: Any) -> None:
    found = describe_hyperparameters(Study(name="heads", seed=4, data=DataConfig(images="scans")), plan)
    assert found["seed"] == 4
    assert (found["autoencoder"]["steps"], found["denoiser"]["batch"]) == (90, 4)
    assert found["denoiser"]["channels"] == [32, 32]
    assert not {"memory_gb", "seconds_per_step"} & (found["autoencoder"].keys() | found["denoiser"].keys())
