"""Copies of training volumes in disguise, to prove in every audit that the copy test would catch them.

A test that never fires passes everything. What share of planted copies it catches, in this very data set, is
reported and gated beside its verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class PlantedCopies:
    """Disguised copies of chosen volumes; the disguises take turns. Reads like any set of volumes."""

    volumes: Volumes
    rows: tuple[int, ...]
    """The volume that each copy is of."""
    contract: Contract
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def disguise(self, index: int) -> str:
        """Name of the disguise of copy `index`."""
        return list(DISGUISES)[index % len(DISGUISES)]

    def image(self, index: int) -> StoredArray:
        """(i, j, k), the same at every call."""
        unit = self.contract.intensity.unit(self.volumes.image(self.rows[index]))
        disguised = DISGUISES[self.disguise(index)](unit, np.random.default_rng([self.seed, index]))
        return self.contract.intensity.store(disguised)

    def label(self, index: int) -> LabelArray | None:
        """The label map of the original, flipped and shifted with its image."""
        label = self.volumes.label(self.rows[index])
        name = self.disguise(index)
        if label is None or name in ("none", "noise", "intensity", "blur"):
            return label
        rng = np.random.default_rng([self.seed, index])
        moved = label.astype(np.float32)
        for move in {"flip": [_flip], "shift": [_shift], "all": [_flip, _shift]}[name]:
            moved = move(moved, rng)
        return moved.astype(np.uint8)


def plant_copies(volumes: Volumes, count: int, contract: Contract, seed: int) -> PlantedCopies:
    """Disguised copies of `count` different volumes, or of all where there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(volumes))[:count]
    return PlantedCopies(volumes, tuple(int(row) for row in chosen), contract, seed)


def caught_by_disguise(planted: PlantedCopies, caught: NDArray[np.bool_]) -> dict[str, float]:
    """Share of copies (n,) that were caught, per disguise."""
    names = np.array([planted.disguise(index) for index in range(len(planted))])
    return {name: float(caught[names == name].mean()) for name in DISGUISES if (names == name).any()}
