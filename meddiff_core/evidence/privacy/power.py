"""What the copy test would do if a given share of this cohort were disguised copies of this training set.

Each planted copy was searched for once; every mixture of planted and synthetic volumes follows from those scores,
so the probabilities here are exact, and hold for the whole test as it stands, gate included. A test that cannot
show its power on the data at hand clears nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.evidence.aggregates import FEWEST
from meddiff_core.evidence.gates import Metric, metric_of, passes_gate
from meddiff_core.evidence.intervals import Estimate, from_count
from meddiff_core.evidence.privacy.copies import ALPHA, excess_of
from meddiff_core.evidence.privacy.planting import MIXTURE
from meddiff_core.evidence.quality.comparison import Drawing
from meddiff_core.evidence.section import Cell, Curve, Line, Table
from meddiff_core.study import AuditConfig

LEVELS = (0.01, 0.05, 0.20)
"""Shares of planted copies that have their metric."""
CURVE = (0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.50)
"""Shares at which the curve is drawn."""
STOPPED = "Chance that each copy among that share of the cohort is flagged, and so dropped, or that the gate blocks."


@dataclass(frozen=True)
class CopyGate:
    """The copy test of one cohort, with its gate."""

    size: int
    """Volumes of the cohort."""
    flagged: int
    """Of them."""
    fewest_blocked: int
    """Flagged volumes from which on the gate blocks; more than there are where it never does."""

    def planted(self, share: float) -> int:
        """Volumes that are such a share of the cohort, at least one."""
        return min(self.size, max(1, round(share * self.size)))

    def every_copy_flagged(self, share: float, caught: float) -> float:
        """Chance that none of the planted copies goes unflagged, where each is caught with probability `caught`."""
        return float(caught ** self.planted(share))

    def blocks(self, share: float, caught: float) -> float:
        """Chance that the gate blocks the mixture."""
        copies = self.planted(share)
        chance = stats.binom.sf(self.fewest_blocked - self._others_flagged - 1, copies, caught)
        return float(np.clip(self._chance_of_others(copies) @ chance, 0, 1))

    def stopped(self, share: float, caught: float) -> float:
        """Chance that every copy is flagged, or the gate blocks, or both."""
        copies = self.planted(share)
        let_through = self._others_flagged + copies < self.fewest_blocked
        dropped = self.every_copy_flagged(share, caught) * (self._chance_of_others(copies) @ let_through)
        return float(np.clip(self.blocks(share, caught) + dropped, 0, 1))

    @property
    def _others_flagged(self) -> NDArray[np.int64]:
        return np.arange(self.flagged + 1)

    def _chance_of_others(self, copies: int) -> NDArray[np.float64]:
        """Of each number of flagged volumes among those that no copy replaced."""
        return np.asarray(stats.hypergeom.pmf(self._others_flagged, self.size, self.flagged, self.size - copies))


def copy_gate(size: int, flagged: int, null_size: int, config: AuditConfig, drawing: Drawing) -> CopyGate:
    """The gate that is in force, for a cohort of some size against a null of some size."""
    return CopyGate(size, flagged, fewest_blocked(size, null_size, config, drawing))


def fewest_blocked(size: int, null_size: int, config: AuditConfig, drawing: Drawing) -> int:
    """Flagged volumes of `size` from which on `copies_excess` fails, by asking the gate itself."""
    low, high = 0, size + 1
    while low < high:
        middle = (low + high) // 2
        if _gate_blocks(middle, size, null_size, config, drawing):
            high = middle
        else:
            low = middle + 1
    return low


def _gate_blocks(count: int, size: int, null_size: int, config: AuditConfig, drawing: Drawing) -> bool:
    if count > size:
        return True
    metric = excess_metric(excess_of(count, size, null_size, ALPHA, drawing.confidence, drawing.seed))
    return not passes_gate(metric, config)


def excess_metric(excess: Estimate) -> Metric:
    """The metric that the gate reads."""
    return metric_of(
        "copies_excess", excess, "lower is better", floor=0.0,
        explanation="Flagged share beyond that of fresh real volumes, which the holdout stands for.",
    )  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """Copies that were planted, and which of them were caught."""

    caught: NDArray[np.bool_]
    """(n,)."""
    disguises: Sequence[str]
    subjects: Sequence[str]
    """Of each copy: its disguise, and whose volume it is."""

    def share(self, confidence: float, disguise: str | None = None) -> Estimate:
        """Share caught, of one disguise, or of all that the test promises to see through.

        The interval counts the subjects that were copied, not the copies.
        """
        rows = self._rows(disguise)
        people = self.people(disguise)
        return from_count(float(self.caught[rows].mean()) * people, people, confidence)

    def people(self, disguise: str | None = None) -> int:
        """Subjects whose volumes were copied in a disguise."""
        return len({self.subjects[row] for row in self._rows(disguise)})

    def _rows(self, disguise: str | None) -> list[int]:
        return [
            row for row, name in enumerate(self.disguises) if name == disguise or (not disguise and name != MIXTURE)
        ]


def power_metrics(gate: CopyGate, caught: Estimate) -> list[Metric]:
    """`power:0.01` and so on: how surely that share of copies in the cohort would be stopped."""
    return [
        metric_of(f"power:{share:g}", _over(caught, partial(gate.stopped, share)), "higher is better, up to 1", STOPPED)
        for share in LEVELS
    ]


def _over(caught: Estimate, chance: Callable[[float], float]) -> Estimate:
    """A chance that rises with the share caught, and its interval."""
    return Estimate(chance(caught.value), chance(caught.low), chance(caught.high), caught.n)


def power_table(gate: CopyGate, caught: Estimate) -> Table:
    """Per share of copies: what becomes of them."""
    rows: list[tuple[Cell, ...]] = []
    for share in LEVELS:
        stopped = _over(caught, partial(gate.stopped, share))
        chances = gate.every_copy_flagged(share, caught.value), gate.blocks(share, caught.value)
        figures = (*chances, stopped.value, stopped.low, stopped.high)
        rows.append((f"{share:.0%}", gate.planted(share), *map(_rounded, figures)))
    return Table(
        part="privacy",
        title="Power of the copy test",
        caption="If this share of the cohort were disguised copies of this study's own training volumes: the chance "
        "that each of them is flagged, and so dropped; that the gate on copies_excess blocks the cohort; and that one "
        "or the other happens.",
        columns=("share of copies", "copies", "every copy flagged", "gate blocks", "stopped", "low", "high"),
        rows=tuple(rows),
    )


def power_curve(gate: CopyGate, caught: Estimate) -> Curve:
    """The same over more shares."""
    chances = {"every copy flagged": gate.every_copy_flagged, "gate blocks": gate.blocks, "stopped": gate.stopped}
    return Curve(
        part="privacy",
        title="Power of the copy test",
        caption="Chance that disguised copies of training volumes are stopped, by the share of the cohort that they "
        "are. Bands: from how many of the planted copies were caught.",
        x="copies in the cohort (%)",
        y="probability",
        lines=tuple(_line(name, chance, caught) for name, chance in chances.items()),
    )


def _line(name: str, chance: Callable[[float, float], float], caught: Estimate) -> Line:
    y, low, high = (
        tuple(_rounded(chance(share, figure)) for share in CURVE) for figure in (caught.value, caught.low, caught.high)
    )
    return Line(name=name, x=tuple(100 * share for share in CURVE), y=y, low=low, high=high)


def disguise_table(gate: CopyGate, planted: Planted, confidence: float) -> Table:
    """Per disguise: how many copies were caught, and what becomes of 1% of the cohort."""
    names = list(dict.fromkeys(sorted(planted.disguises, key=lambda name: name == MIXTURE)))
    return Table(
        part="privacy",
        title="Planted copies by disguise",
        caption="Copies of training volumes that were planted for this audit, and the share of them that the copy "
        "test flagged. A mixture, the mean of two volumes, is shown for what goes unseen; it does not count as power.",
        columns=("disguise", "planted", "caught", "low", "high", "1% of the cohort stopped"),
        rows=tuple(_disguise_row(gate, planted, name, confidence) for name in names),
    )


def _disguise_row(gate: CopyGate, planted: Planted, name: str, confidence: float) -> tuple[Cell, ...]:
    """Figures only where copies of enough subjects stand behind them."""
    count = list(planted.disguises).count(name)
    if planted.people(name) < FEWEST:
        return name, count, None, None, None, None
    found = planted.share(confidence, name)
    figures = (found.value, found.low, found.high, gate.stopped(LEVELS[0], found.value))
    return name, count, *map(_rounded, figures)


def _rounded(figure: float) -> float:
    return round(figure, 4)
