"""Scans of 16^3 voxels whose core lies elsewhere in each, so that a label map fits its own image alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from meddiff_core.contract import CategoricalCondition, Condition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.study import AuditConfig, UtilityConfig
from meddiff_core.types import LabelArray, StoredArray

SIDE = 16


@dataclass(frozen=True)
class Scans:
    """Volumes in memory with their covariates."""

    images: StoredArray
    labels: LabelArray | None
    conditions: Sequence[Condition]
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> StoredArray:
        self.read.append(index)
        return self.images[index]

    def label(self, index: int) -> LabelArray | None:
        return None if self.labels is None else self.labels[index]


def _scan(rng: np.random.Generator) -> tuple[StoredArray, LabelArray, Condition]:
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    centre, radius = rng.uniform(5, 11, 3), rng.uniform(2.5, 4.5)
    core = ((grid - centre[:, None, None, None]) ** 2).sum(0) < radius**2
    head = ((grid - 7.5) ** 2).sum(0) < 7.5**2
    age, sex = rng.uniform(20, 80), rng.choice(["F", "M"])
    unit = head * (0.3 + 0.3 * (age - 20) / 60) + 0.25 * core + 0.02 * rng.standard_normal(head.shape)
    unit[:2] += 0.3 * (sex == "M")
    label = np.where(core, 2, head).astype(np.uint8)
    condition: Condition = {"age": age, "sex": str(sex), "core_mm3": 8.0 * core.sum()}
    return np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8), label, condition


@pytest.fixture(scope="session")
def make_scans() -> Callable[[int, int], Scans]:
    """(n, seed) to n scans."""

    def make(n: int, seed: int) -> Scans:
        rng = np.random.default_rng(seed)
        images, labels, conditions = zip(*[_scan(rng) for _ in range(n)], strict=True)
        return Scans(np.stack(images), np.stack(labels), conditions)

    return make


@pytest.fixture(scope="session")
def scan_contract() -> Contract:
    return Contract(
        spacing_mm=2.0,
        size=(SIDE, SIDE, SIDE),
        intensity=IntensityMapping(modality="MR", low=0.0, high=1000.0, percentiles=(1.0, 99.0)),
        mask="none",
        labels={"shell": (1,), "core": (2, 3)},
        conditions=(
            ContinuousCondition(name="age", low=20, high=80, mean=50, std=17),
            CategoricalCondition(name="sex", categories=("F", "M")),
            ContinuousCondition(name="core_mm3", low=0, high=4000, mean=1500, std=700, group="core"),
        ),
    )


@pytest.fixture(scope="session")
def trial_of(audit_of: Callable[..., AuditInput], scan_contract: Contract) -> Callable[..., AuditInput]:
    """(train, holdout, accepted, settings of the utility) to what is audited."""

    def make(
        train: Scans, holdout: Scans, accepted: Scans, contract: Any = scan_contract, **settings: Any
    ) -> AuditInput:
        config = AuditConfig(repeats=50, utility=UtilityConfig(**settings))
        facts = {"contract": contract, "requested": accepted.conditions, "config": config}
        return audit_of({"train": train, "holdout": holdout}, accepted, **facts)

    return make


@pytest.fixture(scope="session")
def bootstrap() -> Bootstrap:
    return Bootstrap(50, 0.95, 0)
