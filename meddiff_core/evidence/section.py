"""What one part of the audit hands over: figures, and the tables, curves and sentences that explain them.

Every part speaks this one language, so that the gates see all metrics alike and both reports can print a part that
they have never heard of. Everything in a section is an aggregate: a release may carry it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from pydantic import model_validator

from meddiff_core.contract import Frozen
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.metrics import Metric, Part

Cell = str | int | float | None


def rounded(figures: Iterable[float | None], digits: int = 4) -> tuple[float | None, ...]:
    """Figures as cells of a row; None is an empty one."""
    return tuple(None if figure is None else round(figure, digits) for figure in figures)


class Table(Frozen):
    """Figures that belong together, ready to be printed."""

    part: Part
    """Section of the report that it stands in."""
    title: str
    caption: str
    """What it shows and how it is read, in one or two plain sentences."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> "Table":
        if wrong := next((row for row in self.rows if len(row) != len(self.columns)), None):
            raise ValueError(f"{self.title}: a row must have {len(self.columns)} cells, has {len(wrong)}: {wrong}")
        return self


class Line(Frozen):
    """One line of a curve, with its confidence band where there is one."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> "Line":
        lengths = {len(self.x), len(self.y), len(self.low) or len(self.x), len(self.high) or len(self.x)}
        if len(lengths) > 1:
            raise ValueError(f"{self.name}: x, y, low and high must be of one length, are of {sorted(lengths)}")
        return self


class Curve(Frozen):
    """A figure of one or more lines."""

    part: Part
    title: str
    caption: str
    x: str
    """Name of the axis, with its unit."""
    y: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Section:
    """All that one part found."""

    metrics: Sequence[Metric] = ()
    tables: Sequence[Table] = ()
    curves: Sequence[Curve] = ()
    histograms: Sequence[Histogram] = ()
    statements: Sequence[str] = ()
    """Plain sentences for the reports: what was found, and what could not be measured and why."""

    @staticmethod
    def merge(sections: Iterable["Section"]) -> "Section":
        """All that several sections hold, in their order."""
        parts = list(sections)
        return Section(
            **{one.name: [item for part in parts for item in getattr(part, one.name)] for one in fields(Section)}
        )
