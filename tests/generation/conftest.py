"""Models that were never trained, but answer to noise and conditions, and a contract that they share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.study import SamplingConfig

SAMPLING = SamplingConfig(guidance=1.0, steps=2, batch=1, shard=4, sigma_max=5.0, sigma_min=0.1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and other tests may run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract(
        spacing_mm=2.0,
        size=(8, 8, 8),
        intensity=IntensityMapping(modality="MR", low=0, high=100, percentiles=(1, 99), storage="uint16"),
        mask="none",
        labels={"left": (1,), "right": (2,)},
        conditions=(
            ContinuousCondition(name="age", low=20, high=80, mean=50, std=10),
            CategoricalCondition(name="sex", categories=("F", "M")),
        ),
    )


@pytest.fixture(scope="session")
def sampling() -> Callable[..., SamplingConfig]:
    """Settings of a very short walk, with changes."""

    def make(**changes: Any) -> SamplingConfig:
        return SAMPLING.model_copy(update=changes)

    return make


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, save_models: Callable[..., Path], contract: Contract) -> Path:
    """A folder with both models."""
    return save_models(tmp_path_factory.mktemp("models"), contract)
