"""How often the copy gate blocks a cohort that holds no copy at all.

Real volumes that no gradient has seen take the place of the synthetic ones, and the whole test is run on them. A
gate that blocks honest cohorts will be switched off; one whose false alarms are not known cannot be trusted.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from meddiff_core.evidence.aggregates import FEWEST
from meddiff_core.evidence.gates import Metric, metric_of
from meddiff_core.evidence.intervals import Estimate, Matrix, from_count, from_draws
from meddiff_core.evidence.privacy.copies import ALPHA, copy_threshold, expected_share, false_alarms, rank_of
from meddiff_core.evidence.privacy.power import CopyGate, copy_gate, fewest_blocked
from meddiff_core.evidence.quality.comparison import Drawing
from meddiff_core.evidence.section import Cell, Table
from meddiff_core.study import AuditConfig

TOLERATED = 0.05
"""Share of honest cohorts that the gate may block."""
MOST_HOLDOUT = 999
"""Subjects up to which the number that would do is sought."""
SPLITS = 100
"""Of the real volumes into null and cohort, per bootstrap draw."""


@dataclass(frozen=True)
class Oracle:
    """Copy scores of real volumes that are no copies, one volume per subject."""

    holdout: Matrix
    validation: Matrix

    @property
    def null_size(self) -> int:
        """Of them that judge the others: as many as there are in the holdout, or half of it without validation."""
        return len(self.holdout) if len(self.validation) else len(self.holdout) // 2

    @property
    def scores(self) -> Matrix:
        """(n,) all of them: exchangeable if none has been learnt by heart."""
        return np.concatenate([self.holdout, self.validation])


def chance_of_blocking(gate: CopyGate, null_size: int) -> float:
    """Of an honest cohort, exactly: its flagged count is beta-binomial, whatever the distribution of scores."""
    rank = rank_of(null_size, ALPHA)
    return float(stats.betabinom.sf(gate.fewest_blocked - 1, gate.size, rank, null_size + 1 - rank))


def holdout_needed(size: int, config: AuditConfig, drawing: Drawing) -> int | None:
    """Holdout subjects at which an honest cohort is blocked once in 20; None if not even 999 would do."""
    low, high = 1, (MOST_HOLDOUT + 1) * ALPHA
    steps = range(low, round(high) + 1)
    fits = [step for step in (steps[-1],) if _blocked_at(step, size, config, drawing) <= TOLERATED]
    while fits and low < fits[-1]:
        middle = (low + fits[-1]) // 2
        if _blocked_at(middle, size, config, drawing) <= TOLERATED:
            fits.append(middle)
        else:
            low = middle + 1
    return _subjects_at(fits[-1]) if fits else None


def _subjects_at(rank: int) -> int:
    """The null size at which the threshold is its `rank`-th lowest score and the level is met exactly."""
    return round(rank / ALPHA) - 1


def _blocked_at(rank: int, size: int, config: AuditConfig, drawing: Drawing) -> float:
    null_size = _subjects_at(rank)
    gate = CopyGate(size, 0, fewest_blocked(size, null_size, config, drawing))
    return chance_of_blocking(gate, null_size)


def measured_blocking(oracle: Oracle, gate: CopyGate, drawing: Drawing) -> Estimate:
    """Share of random splits of the real volumes in which those that play the cohort are blocked.

    The cohort is drawn from them with replacement up to its real size. The interval resamples subjects.
    """
    rng = np.random.default_rng([drawing.seed, 3])
    scores, repeats = oracle.scores, max(drawing.repeats, 20)
    value = _blocked_share(scores, oracle.null_size, gate, SPLITS * 10, rng)
    draws = [
        _blocked_share(rng.choice(scores, len(scores)), oracle.null_size, gate, SPLITS, rng) for _ in range(repeats)
    ]
    found = from_draws(value, np.array(draws), drawing.confidence, len(scores))
    return Estimate(value, min(found.low, value), max(found.high, value), found.n)


def _blocked_share(scores: Matrix, null_size: int, gate: CopyGate, splits: int, rng: np.random.Generator) -> float:
    """Ties, which only a bootstrap has, are broken at random."""
    order = rng.permuted(np.tile(np.argsort(np.lexsort((rng.random(len(scores)), scores))), (splits, 1)), axis=1)
    threshold = np.sort(order[:, :null_size], axis=1)[:, rank_of(null_size, ALPHA) - 1]
    fresh = (order[:, null_size:] < threshold[:, None]).mean(1)
    return float((rng.binomial(gate.size, fresh) >= gate.fewest_blocked).mean())


@dataclass(frozen=True)
class OracleFindings:
    """What the oracle shows."""

    metric: Metric
    table: Table
    statements: list[str]


def oracle_findings(oracle: Oracle, size: int, config: AuditConfig, drawing: Drawing) -> OracleFindings:
    """The false alarm rate of the whole test, measured and in theory, for a cohort of some size."""
    gate = copy_gate(size, 0, oracle.null_size, config, drawing)
    theory = chance_of_blocking(gate, oracle.null_size)
    measured = measured_blocking(oracle, gate, drawing)
    metric = metric_of(
        "oracle_blocked", measured, "lower is better", floor=theory,
        explanation="Share of repeats in which the copy gate blocks real volumes in place of synthetic ones; the floor "
        "is what the sizes alone lead to.",
    )  # fmt: skip
    table = Table(
        part="privacy",
        title="Oracle: real volumes in place of synthetic ones",
        caption="Real volumes that no network was trained on play the cohort: the share of them that is flagged, and "
        "the share of repeats in which the copy gate blocks. Validation volumes were used to choose a model.",
        columns=(
            "who plays the cohort", "subjects", "flagged", "low", "high", "expected",
            "gate blocks", "blocks low", "blocks high",
        ),
        rows=tuple(_rows(oracle, measured, theory, drawing)),
    )  # fmt: skip
    return OracleFindings(metric, table, _statements(theory, size, oracle, config, drawing))


def _rows(oracle: Oracle, measured: Estimate, theory: float, drawing: Drawing) -> list[tuple[Cell, ...]]:
    holdout, validation = oracle.holdout, oracle.validation
    blocked = [round(figure, 4) for figure in (measured.value, measured.low, measured.high)]
    halves = false_alarms(holdout, ALPHA, drawing.repeats, drawing.confidence, drawing.seed)
    rows = [("half of the holdout", len(holdout), halves, expected_share(len(holdout) // 2, ALPHA))]
    if len(validation) >= FEWEST:
        flagged = int((validation < copy_threshold(holdout, ALPHA)).sum())
        found = from_count(flagged, len(validation), drawing.confidence)
        rows.append(("validation", len(validation), found, expected_share(len(holdout), ALPHA)))
    shares: list[tuple[Cell, ...]] = [
        (name, n, *(round(figure, 4) for figure in (found.value, found.low, found.high, expected)))
        for name, n, found, expected in rows
    ]
    repeats = ("random splits of both" if len(validation) else "random halves of the holdout", len(oracle.scores))
    return [
        *((*share, None, None, None) for share in shares),
        (*repeats, None, None, None, None, *blocked),
        ("any honest cohort, in theory", None, None, None, None, None, round(theory, 4), None, None),
    ]


def _statements(theory: float, size: int, oracle: Oracle, config: AuditConfig, drawing: Drawing) -> list[str]:
    said = (
        f"A cohort of {size} volumes without any copy would be blocked by the gate on copies_excess with probability "
        f"{theory:.2f}, since {oracle.null_size} real subjects say how many flags are normal."
    )
    if theory <= TOLERATED:
        return [said]
    needed = holdout_needed(size, config, drawing)
    advice = f"About {needed} would bring" if needed else f"Not even {MOST_HOLDOUT} would bring"
    return [f"{said} {advice} it to at most {TOLERATED:g} at this threshold."]
