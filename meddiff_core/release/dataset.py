"""A release as torch data sets: what a training loop elsewhere pulls from.

Each worker reads for itself, and a missing or altered volume stops the loop instead of feeding it zeros. Every
item says which volume it is and where its voxels lie: without an affine, MONAI's spatial transforms take
voxels for millimetres without a word.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from meddiff_core.errors import ConfigurationError
from meddiff_core.release.selection import position_of

Item = dict[str, Any]
Transform = Callable[[Item], Item]


@runtime_checkable
class Cohort(Protocol):
    """What the data set needs of a release (see reader.py)."""

    affine: NDArray[np.float64]

    def image(self, index: SupportsIndex) -> NDArray[np.float32]:
        """Image (i, j, k)."""

    def label(self, index: SupportsIndex) -> NDArray[np.uint8] | None:
        """Label map (i, j, k), or None where there is none."""

    def participant_id(self, index: SupportsIndex) -> str:
        """Name of the volume."""

    def covariates(self, index: SupportsIndex) -> Mapping[str, float | int | str]:
        """Columns of the table."""

    def each(self, function: Callable[[int], Item], items: Sequence[int]) -> list[Item]:
        """`function` of each item, side by side."""


class CohortDataset(Dataset[Item]):
    """Items are dictionaries that torch collates as they are.

    `image` float32 (1, i, j, k), RAS+, in HU or for MR 0 to 1000; `label` uint8 (1, i, j, k), absent where
    the release has none: MONAI's `MetaTensor` where MONAI is installed, else plain tensors. `affine`
    float64 (4, 4), voxel index to RAS mm as released; `participant_id`; `covariates`, a dictionary.
    """

    def __init__(self, release: Cohort, transform: Transform | None, indices: Sequence[int]) -> None:
        self.release = release
        self.transform = transform
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: SupportsIndex) -> Item:
        return self._transformed(self._read(self.indices[position_of(position, len(self))]))

    def __getitems__(self, positions: Sequence[int]) -> list[Item]:
        """A batch; outside a worker its volumes are read side by side."""
        indices = [self.indices[position_of(position, len(self))] for position in positions]
        in_worker = get_worker_info() is not None
        items = [self._read(index) for index in indices] if in_worker else self.release.each(self._read, indices)
        return [self._transformed(item) for item in items]

    @staticmethod
    def collate(items: Sequence[Item]) -> Item:
        """What torch makes of a batch, for `DataLoader(data, collate_fn=data.collate)`, in less time for large volumes.

        Volumes lie in Fortran order on disk, and so they do in this batch; torch's own way turns each of them
        over, at several times the cost of reading it.
        """
        turned = [item | {name: item[name].permute(0, 3, 2, 1) for name in _volumes(item)} for item in items]
        batch: Item = default_collate(turned)
        return batch | {name: batch[name].permute(0, 1, 4, 3, 2) for name in _volumes(items[0])}

    def _transformed(self, item: Item) -> Item:
        return self.transform(item) if self.transform else item

    def _read(self, index: int) -> Item:
        affine, name = torch.from_numpy(self.release.affine.copy()), self.release.participant_id(index)
        item: Item = {"image": _placed(self.release.image(index), affine, name)}
        label = self.release.label(index)
        if label is not None:
            item["label"] = _placed(label, affine, name)
        return item | {"affine": affine, "participant_id": name, "covariates": dict(self.release.covariates(index))}


class CohortStream(IterableDataset[Item]):
    """The items of a data set by blocks of volumes that lie side by side, in order or shuffled.

    Shuffled are the blocks, and the volumes in each. Each worker of a loader takes every n-th block. The order is
    drawn anew in every epoch, from torch's own random numbers as `DataLoader(shuffle=True)` does it:
    `torch.manual_seed` repeats it. Each process of a distributed training streams a part of its own:
    `indices=np.array_split(np.arange(len(release)), processes)[rank]`.
    """

    def __init__(self, dataset: CohortDataset, block: int, shuffle: bool) -> None:
        if block < 1:
            raise ConfigurationError(f"block must be at least 1 volume, is {block}")
        self.dataset, self.block, self.shuffle = dataset, block, shuffle
        self._epoch = 0

    def __iter__(self) -> Iterator[Item]:
        worker, count = get_worker_info(), len(self.dataset)
        if worker:
            self._epoch += 1  # one that persists keeps its seed
            random = np.random.default_rng((worker.seed - worker.id, self._epoch))
        else:
            random = np.random.default_rng(int(torch.empty((), dtype=torch.int64).random_()))
        starts = np.arange(0, count, self.block)
        if self.shuffle:
            random.shuffle(starts)
        for start in starts[worker.id :: worker.num_workers] if worker else starts:
            positions = np.arange(start, min(start + self.block, count))
            yield from self.dataset.__getitems__(
                (random.permutation(positions) if self.shuffle else positions).tolist()
            )


def _volumes(item: Item) -> list[str]:
    return [name for name in ("image", "label") if name in item]


def _placed(volume: NDArray[Any], affine: torch.Tensor, name: str) -> torch.Tensor:
    """(1, i, j, k), with its place in the world where MONAI can hold it."""
    tensor, meta_tensor = torch.from_numpy(volume)[None], _meta_tensor()
    if meta_tensor is None:
        return tensor
    placed: torch.Tensor = meta_tensor(tensor, affine=affine, meta={"space": "RAS", "filename_or_obj": name})
    return placed


@cache
def _meta_tensor() -> Any:
    """MONAI's tensor with an affine, or None without MONAI. `monai.data` teaches torch to collate it."""
    try:
        from monai.data.meta_tensor import MetaTensor
    except ImportError:
        return None
    return MetaTensor
