"""Copies of training volumes in disguise, to prove in every audit that the copy test would catch them.

A test that never fires passes everything. What share of planted copies it catches, in this very data set, is
reported and gated beside its verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.types import FloatArray, LabelArray, StoredArray, Volumes

Disguise = Callable[[FloatArray, np.random.Generator], FloatArray]
"""Of an image in [0, 1], axes (i, j, k)."""


def _as_is(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return image


def _flip(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return image[::-1]


def _shift(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return _roll(image, int(rng.integers(3)), int(rng.choice([-1, 1])))


def _roll(image: FloatArray, axis: int, step: int) -> FloatArray:
    moved = np.roll(image, step, axis)
    edge = [slice(None)] * 3
    edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
    moved[tuple(edge)] = 0
    return moved


def _noise(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    noise = rng.standard_normal(image.shape).astype(np.float32)
    return image + np.float32(0.05) * noise * (image > 0)


def _intensity(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.float32(0.9) * np.maximum(image, 0) ** np.float32(1.1)


def _blur(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(ndimage.gaussian_filter(image, 0.7))


def _everything(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    for disguise in (_flip, _shift, _blur, _intensity, _noise):
        image = disguise(image, rng)
    return image


DISGUISES: dict[str, Disguise] = {
    "none": _as_is,
    "flip": _flip,
    "shift": _shift,
    "noise": _noise,
    "intensity": _intensity,
    "blur": _blur,
    "all": _everything,
}
"""Left-right flip; shift by a voxel along one axis; noise of 0.05; gain 0.9 with gamma 1.1; blur of 0.7 voxels."""
HALF = "half"
"""Half of a copy, along any axis, joined to the other half of another volume."""
MIXTURE = "mixture"
"""The mean of a copy and another volume: planted to show what goes unseen, and never counted as power."""


@dataclass(frozen=True)
class PlantedCopies:
    """Disguised copies of chosen volumes; the disguises take turns. Reads like any set of volumes.

    Where rows repeat, every round over the volumes gives each of them another disguise.
    """

    volumes: Volumes
    rows: tuple[int, ...]
    """The volume that each copy is of."""
    contract: Contract
    seed: int
    partners: Volumes | None = None
    """What halves and mixtures are completed from; without it there are none of these."""

    def __len__(self) -> int:
        return len(self.rows)

    def disguise(self, index: int) -> str:
        """Name of the disguise of copy `index`."""
        names = [*DISGUISES] if self.partners is None else [*DISGUISES, HALF, MIXTURE]
        return names[(index + index // len(self.volumes)) % len(names)]

    @property
    def disguises(self) -> tuple[str, ...]:
        """The disguise of every copy."""
        return tuple(self.disguise(index) for index in range(len(self)))

    def image(self, index: int) -> StoredArray:
        """(i, j, k), the same at every call."""
        name, rng = self.disguise(index), np.random.default_rng([self.seed, index])
        original = self.volumes.image(self.rows[index])
        if name in DISGUISES:
            unit = self.contract.intensity.unit(original)
            return self.contract.intensity.store(DISGUISES[name](unit, rng))
        other = self._partners.image(int(rng.integers(len(self._partners))))
        if name == HALF:
            return _join(original, other, rng)
        units = [self.contract.intensity.unit(image) for image in (original, other)]
        return self.contract.intensity.store(np.float32(0.5) * (units[0] + units[1]))

    def label(self, index: int) -> LabelArray | None:
        """The label map of the original, moved with its image; that of a mixture is the other volume's."""
        label, name = self.volumes.label(self.rows[index]), self.disguise(index)
        rng = np.random.default_rng([self.seed, index])
        if label is None:
            return None
        if name in (HALF, MIXTURE):
            other = self._partners.label(int(rng.integers(len(self._partners))))
            return _join(label, other, rng) if name == HALF and other is not None else other
        moved = label.astype(np.float32)
        for move in {"flip": [_flip], "shift": [_shift], "all": [_flip, _shift]}.get(name, []):
            moved = move(moved, rng)
        return moved.astype(np.uint8)

    @property
    def _partners(self) -> Volumes:
        assert self.partners is not None
        return self.partners


Stored = TypeVar("Stored", StoredArray, LabelArray)


def _join(first: Stored, second: Stored, rng: np.random.Generator) -> Stored:
    """One half of the first and the other half of the second."""
    axis, upper = int(rng.integers(3)), bool(rng.integers(2))
    side = first.shape[axis]
    kept = (np.arange(side) >= side // 2) == upper
    return np.where(np.expand_dims(kept, [other for other in range(3) if other != axis]), first, second)


def plant_copies(
    volumes: Volumes, count: int, contract: Contract, seed: int, partners: Volumes | None = None
) -> PlantedCopies:
    """`count` disguised copies of different volumes; where there are fewer, of each in several disguises."""
    order = np.random.default_rng(seed).permutation(len(volumes))
    most = len(volumes) * (len(DISGUISES) + (0 if partners is None else 2))
    rows = tuple(int(order[index % len(order)]) for index in range(min(count, most)))
    return PlantedCopies(volumes, rows, contract, seed, partners)


def caught_by_disguise(planted: PlantedCopies, caught: NDArray[np.bool_]) -> dict[str, float]:
    """Share of copies (n,) that were caught, per disguise."""
    names = np.array(planted.disguises)
    return {name: float(caught[names == name].mean()) for name in (*DISGUISES, HALF) if (names == name).any()}
