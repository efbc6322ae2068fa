"""Negative control: how often the copy gate blocks a cohort that holds no copy at all.

Real volumes that no gradient has seen take the place of the synthetic ones, and the whole test is run on them. A
gate that blocks honest cohorts will be switched off; one whose false alarms are not known cannot be trusted.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from scipy import stats

from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_count, from_resamples
from meddiff_core.evidence.metrics import MetricSpec, metric_of
from meddiff_core.evidence.privacy.copies import ALPHA, copy_threshold, expected_share, false_alarms, rank_of
from meddiff_core.evidence.privacy.power import CopyGate, copy_gate
from meddiff_core.evidence.section import Cell, Section, Table, rounded
from meddiff_core.study import AuditConfig

CONTROL_BLOCKED = MetricSpec(
    name="negative_control_blocked",
    part="privacy",
    privacy=True,
    better="lower",
    reference="what the sizes alone lead to",
)
METRICS = (CONTROL_BLOCKED,)
TOLERATED = 0.05
"""Share of honest cohorts that the gate may block."""
MOST_HOLDOUT = 999
"""Subjects up to which the number that would do is sought."""
SPLITS = 100
"""Of the real volumes into null and cohort, per bootstrap sample."""


@dataclass(frozen=True)
class NegativeControl:
    """Copy scores of real volumes that are no copies, one volume per subject."""

    holdout: Matrix
    validation: Matrix

    @property
    def null_size(self) -> int:
        """Volumes that the others are tested against: as many as the holdout has, or half without validation."""
        return len(self.holdout) if len(self.validation) else len(self.holdout) // 2

    @property
    def scores(self) -> Matrix:
        """(n,) all of them: exchangeable if none has been memorised."""
        return np.concatenate([self.holdout, self.validation])


def chance_of_blocking(gate: CopyGate, null_size: int) -> float:
    """Of an honest cohort, exactly: its flagged count is beta-binomial, whatever the distribution of scores."""
    rank = rank_of(null_size, ALPHA)
    return float(stats.betabinom.sf(gate.fewest_blocked - 1, gate.size, rank, null_size + 1 - rank))


def holdout_needed(size: int, config: AuditConfig, bootstrap: Bootstrap) -> int | None:
    """Holdout subjects at which an honest cohort is blocked once in 20; None if not even 999 would do.

    Only sizes at which a threshold meets the level exactly are tried: its k-th lowest score of k / ALPHA - 1.
    """
    sizes = [round(rank / ALPHA) - 1 for rank in range(1, round((MOST_HOLDOUT + 1) * ALPHA) + 1)]

    def suffices(null_size: int) -> bool:
        return chance_of_blocking(copy_gate(size, 0, null_size, config, bootstrap), null_size) <= TOLERATED

    return sizes[bisect_left(sizes[:-1], True, key=suffices)] if suffices(sizes[-1]) else None


def measured_blocking(control: NegativeControl, gate: CopyGate, bootstrap: Bootstrap) -> Estimate:
    """Share of random splits of the real volumes in which those that play the cohort are blocked.

    The cohort is sampled from them with replacement up to its real size. The interval resamples subjects.
    """
    rng, scores, repeats = np.random.default_rng([bootstrap.seed, 3]), control.scores, max(bootstrap.repeats, 20)
    value = _blocked_share(scores, control.null_size, gate, SPLITS * 10, rng)
    resampled = [
        _blocked_share(rng.choice(scores, len(scores)), control.null_size, gate, SPLITS, rng) for _ in range(repeats)
    ]
    return from_resamples(value, np.array(resampled), bootstrap.confidence, len(scores)).holding_value


def _blocked_share(scores: Matrix, null_size: int, gate: CopyGate, splits: int, rng: np.random.Generator) -> float:
    """Ties, which only a bootstrap has, are broken at random."""
    order = rng.permuted(np.tile(np.argsort(np.lexsort((rng.random(len(scores)), scores))), (splits, 1)), axis=1)
    threshold = np.sort(order[:, :null_size], axis=1)[:, rank_of(null_size, ALPHA) - 1]
    fresh = (order[:, null_size:] < threshold[:, None]).mean(1)
    return float((rng.binomial(gate.size, fresh) >= gate.fewest_blocked).mean())


def control_section(control: NegativeControl, size: int, config: AuditConfig, bootstrap: Bootstrap) -> Section:
    """The false alarm rate of the whole test, measured and in theory, for a cohort of some size."""
    gate = copy_gate(size, 0, control.null_size, config, bootstrap)
    theory, measured = chance_of_blocking(gate, control.null_size), measured_blocking(control, gate, bootstrap)
    words = "Share of repeats in which the copy gate blocks real volumes in place of synthetic ones."
    splits = "random splits of both" if len(control.validation) else "random halves of the holdout"
    table = Table(
        part="privacy",
        title="Negative control: real volumes in place of synthetic ones",
        caption="Real volumes that no network was trained on play the cohort: the share of them that is flagged, and "
        "the share of repeats in which the copy gate blocks. Validation volumes were used to choose a model.",
        columns=(
            "who plays the cohort", "subjects", "flagged", "low", "high", "expected",
            "gate blocks", "blocks low", "blocks high",
        ),
        rows=(
            *_flagged(control, bootstrap),
            (splits, len(control.scores), *[None] * 4, *rounded(measured.figures)),
            ("any honest cohort, in theory", *[None] * 5, round(theory, 4), None, None),
        ),
    )  # fmt: skip
    return Section(
        metrics=[metric_of(CONTROL_BLOCKED, measured, words, reference=theory)],
        tables=[table],
        statements=[_statement(theory, size, control, config, bootstrap)],
    )


def _flagged(control: NegativeControl, bootstrap: Bootstrap) -> list[tuple[Cell, ...]]:
    """Rows of the table: the flagged share of half of the holdout, and of the validation side where it may be shown."""
    holdout, validation = control.holdout, control.validation
    halves = false_alarms(holdout, ALPHA, bootstrap)
    found = [("half of the holdout", len(holdout), halves, expected_share(len(holdout) // 2, ALPHA))]
    if len(validation) >= FEWEST:
        count = int((validation < copy_threshold(holdout, ALPHA)).sum())
        share = from_count(count, len(validation), bootstrap.confidence)
        found.append(("validation", len(validation), share, expected_share(len(holdout), ALPHA)))
    return [(name, n, *rounded((*share.figures, expected)), *[None] * 3) for name, n, share, expected in found]


def _statement(theory: float, size: int, control: NegativeControl, config: AuditConfig, bootstrap: Bootstrap) -> str:
    chance = (
        f"A cohort of {size} volumes without any copy would be blocked by the gate on copies_excess with probability "
        f"{theory:.2f}, since {control.null_size} real subjects say how many flags are normal."
    )
    if theory <= TOLERATED:
        return chance
    needed = holdout_needed(size, config, bootstrap)
    advice = f"About {needed} would bring" if needed else f"Not even {MOST_HOLDOUT} would bring"
    return f"{chance} {advice} it to at most {TOLERATED:g} at this threshold."
