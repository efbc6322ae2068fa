"""What the screen would do to real volumes that its bounds were not fitted on, beside what it did to candidates.

A filter that rejects one real scan in three says more of its own bounds than of the candidates.
"""

from collections.abc import Generator, Sequence

from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.intervals import Bootstrap, from_count
from meddiff_core.evidence.metrics import MetricSpec, metric_of
from meddiff_core.evidence.rejections import RealRejections
from meddiff_core.evidence.section import Cell, Section, Table, rounded
from meddiff_core.types import Progress

ACCEPTED_SHARE = MetricSpec(name="accepted_share", part="screening", better="higher", limited_by="generated")
METRICS = (ACCEPTED_SHARE,)


def screening_evidence(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """What screening accepted, and what it would do to real validation volumes."""
    yield Progress("expected rejections", 0, 1)
    if audit.screen is None:
        return Section(statements=("How the cohort was screened is not known.",))
    share = from_count(audit.screen.accepted, audit.screen.candidates, bootstrap.confidence)
    words = "Share of generated volumes that screening accepted; the rest was left out, which shifts the distribution."
    accepted = metric_of(ACCEPTED_SHARE, share, words)
    return Section.merge([Section([accepted]), expected_rejections(audit.screen, bootstrap)])


def expected_rejections(screen: ScreenSummary, bootstrap: Bootstrap) -> Section:
    """The share of real validation volumes that each bound, and all together, reject, beside that of candidates."""
    real = screen.real
    if real is None or real.volumes < FEWEST:
        found = 0 if real is None else real.volumes
        missing = f"The screen was not tried on real volumes: it needs {FEWEST} validation volumes, has {found}."
        return Section(statements=(missing,))
    candidates = screen.candidates
    texts = {one.kind: one.summary for one in (*real.kinds, *screen.rejections)}
    of_real, of_candidates = ({one.kind: one.count for one in found} for found in (real.kinds, screen.rejections))
    counts = [("all together", real.rejected, candidates - screen.accepted)]
    for kind in sorted(texts, key=lambda kind: (-of_candidates.get(kind, 0), texts[kind])):
        counts.append((texts[kind], of_real.get(kind, 0), of_candidates.get(kind, 0)))
    rows = [_row(text, count, real.volumes, found, candidates, bootstrap) for text, count, found in counts]
    return Section(tables=(_table(rows, real),))


def _row(text: str, real: int, volumes: int, found: int, candidates: int, bootstrap: Bootstrap) -> tuple[Cell, ...]:
    share, sampled = (from_count(k, n, bootstrap.confidence) for k, n in ((real, volumes), (found, candidates)))
    return text, *rounded((*share.figures, sampled.value))


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
