"""Canaries: transformed copies of training volumes, to prove in every audit that the copy test would catch them.

A test that never fires passes everything. What share of the canaries it catches, in this very data set, is
reported and gated beside its verdict.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.evidence.intervals import Estimate, from_count
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.types import FloatArray, LabelArray, StoredArray, Volumes

COPY_POWER = MetricSpec(
    name="copy_power",
    part="privacy",
    privacy=True,
    proof=True,
    better="higher",
    limited_by="canary",
    failure="an audit that may miss the copies planted in it cannot say that a cohort holds none",
)
METRICS = (COPY_POWER,)
Step = Callable[[FloatArray, np.random.Generator], FloatArray]
"""Of an image in [0, 1], axes (i, j, k)."""


def _flip(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return image[::-1]


def _shift(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    offset = np.zeros(3)
    offset[rng.integers(3)] = rng.choice([-1, 1])
    return np.asarray(ndimage.shift(image, offset, order=0))


def _noise(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    noise = rng.standard_normal(image.shape).astype(np.float32)
    return image + np.float32(0.05) * noise * (image > 0)


def _intensity(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.float32(0.9) * np.maximum(image, 0) ** np.float32(1.1)


def _blur(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(ndimage.gaussian_filter(image, 0.7))


TRANSFORMATIONS: dict[str, tuple[Step, ...]] = {
    "none": (),
    "flip": (_flip,),
    "shift": (_shift,),
    "noise": (_noise,),
    "intensity": (_intensity,),
    "blur": (_blur,),
    "all": (_flip, _shift, _blur, _intensity, _noise),
}
"""Left-right flip; shift by a voxel along one axis; noise of 0.05; gain 0.9 with gamma 1.1; blur of 0.7 voxels."""
MOVES = (_flip, _shift)
"""Steps that a label map takes with its image."""
HALF = "half"
"""Half of a copy, along any axis, joined to the other half of another volume."""
MIXTURE = "mixture"
"""The mean of a copy and another volume: planted to show what goes unseen, and never counted as power."""


def transformed(image: FloatArray, steps: Iterable[Step], rng: np.random.Generator) -> FloatArray:
    """An image (i, j, k) in [0, 1] after all the steps."""
    for step in steps:
        image = step(image, rng)
    return image


@dataclass(frozen=True)
class Canaries:
    """Transformed copies of chosen volumes; the transformations take turns. Reads like any set of volumes.

    Where rows repeat, every round over the volumes gives each of them another transformation.
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

    def transformation(self, index: int) -> str:
        """Name of the transformation of copy `index`."""
        names = [*TRANSFORMATIONS] if self.partners is None else [*TRANSFORMATIONS, HALF, MIXTURE]
        return names[(index + index // len(self.volumes)) % len(names)]

    @property
    def transformations(self) -> tuple[str, ...]:
        """The transformation of every copy."""
        return tuple(self.transformation(index) for index in range(len(self)))

    @property
    def whole(self) -> tuple[int, ...]:
        """Copies of whole volumes: they are the same whatever the partners."""
        return tuple(index for index, name in enumerate(self.transformations) if name in TRANSFORMATIONS)

    def image(self, index: int) -> StoredArray:
        """(i, j, k), the same at every call."""
        name, rng = self.transformation(index), np.random.default_rng([self.seed, index])
        original = self.volumes.image(self.rows[index])
        if name in TRANSFORMATIONS:
            unit = self.contract.intensity.unit(original)
            return self.contract.intensity.store(transformed(unit, TRANSFORMATIONS[name], rng))
        other = self._partners.image(int(rng.integers(len(self._partners))))
        if name == HALF:
            return _join(original, other, rng)
        units = [self.contract.intensity.unit(image) for image in (original, other)]
        return self.contract.intensity.store(np.float32(0.5) * (units[0] + units[1]))

    def label(self, index: int) -> LabelArray | None:
        """The label map of the original, transformed with its image; that of a mixture is the other volume's."""
        label, name = self.volumes.label(self.rows[index]), self.transformation(index)
        rng = np.random.default_rng([self.seed, index])
        if label is None:
            return None
        if name in (HALF, MIXTURE):
            other = self._partners.label(int(rng.integers(len(self._partners))))
            return _join(label, other, rng) if name == HALF and other is not None else other
        moves = [step for step in TRANSFORMATIONS[name] if step in MOVES]
        return transformed(label.astype(np.float32), moves, rng).astype(np.uint8)

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


def plant_canaries(
    volumes: Volumes, count: int, contract: Contract, seed: int, partners: Volumes | None = None
) -> Canaries:
    """`count` transformed copies of different volumes; where there are fewer, several of each."""
    order = np.random.default_rng(seed).permutation(len(volumes))
    most = len(volumes) * (len(TRANSFORMATIONS) + (0 if partners is None else 2))
    rows = tuple(int(order[index % len(order)]) for index in range(min(count, most)))
    return Canaries(volumes, rows, contract, seed, partners)


@dataclass(frozen=True)
class SearchedCanaries:
    """Canaries that were searched for, and which of them were caught."""

    caught: NDArray[np.bool_]
    """(n,)."""
    transformations: Sequence[str]
    subjects: Sequence[str]
    """Of each canary: its transformation, and whose volume it is."""

    def share(self, confidence: float, transformation: str | None = None) -> Estimate:
        """Share caught, of one transformation, or of all that the test promises to see through.

        The interval counts the subjects that were copied, not the copies.
        """
        subjects = self.subjects_of(transformation)
        caught = float(self.caught[self._rows(transformation)].mean())
        return from_count(caught * subjects, subjects, confidence)

    def subjects_of(self, transformation: str | None = None) -> int:
        """How many subjects' volumes were copied under a transformation."""
        return len({self.subjects[row] for row in self._rows(transformation)})

    def _rows(self, wanted: str | None) -> list[int]:
        names = enumerate(self.transformations)
        return [row for row, name in names if name == wanted or (wanted is None and name != MIXTURE)]


def copy_power(caught: Estimate) -> Metric:
    """The metric that shows that the copy test sees."""
    words = "Share of transformed copies, planted for this audit, that the copy test catches."
    return metric_of(COPY_POWER, caught, words)
