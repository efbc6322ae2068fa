"""The preprocessing contract: how a scan becomes what a model sees, and the way back.

It is written once by the plan, lives inside every checkpoint and every release, and whatever does not
match it is refused with the difference. Without it weights are useless on anybody else's scans.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from meddiff_core.types import FloatArray, StoredArray

ConditionValue = float | str | None
"""A number, a category, or None where it is not known."""
Condition = dict[str, ConditionValue]
"""Value per condition name."""
EXTRAPOLATED = "extrapolated"
"""Column of tables that says whether a condition lies outside what training saw."""


RELEASED_COLUMNS = frozenset({"participant_id", "sample_id", "seed", "sampling_batch", "extrapolated"})
"""Columns that a release has of its own, whatever the conditions are called."""


def along_each_axis(given: Any) -> Any:
    """One number as three equal ones, for i, j, k; anything else as it is."""
    return (given,) * 3 if isinstance(given, int | float) else given


Spacing = Annotated[tuple[float, float, float], BeforeValidator(along_each_axis)]
"""Voxel size along i, j, k in mm. Plans and releases of older versions hold the one number of all three."""


def spacing_text(spacing_mm: Iterable[float]) -> str:
    """`1.2 mm` if it is the same along each axis, else `0.43 × 0.43 × 6.5 mm`."""
    lengths = [f"{length:g}" for length in spacing_mm]
    return f"{lengths[0] if len(set(lengths)) == 1 else ' × '.join(lengths)} mm"


class Frozen(BaseModel):
    """Base of the values that artefacts are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class IntensityMapping(Frozen):
    """Physical intensities to [0, 1] and back; stored as unsigned integers over that range."""

    modality: Literal["MR", "CT"]
    low: float
    """What 0 stands for: Hounsfield units, or for MR the training median of the low percentile."""
    high: float
    """What 1 stands for."""
    percentiles: tuple[float, float] | None = None
    """MR: percentiles of each scan's own foreground that become 0 and 1. CT: None, the window is fixed."""
    storage: Literal["uint8", "uint16"] = "uint8"
    """Integer type of stored volumes."""

    @property
    def levels(self) -> int:
        """Largest stored value."""
        return int(np.iinfo(self.storage).max)

    def normalise(self, physical: FloatArray, low: float, high: float) -> FloatArray:
        """Map intensities so that `low` becomes 0 and `high` 1, clipped to [0, 1]."""
        return np.asarray(np.clip((physical - low) / (high - low), 0, 1), dtype=np.float32)

    def store(self, unit: FloatArray) -> StoredArray:
        """Round [0, 1] to the stored integers."""
        return np.rint(np.clip(unit, 0, 1) * self.levels).astype(self.storage)

    def unit(self, stored: StoredArray) -> FloatArray:
        """Stored integers back to [0, 1]."""
        return stored.astype(np.float32) / np.float32(self.levels)

    def physical(self, stored: StoredArray) -> FloatArray:
        """Stored integers back to intensities (HU, or those of the median training scan)."""
        return self.unit(stored) * np.float32(self.high - self.low) + np.float32(self.low)


class ContinuousCondition(Frozen):
    """A number, with the range that was seen in training."""

    kind: Literal["continuous"] = "continuous"
    name: str
    low: float
    high: float
    mean: float
    std: float
    group: str | None = None
    """Label group whose volume in mm3 it is, or None for a column of the table."""


class CategoricalCondition(Frozen):
    """One of a few names."""

    kind: Literal["categorical"] = "categorical"
    name: str
    categories: tuple[str, ...]


ConditionSpec = Annotated[ContinuousCondition | CategoricalCondition, Field(discriminator="kind")]


class Contract(Frozen):
    """Grid, intensities, labels and conditions that a study's models live in. Axes (i, j, k) are RAS+."""

    spacing_mm: Spacing
    """Voxel size along i, j, k."""
    size: tuple[int, int, int]
    """Voxels along i, j, k."""
    intensity: IntensityMapping
    mask: Literal["none", "label", "brain"]
    labels: dict[str, tuple[int, ...]]
    """Label group and the source values it gathers. Stored value: 1 + position in this order; 0 is background."""
    conditions: tuple[ConditionSpec, ...]

    @property
    def channels(self) -> int:
        """Channels that the autoencoder sees: the image, and one per stored label value if there are labels."""
        return 1 + (len(self.labels) + 1 if self.labels else 0)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return math.prod(self.spacing_mm)

    def name_conflicts(self) -> list[str]:
        """Conditions whose names a release needs for something else, one line each with what to do; empty is good.

        A table has a column a condition, `measured_NAME` where it asks for a volume, and `GROUP_mm3` for other groups.
        """
        volumes = {spec.name: spec.group for spec in self.conditions if isinstance(spec, ContinuousCondition)}
        taken = {f"{group}_mm3": f"the volume of {group}" for group in self.labels}
        taken = {name: what for name, what in taken.items() if name != f"{volumes.get(name)}_mm3"}
        taken |= {f"measured_{name}": f"what {name} measures" for name, group in volumes.items() if group}
        taken |= dict.fromkeys(RELEASED_COLUMNS, "a column of its own")
        names = [spec.name for spec in self.conditions]
        conflicts = [
            f"{name}: must have another name, a release calls {taken[name]} so; rename the column of the table"
            for name in names
            if name in taken
        ]
        twice = sorted({name for name in names if names.count(name) > 1})
        return conflicts + [f"{name}: must be the name of one condition" for name in twice]

    def differences(self, other: "Contract") -> list[str]:
        """What differs, one `field: this, not that` each; empty when both are the same."""
        # As text, because two orders of the same label groups are equal dicts, but different stored values.
        pairs = [(name, str(getattr(self, name)), str(getattr(other, name))) for name in type(self).model_fields]
        return [f"{name}: {this}, not {that}" for name, this, that in pairs if this != that]
