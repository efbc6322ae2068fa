"""Small synthetic heads that differ as people do: in size, in structures, in smooth intensity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.contract import Condition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.study import AuditConfig
from meddiff_core.types import LabelArray, StoredArray, Volumes

SIDE = 24


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

    def take(self, rows: Any) -> "ArrayVolumes":
        return ArrayVolumes(self.images[rows], None if self.labels is None else self.labels[rows])


def _own_subject(row: int) -> int:
    return row


@dataclass(frozen=True)
class RealSides:
    """The real data set: volumes by side, or a table of conditions alone."""

    sides: Mapping[str, Any]
    table: Mapping[str, Sequence[Condition]] = field(default_factory=dict)
    subject: Callable[[int], int] = _own_subject
    """Number of the subject of a row."""

    def volumes(self, side: str) -> Volumes:
        return self.sides.get(side, ArrayVolumes(np.zeros((0, SIDE, SIDE, SIDE), np.uint8)))

    def conditions(self, side: str) -> list[Condition]:
        volumes = self.volumes(side)
        return list(self.table.get(side) or getattr(volumes, "conditions", [{}] * len(volumes)))

    def subjects(self, side: str) -> list[str]:
        return [f"{side}-{self.subject(row)}" for row in range(len(self.conditions(side)))]


def _head(rng: np.random.Generator) -> tuple[StoredArray, LabelArray]:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij"))
    radii = 0.8 + 0.05 * rng.standard_normal(3)
    centre = 0.05 * rng.standard_normal(3)
    distance = np.sqrt((((grid - centre[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(0))
    core = 0.35 + 0.06 * rng.standard_normal()
    texture = ndimage.gaussian_filter(rng.standard_normal(distance.shape), 2.0)
    unit = (0.5 + 0.25 * (distance < core) + 0.12 * texture / texture.std()) * (distance < 1)
    label = (distance < 1).astype(np.uint8) + (distance < core)
    return np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8), label.astype(np.uint8)


@pytest.fixture(scope="session")
def make_heads() -> Callable[..., ArrayVolumes]:
    """(n, seed) to n heads with label maps."""

    def make(n: int, seed: int) -> ArrayVolumes:
        rng = np.random.default_rng(seed)
        images, labels = zip(*[_head(rng) for _ in range(n)], strict=True)
        return ArrayVolumes(np.stack(images), np.stack(labels))

    return make


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract(
        spacing_mm=2.0,
        size=(SIDE, SIDE, SIDE),
        intensity=IntensityMapping(modality="MR", low=0.0, high=1000.0, percentiles=(1.0, 99.0)),
        mask="none",
        labels={"shell": (1,), "core": (2, 3)},
        conditions=(ContinuousCondition(name="core_volume", low=0, high=1e5, mean=1e3, std=1e2, group="core"),),
    )


@pytest.fixture(scope="session")
def audit_of(contract: Contract) -> Callable[..., AuditInput]:
    """(volumes by side, cohort, conditions by side, subject of a row, further fields) to what is audited."""

    def make(
        sides: Any, accepted: Any = None, table: Any = None, subject: Any = _own_subject, **fields: Any
    ) -> AuditInput:
        real = RealSides(sides, table or {}, subject)
        cohort = real.volumes("none") if accepted is None else accepted
        count = len(cohort)
        usual = {
            "contract": contract,
            "requested": [{}] * count,
            "measured": [{}] * count,
            "sample_ids": [f"syn-{row:03}" for row in range(count)],
            "extractors": [],
            "screen": ScreenSummary(candidates=count, accepted=count, rejections=()),
            "config": AuditConfig(),
        }
        return AuditInput(dataset=real, accepted=cohort, **{**usual, **fields})

    return make
