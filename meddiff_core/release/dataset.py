"""A release as a torch Dataset: what a training loop elsewhere pulls from.

Each worker opens the store for itself, and a missing or altered volume stops the loop instead of feeding
it zeros.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

Item = dict[str, Any]
Transform = Callable[[Item], Item]


@runtime_checkable
class Cohort(Protocol):
    """What the data set needs of a release (see reader.py)."""

    def image(self, index: int) -> NDArray[np.float32]:
        """Image (i, j, k)."""

    def label(self, index: int) -> NDArray[np.uint8] | None:
        """Label map (i, j, k), or None where there is none."""

    def covariates(self, index: int) -> Mapping[str, float | int | str]:
        """Columns of the table."""


class CohortDataset(Dataset[Item]):
    """Items are dictionaries that torch collates as they are.

    `image` float32 (1, i, j, k), RAS+, in HU or for MR 0 to 1000; `label` uint8 (1, i, j, k), absent where
    the release has none; `covariates`, a dictionary.
    """

    def __init__(self, release: Cohort, transform: Transform | None, indices: Sequence[int]) -> None:
        self.release = release
        self.transform = transform
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Item:
        index = self.indices[position]
        item: Item = {"image": torch.from_numpy(self.release.image(index))[None]}
        label = self.release.label(index)
        if label is not None:
            item["label"] = torch.from_numpy(label)[None]
        item["covariates"] = dict(self.release.covariates(index))
        return self.transform(item) if self.transform else item

    def __getitems__(self, positions: Sequence[int]) -> list[Item]:
        return [self[position] for position in positions]
