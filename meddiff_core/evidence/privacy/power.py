"""What the copy test would do if a given share of this cohort were transformed copies of this training set.

Each canary was searched for once; every mixture of canaries and synthetic volumes follows from those scores, so the
probabilities here are exact, and hold for the whole test as it stands, gate included. A test that cannot show its
power on the data at hand clears nothing.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.gates import passes_gate
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.metrics import metric_of
from meddiff_core.evidence.privacy.canaries import COPY_POWER, MIXTURE, SearchedCanaries
from meddiff_core.evidence.privacy.copies import NullRank, excess_metric, excess_of
from meddiff_core.evidence.section import Cell, Curve, Line, Section, Table, rounded
from meddiff_core.study import AuditConfig

POWER = COPY_POWER.model_copy(update={"name": "power", "detail": "share of copies", "failure": ""})
METRICS = (POWER,)
LEVELS = (0.01, 0.05, 0.20)
"""Shares of copies that have their metric."""
CURVE = (0.005, 0.01, 0.02, 0.05, 0.10, 0.20, 0.50)
"""Shares of the points of the curve."""
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

    def copies(self, share: float) -> int:
        """Volumes that are such a share of the cohort, at least one."""
        return min(self.size, max(1, round(share * self.size)))

    def every_copy_flagged(self, share: float, caught: float) -> float:
        """Chance that none of the copies goes unflagged, where each is caught with probability `caught`."""
        return float(caught ** self.copies(share))

    def blocks(self, share: float, caught: float) -> float:
        """Chance that the gate blocks the mixture."""
        copies = self.copies(share)
        chance = stats.binom.sf(self.fewest_blocked - self._others_flagged - 1, copies, caught)
        return float(np.clip(self._chance_of_others(copies) @ chance, 0, 1))

    def stopped(self, share: float, caught: float) -> float:
        """Chance that every copy is flagged, or the gate blocks, or both."""
        copies = self.copies(share)
        let_through = self._others_flagged + copies < self.fewest_blocked
        dropped = self.every_copy_flagged(share, caught) * (self._chance_of_others(copies) @ let_through)
        return float(np.clip(self.blocks(share, caught) + dropped, 0, 1))

    @property
    def _others_flagged(self) -> NDArray[np.int64]:
        return np.arange(self.flagged + 1)

    def _chance_of_others(self, copies: int) -> NDArray[np.float64]:
        """Of each number of flagged volumes among those that no copy replaced."""
        return np.asarray(stats.hypergeom.pmf(self._others_flagged, self.size, self.flagged, self.size - copies))


def copy_gate(size: int, flagged: int, null: NullRank, config: AuditConfig, bootstrap: Bootstrap) -> CopyGate:
    """The gate that is in force, for a cohort of some size and a threshold at some place, by asking the gate itself."""

    def is_blocked(count: int) -> bool:
        return not passes_gate(excess_metric(excess_of(count, size, null, bootstrap)), config)

    return CopyGate(size, flagged, bisect_left(range(size + 1), True, key=is_blocked))


def power_section(gate: CopyGate, canaries: SearchedCanaries, confidence: float) -> Section:
    """How surely each share of copies would be stopped: `power:0.01` and so on, tables and a curve."""
    caught = canaries.share(confidence)
    stopped = {share: caught.through(partial(gate.stopped, share)) for share in LEVELS}
    by_share = Table(
        part="privacy",
        title="Power of the copy test",
        caption="If this share of the cohort were transformed copies of this study's own training volumes: the chance "
        "that each of them is flagged, and so dropped; that the gate on copies_excess blocks the cohort; and that one "
        "or the other happens.",
        columns=("share of copies", "copies", "every copy flagged", "gate blocks", "stopped", "low", "high"),
        rows=tuple(
            (
                f"{share:.0%}", gate.copies(share), *rounded((
                    gate.every_copy_flagged(share, caught.value), gate.blocks(share, caught.value), *found.figures
                )),
            )
            for share, found in stopped.items()
        ),
    )  # fmt: skip
    chances = {"every copy flagged": gate.every_copy_flagged, "gate blocks": gate.blocks, "stopped": gate.stopped}
    ends = dict(zip(("y", "low", "high"), caught.figures, strict=True))
    curve = Curve(
        part="privacy",
        title="Power of the copy test",
        caption="Chance that transformed copies of training volumes are stopped, by the share of the cohort that they "
        "are. Bands: from how many of the canaries were caught.",
        x="copies in the cohort (%)",
        y="probability",
        lines=tuple(
            Line(
                name=name,
                x=tuple(100 * share for share in CURVE),
                **{end: tuple(round(chance(share, figure), 4) for share in CURVE) for end, figure in ends.items()},
            )
            for name, chance in chances.items()
        ),
    )
    return Section(
        metrics=[metric_of(POWER, found, STOPPED, f"{share:g}") for share, found in stopped.items()],
        tables=[by_share, _by_transformation(gate, canaries, confidence)],
        curves=[curve],
    )


def _by_transformation(gate: CopyGate, canaries: SearchedCanaries, confidence: float) -> Table:
    """Figures only where copies of enough subjects stand behind them; mixtures come last."""
    rows: list[tuple[Cell, ...]] = []
    for name in dict.fromkeys(sorted(canaries.transformations, key=lambda name: name == MIXTURE)):
        figures: tuple[float | None, ...] = (None,) * 4
        if canaries.subjects_of(name) >= FEWEST:
            found = canaries.share(confidence, name)
            figures = rounded((*found.figures, gate.stopped(LEVELS[0], found.value)))
        rows.append((name, list(canaries.transformations).count(name), *figures))
    return Table(
        part="privacy",
        title="Canaries by transformation",
        caption="Copies of training volumes that were planted for this audit, and the share of them that the copy "
        "test flagged. A mixture, the mean of two volumes, is shown for what goes unseen; it does not count as power.",
        columns=("transformation", "planted", "caught", "low", "high", "1% of the cohort stopped"),
        rows=tuple(rows),
    )
