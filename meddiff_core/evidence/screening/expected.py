"""What the screen would do to real volumes that its bounds were not fitted on, beside what it did to candidates.

A filter that rejects one real scan in three tells of its own bounds, not of the candidates.
"""

from collections.abc import Generator, Sequence

from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import from_count
from meddiff_core.evidence.quality.comparison import Drawing
from meddiff_core.evidence.screening.reasons import RealRejections
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.types import Progress

FEWEST = 5
"""Validation volumes from which shares of them are published."""


def expected_rejections(audit: AuditInput, drawing: Drawing) -> Generator[Progress, None, Section]:
    """The share of real validation volumes that each bound, and all together, reject, beside that of candidates."""
    yield Progress("expected rejections", 0, 1)
    real = audit.screen.real
    if real is None or real.volumes < FEWEST:
        found = 0 if real is None else real.volumes
        said = f"The screen was not held against real volumes: it needs {FEWEST} validation volumes, has {found}."
        return Section(statements=(said,))
    candidates = audit.screen.candidates
    rejected = candidates - audit.screen.accepted
    rows = [_row("all together", real.rejected, real.volumes, rejected, candidates, drawing)]
    kinds = sorted({*real.reasons, *audit.screen.reasons}, key=lambda kind: (-audit.screen.reasons.get(kind, 0), kind))
    rows += [
        _row(kind, real.reasons.get(kind, 0), real.volumes, audit.screen.reasons.get(kind, 0), candidates, drawing)
        for kind in kinds
    ]
    return Section(tables=(_table(rows, real),))


def _row(kind: str, real: int, volumes: int, found: int, candidates: int, drawing: Drawing) -> tuple[Cell, ...]:
    share, drawn = from_count(real, volumes, drawing.confidence), from_count(found, candidates, drawing.confidence)
    return kind, *(round(figure, 4) for figure in (share.value, share.low, share.high)), round(drawn.value, 4)


def _table(rows: Sequence[tuple[Cell, ...]], real: RealRejections) -> Table:
    return Table(
        part="screening",
        title="Expected rejections",
        caption=f"Share of {real.volumes} real validation volumes that screening would reject, with its exact "
        f"interval, beside the share of candidates that it did reject. Of {real.bounds} bounds, those that are not "
        "listed rejected nothing.",
        columns=("rejected by", "real volumes", "low", "high", "candidates"),
        rows=tuple(rows),
    )
