"""Crops of volumes that do not fit the memory as a whole, more of the subject than of the air around it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from meddiff_core.contract import Contract
from meddiff_core.models.images import to_images
from meddiff_core.types import Images, LabelArray, StoredArray, Volumes

RANDOM_NUMBERS = 5
"""Random numbers in [0, 1) that place one crop."""
ON_SUBJECT = 0.7
"""Share of crops around a voxel of the subject; the others lie anywhere, so that air is learned as well."""
SPARSE = slice(None, None, 4)
"""The subject is looked for on every fourth voxel along each axis."""

Box = tuple[slice, slice, slice]


def load_patches(
    volumes: Volumes,
    indices: Sequence[int],
    contract: Contract,
    size: tuple[int, int, int],
    grid: tuple[int, int, int],
    numbers: Tensor,
) -> Images:
    """One crop of each volume as channels, on every `grid`-th voxel. Row n of `numbers` places that of index n."""
    images, labels = [], []
    for index, own in zip(indices, numbers.tolist(), strict=True):
        image, label = volumes.image(index), volumes.label(index)
        box = place_patch(image, label, size, grid, own)
        images.append(image[box])
        labels += [] if label is None else [label[box]]
    return to_images(np.stack(images), np.stack(labels) if labels else None, contract)


def place_patch(
    image: StoredArray,
    label: LabelArray | None,
    size: tuple[int, int, int],
    grid: tuple[int, int, int],
    numbers: Sequence[float],
) -> Box:
    """The box of a crop, by `RANDOM_NUMBERS` numbers: starts are multiples of `grid`, and all of it lies inside."""
    rooms = [(side - length) // step for side, length, step in zip(image.shape, size, grid, strict=True)]
    steps = [int(number * (room + 1)) for number, room in zip(numbers[2:], rooms, strict=True)]
    subject = _subject(image, label)
    if numbers[0] < ON_SUBJECT and len(subject):
        centre = subject[int(numbers[1] * len(subject))]
        steps = [
            min(max(round((middle - length / 2) / step), 0), room)
            for middle, length, step, room in zip(centre.tolist(), size, grid, rooms, strict=True)
        ]
    starts = (count * step for count, step in zip(steps, grid, strict=True))
    i, j, k = (slice(start, start + length) for start, length in zip(starts, size, strict=True))
    return i, j, k


def _subject(image: StoredArray, label: LabelArray | None) -> np.ndarray:
    """Voxels with a label, or without labels those above the mean, (n, 3)."""
    sparse = image[SPARSE, SPARSE, SPARSE] if label is None else label[SPARSE, SPARSE, SPARSE]
    return np.argwhere(sparse > (sparse.mean() if label is None else 0)) * SPARSE.step


def random_places(count: int, generator: torch.Generator) -> Tensor:
    """Numbers for `load_patches`, (count, RANDOM_NUMBERS)."""
    return torch.rand(count, RANDOM_NUMBERS, generator=generator)
