"""The contract that networks of these tests stand on."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and other tests may run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., Contract]:
    """A small contract with two label groups and two conditions, with changes."""

    def make(**changes: Any) -> Contract:
        usual: dict[str, Any] = {
            "spacing_mm": 2.0,
            "size": (16, 16, 16),
            "intensity": IntensityMapping(modality="MR", low=0, high=100, percentiles=(1, 99)),
            "mask": "none",
            "labels": {"left": (1,), "right": (2,)},
            "conditions": (
                ContinuousCondition(name="age", low=20, high=80, mean=50, std=10),
                CategoricalCondition(name="sex", categories=("F", "M")),
            ),
        }
        return Contract(**(usual | changes))

    return make


@pytest.fixture(scope="session")
def contract(make_contract: Callable[..., Contract]) -> Contract:
    return make_contract()
