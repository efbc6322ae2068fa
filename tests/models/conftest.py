"""Networks small enough for a test, and volumes that they can learn something of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

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
