"""Why volumes are rejected: records of a measurement, its value, its bound, and the side of it that it lies on.

Figures of a single volume stay in the study; what leaves it is how often each kind of rejection occurred. Text is made
of a record when a person reads it, and never read again.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from meddiff_core.contract import Frozen

Side = Literal["below", "above", "missing"]
REJECTIONS = "rejections"
"""Column of a table of verdicts; each cell lists the records of one candidate."""
FINITE, CONTRAST, FINITE_FEATURES = "finite", "contrast", "finite_features"
"""Measurements of volumes that are broken, of which no other is taken."""
FEATURES, COPY_SCORE, DENOISING = "features", "copy_score", "denoising"
"""Measurements beside those of `measure`: Mahalanobis distance of the features, copy score against training volumes,
standardised error after denoising."""
DUPLICATE, AUDITED = "duplicate", "audited_copy_score"
"""Measurements of a whole cohort: distance to an earlier volume, copy score of the audit."""
IN_WORDS = {
    FINITE: "voxels are not all finite",
    CONTRAST: "all voxels are equal",
    FINITE_FEATURES: "features are not all finite",
    DUPLICATE: "near duplicate of an earlier volume of the cohort",
    AUDITED: "suspected copy (audit)",
}
"""Of measurements whose value says less than a sentence."""
NAMES = {COPY_SCORE: "copy score", DENOISING: "error after denoising"}


class RejectionKind(Frozen):
    """What a volume was rejected for, without the figures of the volume."""

    measurement: str
    side: Side
    """Of the bound. `missing`: there was no finite value to compare with it."""

    @property
    def kind(self) -> tuple[str, Side]:
        """Equal for rejections that are counted together."""
        return self.measurement, self.side

    @property
    def summary(self) -> str:
        """Text for whoever may not see a single volume."""
        if self.measurement in IN_WORDS:
            return IN_WORDS[self.measurement]
        return (
            f"{self._name} was not measured"
            if self.side == "missing"
            else f"{self._name} {self.side} the accepted range"
        )

    @property
    def _name(self) -> str:
        return NAMES.get(self.measurement, self.measurement)


class Rejection(RejectionKind):
    """One reason for which a volume was rejected. For the study only."""

    value: float | None = None
    bound: float | None = None

    @property
    def text(self) -> str:
        """For a person who sees the volume beside it."""
        if self.measurement in IN_WORDS or self.value is None or self.bound is None:
            return self.summary
        return f"{self._name} {self.value:.4g} is {self.side} {self.bound:.4g}"


class RejectionCount(RejectionKind):
    """How many volumes were rejected for one kind of reason."""

    count: int


class RealRejections(Frozen):
    """What the bounds do to validation volumes, in counts."""

    volumes: int
    rejected: int
    kinds: tuple[RejectionCount, ...]
    """A volume with two reasons counts under both."""
    bounds: int
    """That each was compared with."""


def count_real(rejections: Sequence[Sequence[Rejection]], bounds: int) -> RealRejections:
    """From the rejections of each validation volume, none for an accepted one."""
    rejected = sum(bool(found) for found in rejections)
    return RealRejections(volumes=len(rejections), rejected=rejected, kinds=count_kinds(rejections), bounds=bounds)


def count_kinds(rejections: Iterable[Sequence[Rejection]]) -> tuple[RejectionCount, ...]:
    """Rejected volumes by kind of reason, most frequent first; one with two reasons counts under both."""
    counts = Counter(one.kind for found in rejections for one in found)
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(RejectionCount(measurement=name, side=side, count=count) for (name, side), count in order)


def stored(rejections: Iterable[Rejection]) -> list[dict[str, Any]]:
    """A cell of a table of verdicts."""
    return [one.model_dump() for one in rejections]


def rejections_of(cell: Iterable[Mapping[str, Any]]) -> tuple[Rejection, ...]:
    """The records of a cell, also of one that was read from a file."""
    return tuple(Rejection.model_validate(one) for one in cell)


def reject(table: pd.DataFrame, rows: Mapping[Hashable, Rejection]) -> pd.DataFrame:
    """The same table of verdicts with some rows, given by their index, rejected for another reason."""
    cells = {index: stored([one]) for index, one in rows.items()}
    return table.assign(
        accepted=table["accepted"] & ~table.index.isin(list(cells)),
        **{REJECTIONS: [cells.get(index, cell) for index, cell in table[REJECTIONS].items()]},
    )


def count_rejections(table: pd.DataFrame) -> tuple[RejectionCount, ...]:
    """Rejected candidates of a table of verdicts by kind of reason, as `count_kinds`."""
    return count_kinds(rejections_of(cell) for cell in table.loc[~table["accepted"], REJECTIONS])
