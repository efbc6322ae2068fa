"""Networks small enough for a test, and volumes that they can learn something of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.types import LabelArray, StoredArray

SIDE = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and other tests may run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class ArrayVolumes:
    """Volumes in memory."""

    images: StoredArray
    labels: LabelArray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> StoredArray:
        return self.images[index]

    def label(self, index: int) -> LabelArray | None:
        return None if self.labels is None else self.labels[index]


@pytest.fixture(scope="session")
def make_volumes() -> Callable[..., ArrayVolumes]:
    """(n, seed) to n random volumes, with label values 0 to 2 unless `labels` is false."""

    def make(count: int, seed: int = 0, labels: bool = True) -> ArrayVolumes:
        random = np.random.default_rng(seed)
        shape = (count, SIDE, SIDE, SIDE)
        values = random.integers(0, 3, shape).astype(np.uint8) if labels else None
        return ArrayVolumes(random.integers(0, 256, shape).astype(np.uint8), values)

    return make


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., Contract]:
    """A small contract with two label groups and two conditions, with changes."""

    def make(**changes: Any) -> Contract:
        usual: dict[str, Any] = {
            "spacing_mm": 2.0,
            "size": (SIDE, SIDE, SIDE),
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
