"""Negative control: how often the copy gate blocks a cohort that holds no copy at all.

Real volumes that no gradient has seen take the place of the synthetic ones, and the whole test is run on them. A
gate that blocks honest cohorts will be switched off; one whose false alarms are not known cannot be trusted.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_count, from_resamples
from meddiff_core.evidence.metrics import MetricSpec, metric_of
from meddiff_core.evidence.privacy.copies import (
    ABOVE_COPIES,
    ALPHA,
    NullRank,
    copy_threshold,
    false_alarms,
    highest_caught,
    level_of,
)
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
QUANTILES = 2000
"""Points of the distribution of the share of fresh volumes over which a chance is averaged."""


@dataclass(frozen=True)
class NegativeControl:
    """Copy scores of real volumes that are no copies, one volume per subject."""

    holdout: Matrix
    validation: Matrix
    planted: Matrix
    """Scores of the planted copies that the threshold is set by."""
    null: NullRank
    """Of that threshold, for which all of the real volumes are the null."""

    @property
    def null_size(self) -> int:
        """Volumes that the others are tested against: as many as the holdout has, or half without validation."""
        return len(self.holdout) if len(self.validation) else len(self.holdout) // 2

    @property
    def null_of_splits(self) -> NullRank:
        """Of the threshold where so few are the null."""
        return level_of(self.null_size) if self.null.is_exact else replace(self.null, size=self.null_size)

    @property
    def scores(self) -> Matrix:
        """(n,) all of them: exchangeable if none has been memorised."""
        return np.concatenate([self.holdout, self.validation])


def chance_of_blocking(gate: CopyGate, null: NullRank) -> float:
    """Of an honest cohort. Exact where the threshold is a null score: the flagged count is beta-binomial.

    Below it, an upper limit wherever scores of fresh volumes get rarer towards 0: the share below the threshold is
    then at most `null.fraction` of that below the null score.
    """
    left = null.size + 1 - null.rank
    if null.is_exact:
        return float(stats.betabinom.sf(gate.fewest_blocked - 1, gate.size, null.rank, left))
    shares = stats.beta.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, null.rank, left)
    return float(stats.binom.sf(gate.fewest_blocked - 1, gate.size, null.fraction * shares).mean())


def subjects_needed(null: NullRank, size: int, config: AuditConfig, bootstrap: Bootstrap) -> int | None:
    """Real subjects at which an honest cohort is blocked once in 20; None if not even 999 would do.

    On the null, only sizes at which a threshold meets the level exactly are tried: its k-th lowest score of
    k / ALPHA - 1.
    """
    ranks = range(1, round((MOST_HOLDOUT + 1) * ALPHA) + 1)
    sizes = [round(rank / ALPHA) - 1 for rank in ranks] if null.is_exact else range(1, MOST_HOLDOUT + 1)

    def suffices(null_size: int) -> bool:
        one = level_of(null_size) if null.is_exact else replace(null, size=null_size)
        return chance_of_blocking(copy_gate(size, 0, one, config, bootstrap), one) <= TOLERATED

    return sizes[bisect_left(sizes[:-1], True, key=suffices)] if suffices(sizes[-1]) else None


def measured_blocking(control: NegativeControl, size: int, config: AuditConfig, bootstrap: Bootstrap) -> Estimate:
    """Share of random splits of the real volumes in which those that play the cohort of some size are blocked.

    The cohort is sampled from them with replacement up to its real size. The interval resamples subjects.
    """
    rng, scores, repeats = np.random.default_rng([bootstrap.seed, 3]), control.scores, max(bootstrap.repeats, 20)
    nulls = level_of(control.null_size), NullRank(control.null_size, 1, ABOVE_COPIES)
    on_null, below = (copy_gate(size, 0, null, config, bootstrap) for null in nulls)

    def blocked_share(scores: Matrix, splits: int) -> float:
        fresh, apart = _flagged_shares(scores, control, splits, rng)
        fewest = np.where(apart, below.fewest_blocked, on_null.fewest_blocked)
        return float((rng.binomial(size, fresh) >= fewest).mean())

    value = blocked_share(scores, SPLITS * 10)
    resampled = [blocked_share(rng.choice(scores, len(scores)), SPLITS) for _ in range(repeats)]
    return from_resamples(value, np.array(resampled), bootstrap.confidence, len(scores)).holding_value


def _flagged_shares(
    scores: Matrix, control: NegativeControl, splits: int, rng: np.random.Generator
) -> tuple[Matrix, NDArray[np.bool_]]:
    """(splits,) share of those outside the null that is flagged, and whether the threshold was below the null.

    Ties, which only a bootstrap has, are broken at random.
    """
    count, ordered = control.null_size, np.sort(scores)
    order = rng.permuted(np.tile(np.argsort(np.lexsort((rng.random(len(scores)), scores))), (splits, 1)), axis=1)
    null = np.sort(order[:, :count], axis=1)
    on_null = null[:, level_of(count).rank - 1]
    lowest, copies = ordered[null[:, 0]], highest_caught(control.planted, ordered[on_null])
    apart = copies < lowest
    copies = np.where(apart, copies, lowest)
    below = np.searchsorted(ordered, copies + ABOVE_COPIES * (lowest - copies))
    threshold = np.where(apart, below, on_null)
    return (order[:, count:] < threshold[:, None]).mean(1), apart


def control_section(control: NegativeControl, size: int, config: AuditConfig, bootstrap: Bootstrap) -> Section:
    """The false alarm rate of the whole test, measured and in theory, for a cohort of some size."""
    null = control.null_of_splits
    theory = chance_of_blocking(copy_gate(size, 0, null, config, bootstrap), null)
    measured = measured_blocking(control, size, config, bootstrap)
    splits = "random splits of both" if len(control.validation) else "random halves of the holdout"
    words = "Share of repeats in which the copy gate blocks real volumes in place of synthetic ones."
    table = Table(
        part="privacy",
        title="Negative control: real volumes in place of synthetic ones",
        caption="Real volumes that no network was trained on play the cohort: the share of them that is flagged, and "
        "the share of repeats in which the copy gate blocks. Validation volumes were used to choose a model.",
        columns=(
            "who plays the cohort", "subjects", "flagged", "low", "high", "at most",
            "gate blocks", "blocks low", "blocks high",
        ),
        rows=(
            *_flagged(control, bootstrap),
            (splits, len(control.scores), *[None] * 4, *rounded(measured.figures)),
            ("any honest cohort against as many, in theory", *[None] * 5, round(theory, 4), None, None),
        ),
    )  # fmt: skip
    return Section(
        metrics=[metric_of(CONTROL_BLOCKED, measured, words, reference=theory)],
        tables=[table],
        statements=[_statement(control.null, size, config, bootstrap)],
    )


def _flagged(control: NegativeControl, bootstrap: Bootstrap) -> list[tuple[Cell, ...]]:
    """Rows of the table: the flagged share of half of the holdout, and of the validation side where it may be shown."""
    holdout, validation = control.holdout, control.validation
    halves = false_alarms(holdout, control.planted, bootstrap)
    found = [("half of the holdout", len(holdout), halves, level_of(len(holdout) // 2).highest_share)]
    if len(validation) >= FEWEST:
        threshold = copy_threshold(holdout, control.planted)
        share = from_count(int((validation < threshold.value).sum()), len(validation), bootstrap.confidence)
        found.append(("validation", len(validation), share, threshold.null.highest_share))
    return [(name, n, *rounded((*share.figures, expected)), *[None] * 3) for name, n, share, expected in found]


def _statement(null: NullRank, size: int, config: AuditConfig, bootstrap: Bootstrap) -> str:
    theory = chance_of_blocking(copy_gate(size, 0, null, config, bootstrap), null)
    chance = (
        f"A cohort of {size} volumes without any copy would be blocked by the gate on copies_excess with "
        f"probability {'' if null.is_exact else 'at most '}{theory:.2f}: {null.size} real subjects of holdout and "
        f"validation say how fresh volumes score, and {_place(null)}."
    )
    if theory <= TOLERATED:
        return chance
    needed = subjects_needed(null, size, config, bootstrap)
    advice = f"About {needed} would bring" if needed else f"Not even {MOST_HOLDOUT} would bring"
    return f"{chance} {advice} it to at most {TOLERATED:g} at this threshold."


def _place(null: NullRank) -> str:
    if null.is_exact:
        return "some planted copies score as they do"
    return f"planted copies score so much lower that the threshold is {null.fraction:.2f} of the lowest of them"
