"""What the table of requested conditions gives away about the subjects it was learned from.

Singling out, linkability and inference (Giomi et al. 2023), each tried on training subjects, on the holdout and by
guessing. What works on the holdout as well is knowledge about subjects in general; only the surplus is a leak. Without
that control every faithful table counts as one.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ContinuousCondition
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.section import Section, Table, rounded
from meddiff_core.evidence.subjects import first_of_each
from meddiff_core.types import Progress

COVARIATES_RISK = MetricSpec(
    name="covariates_risk",
    part="privacy",
    privacy=True,
    better="lower",
    reference="no leak",
    detail="attack",
    requires="conditions (data.covariates)",
)
EXACT_ROWS = MetricSpec(
    name="exact_rows",
    part="privacy",
    privacy=True,
    better="lower",
    reference="how many would equal one of as many fresh subjects'",
    requires="a condition that is a number",
)
METRICS = (COVARIATES_RISK, EXACT_ROWS)
TOLERANCE = 0.05
"""How near to a number a guess must be, as a share of the condition's range."""
COMBINATIONS = 500
"""Predicates on several columns that are tried, beside one per synthetic row."""
SUCCESSES = {
    "singling_out": "can be singled out by what the table says",
    "linkability": "have two halves of their record linked by the table",
    "inference": "have a condition guessed from the others by the table",
}
"""What it means that an attack on subjects succeeds."""
FEW_CONDITIONS = "Linkability and inference need at least two conditions; there is one."
NO_NUMBERS = "No requested condition is a number: categories alone cannot be a single subject's row."
BLOCK = 256
"""Rows of one block of a search."""
STORED_DIGITS = 4
"""Significant digits that requests are stored with."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Tables:
    """One row per subject, one column per condition: a number or the index of a category; NaN is not known."""

    train: Matrix
    holdout: Matrix
    synthetic: Matrix
    specs: Sequence[ConditionSpec]

    @property
    def width(self) -> Matrix:
        """(d,) range of each number in training; 0 for categories, which are alike or are not."""
        numbers = [spec.high - spec.low if isinstance(spec, ContinuousCondition) else 0 for spec in self.specs]
        return np.array(numbers, dtype=np.float64)


@dataclass(frozen=True)
class Risk:
    """How often an attack succeeds, and what of that is a leak."""

    attack: str
    main: Estimate
    """Success on training subjects."""
    control: Estimate
    """Success on the holdout."""
    baseline: float
    """Success of a guess on training subjects."""
    leak: Estimate
    """(main - control) / (1 - control)."""


def covariate_attacks(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """The three attacks on the requested conditions, and a count of exact training rows among them."""
    specs = audit.contract.conditions
    if not specs:
        return Section(statements=("The cohort was generated without conditions: there is no table to attack.",))
    if not audit.train_known:
        return Section(statements=("The table was not attacked: it is not known whose rows were trained on.",))
    tables = _tables(audit)
    risks: dict[str, list[Risk]] = {}
    attacks = (singling_out, linkability, inference) if len(specs) > 1 else (singling_out,)
    for done, attack in enumerate(attacks, start=1):
        risks[attack.__name__] = attack(tables, bootstrap)
        yield Progress("attack conditions", done, len(attacks))
    exact = _exact_metrics(audit)
    return Section(
        metrics=[*(_risk_metric(name, found[-1]) for name, found in risks.items() if found), *exact],
        tables=[_table([risk for found in risks.values() for risk in found])],
        statements=[*([FEW_CONDITIONS] if len(specs) < 2 else []), *([] if exact else [NO_NUMBERS])],
    )


def _tables(audit: AuditInput) -> Tables:
    specs, data = audit.contract.conditions, audit.dataset
    real = [first_of_each(data.conditions(side), data.subjects(side)) for side in ("train", "holdout")]
    train, holdout, synthetic = (encode_table(rows, specs) for rows in (*real, audit.requested))
    return Tables(train, holdout, synthetic, specs)


def encode_table(rows: Sequence[Condition], specs: Sequence[ConditionSpec]) -> Matrix:
    """(n, d) numbers and indices of categories; NaN where a value is not known."""
    encoded = [[_encode(row.get(spec.name), spec) for spec in specs] for row in rows]
    return np.array(encoded, dtype=np.float64).reshape(len(rows), len(specs))


def _encode(value: float | str | None, spec: ConditionSpec) -> float:
    if value is None:
        return float("nan")
    return float(spec.categories.index(str(value))) if isinstance(spec, CategoricalCondition) else float(value)


def singling_out(tables: Tables, bootstrap: Bootstrap) -> list[Risk]:
    """Predicates made from synthetic rows that hold for exactly one real subject: on one column, on several, on any.

    Both sides lie in one pool, so that the holdout's subjects are exactly as hard to isolate, however many there are.
    """
    made = [_single_column(tables.synthetic, tables), _several_columns(tables.synthetic, tables, bootstrap.seed)]
    blind = _random_rows(tables, bootstrap.seed)
    guessed = [_single_column(blind, tables), _several_columns(blind, tables, bootstrap.seed)]
    names = "singling out, one column", "singling out, several columns", "singling out"
    pool, split = np.concatenate([tables.train, tables.holdout]), len(tables.train)
    found = []
    for name, predicates, guesses in zip(names, [*made, _joined(made)], [*guessed, _joined(guessed)], strict=True):
        alone, by_chance = _isolated(pool, predicates), float(_isolated(pool, guesses)[:split].mean())
        found.append(_risk(name, alone[:split], alone[split:], by_chance, bootstrap.confidence))
    return found


class Predicates(NamedTuple):
    """Boxes: true for a row whose every column is between `low` and `high`, both (p, d).

    A column from minus to plus infinity is not asked for; one that is asked for is false where it is not known.
    """

    low: Matrix
    high: Matrix


def _joined(parts: Sequence[Predicates]) -> Predicates:
    return Predicates(*map(np.concatenate, zip(*parts, strict=True)))


def _isolated(pool: Matrix, predicates: Predicates) -> Mask:
    """(n,) whether any predicate holds for this row of the pool alone."""
    alone = np.zeros(len(pool), dtype=bool)
    for start in range(0, len(predicates.low), BLOCK):
        low, high = (ends[start : start + BLOCK] for ends in (predicates.low, predicates.high))
        holds = np.ones((len(low), len(pool)), dtype=bool)
        for column in range(pool.shape[1]):
            values, least, most = pool[:, column], low[:, column, None], high[:, column, None]
            holds &= ((values >= least) & (values <= most)) | (np.isinf(least) & np.isinf(most))
        alone |= holds[holds.sum(1) == 1].any(0)
    return alone


def _single_column(rows: Matrix, tables: Tables) -> Predicates:
    """Values that one synthetic row alone has, and all that is beyond the extremes of the synthetic numbers."""
    boxes = []
    for column, width in enumerate(tables.width):
        values, counts = np.unique(rows[~np.isnan(rows[:, column]), column], return_counts=True)
        boxes += [(column, value, value) for value in values[counts == 1]]
        if width > 0 and len(values):
            boxes += [(column, -np.inf, values[0]), (column, values[-1], np.inf)]
    low, high = np.full((len(boxes), rows.shape[1]), -np.inf), np.full((len(boxes), rows.shape[1]), np.inf)
    for position, (column, least, most) in enumerate(boxes):
        low[position, column], high[position, column] = least, most
    return Predicates(low, high)


def _several_columns(rows: Matrix, tables: Tables, seed: int) -> Predicates:
    """Giomi et al. 2023, algorithm 2, and a box around each synthetic row that narrows as rows grow in number."""
    return _joined([_half_spaces(rows, tables, seed), _boxes(rows, tables)])


def _half_spaces(rows: Matrix, tables: Tables, seed: int) -> Predicates:
    """A random row's categories, and numbers beyond its own, away from the median, in a random choice of columns."""
    rng = np.random.default_rng([seed, 2])
    chosen = rows[rng.integers(len(rows), size=COMBINATIONS)]
    order = rng.random(chosen.shape).argsort(1)
    asked = (order < rng.integers(min(2, rows.shape[1]), rows.shape[1] + 1, (COMBINATIONS, 1))) & ~np.isnan(chosen)
    above, number = chosen >= pd.DataFrame(rows).median().to_numpy(), tables.width > 0
    low = np.where(asked & (above | ~number), chosen, -np.inf)
    return Predicates(low, np.where(asked & ~(above & number), chosen, np.inf))


def _boxes(rows: Matrix, tables: Tables) -> Predicates:
    unknown, margin = np.isnan(rows), tables.width / max(len(rows), 1)
    return Predicates(np.where(unknown, -np.inf, rows - margin), np.where(unknown, np.inf, rows + margin))


def _random_rows(tables: Tables, seed: int) -> Matrix:
    """As many rows as the synthetic table has, chosen evenly from what the conditions may be."""
    rng, count = np.random.default_rng([seed, 3]), len(tables.synthetic)
    columns = [
        rng.uniform(spec.low, spec.high, count)
        if isinstance(spec, ContinuousCondition)
        else rng.integers(len(spec.categories), size=count).astype(np.float64)
        for spec in tables.specs
    ]
    return np.stack(columns, axis=1)


def linkability(tables: Tables, bootstrap: Bootstrap) -> list[Risk]:
    """Whether both halves of a subject's columns have the same synthetic row as their nearest."""
    order = np.argsort(tables.width == 0, kind="stable")  # numbers first, so that both halves have some
    halves = order[0::2], order[1::2]

    def linked(subjects: Matrix) -> Matrix:
        rows = [_nearest(subjects, tables, half, [bootstrap.seed, 4 + turn]) for turn, half in enumerate(halves)]
        return np.asarray(rows[0] == rows[1], dtype=np.float64)

    chance = 1 / len(tables.synthetic)
    return [_risk("linkability", linked(tables.train), linked(tables.holdout), chance, bootstrap.confidence)]


def inference(tables: Tables, bootstrap: Bootstrap) -> list[Risk]:
    """Each column guessed from the synthetic row that is nearest in all others; the last is the mean over columns."""
    sides = [_guessed_right(subjects, tables, bootstrap.seed) for subjects in (tables.train, tables.holdout)]
    chances = _chances(tables)
    found = []
    for column, (spec, chance) in enumerate(zip(tables.specs, chances, strict=True)):
        train, holdout = (_known(side[:, column]) for side in sides)
        if len(train) and len(holdout):
            found.append(_risk(f"inference of {spec.name}", train, holdout, chance, bootstrap.confidence))
    if not found:
        return []
    train, holdout = (_known(pd.DataFrame(side).mean(axis=1).to_numpy()) for side in sides)
    return [*found, _risk("inference", train, holdout, float(np.mean(chances)), bootstrap.confidence)]


def _guessed_right(subjects: Matrix, tables: Tables, seed: int) -> Matrix:
    """(n, d) 1 where the guess is right, 0 where wrong, NaN where there is no secret."""
    columns = np.arange(subjects.shape[1])
    right = np.empty(subjects.shape)
    for secret in range(len(columns)):
        rows = _nearest(subjects, tables, columns[columns != secret], [seed, 6 + secret], needs=secret)
        right[:, secret] = _agrees(subjects[:, secret], tables.synthetic[rows, secret], tables.width[secret])
    return right


def _agrees(secret: Matrix, guess: Matrix | float, width: float) -> Matrix:
    """Equal, or within the tolerance; NaN where there is no secret."""
    return np.where(np.isnan(secret), np.nan, np.abs(secret - guess) <= TOLERANCE * width)


def _chances(tables: Tables) -> list[float]:
    """(d,) how often a value of a random synthetic row is right."""
    chances = []
    for column, width in enumerate(tables.width):
        secret, guess = _known(tables.train[:, column]), _known(tables.synthetic[:, column])
        if not len(secret) or not len(guess):
            chances.append(0.0)
            continue
        tried = guess[:: max(1, len(guess) // BLOCK)]
        chances.append(float(np.mean([_agrees(secret, float(value), width).mean() for value in tried])))
    return chances


def _known(values: Matrix) -> Matrix:
    return values[~np.isnan(values)]


def _nearest(
    subjects: Matrix, tables: Tables, columns: NDArray[np.int64], seed: Sequence[int], needs: int | None = None
) -> NDArray[np.int64]:
    """(n,) nearest synthetic row by Gower's distance over some columns; ties are broken at random.

    `needs` is a column that the synthetic row must know.
    """
    rng, rows = np.random.default_rng(seed), tables.synthetic
    barred = np.isnan(rows[:, needs]) if needs is not None else np.zeros(len(rows), dtype=bool)
    found = []
    for start in range(0, len(subjects), BLOCK):
        distance = gower(subjects[start : start + BLOCK, columns], rows[:, columns], tables.width[columns])
        distance[:, barred] += len(columns)
        found.append((distance + 1e-9 * rng.random(distance.shape)).argmin(1))
    return np.concatenate(found)


def gower(query: Matrix, reference: Matrix, width: Matrix) -> Matrix:
    """(n, m) mean over the columns that both rows know of |difference| / width, or of unlike categories (width 0).

    Rows that share no known column are at 1 (Gower 1971).
    """
    total, known = np.zeros((len(query), len(reference))), np.zeros((len(query), len(reference)))
    for column, scale in enumerate(width):
        gap = np.abs(query[:, column, None] - reference[:, column])
        seen = ~np.isnan(gap)
        total += np.where(seen, gap / scale if scale > 0 else gap != 0, 0)
        known += seen
    return np.where(known > 0, total / np.maximum(known, 1), 1.0)


def _risk(attack: str, main: Matrix | Mask, control: Matrix | Mask, baseline: float, confidence: float) -> Risk:
    rates = [wilson(float(np.mean(side)), len(side), confidence) for side in (main, control)]
    return Risk(attack, rates[0], rates[1], baseline, surplus(rates[0], rates[1]))


def wilson(rate: float, n: int, confidence: float) -> Estimate:
    """A success rate with its score interval (Wilson 1927).

    A subject whose columns are guessed in part is a fraction of a success; scipy's `binomtest` takes whole counts.
    """
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre, spread = rate + z**2 / (2 * n), z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return Estimate(rate, max(0.0, min(float(low), rate)), min(1.0, max(float(high), rate)), n)


def surplus(main: Estimate, control: Estimate) -> Estimate:
    """(main - control) / (1 - control), the share of training subjects that only training gives away.

    Giomi et al. 2023, eq. 1. The bounds of both rates are squared and added (Newcombe 1998), so that 18 subjects of
    control give a wide interval and not a false certainty. Below 0 the holdout is attacked with more success.
    """

    def share(hit: float, missed_without: float) -> float:
        return float(np.clip(1 - (1 - hit) / max(missed_without, 1e-12), -1, 1))

    value = share(main.value, 1 - control.value)
    down = value - share(main.low, 1 - control.value), value - share(main.value, 1 - control.high)
    up = share(main.high, 1 - control.value) - value, share(main.value, 1 - control.low) - value
    low, high = value - np.hypot(*down), value + np.hypot(*up)
    return Estimate(value, max(-1.0, float(low)), min(1.0, float(high)), min(main.n, control.n))


def _exact_metrics(audit: AuditInput) -> list[Metric]:
    """How many requested rows are a training row; the reference is how many would be one of as many fresh subjects."""
    specs = audit.contract.conditions
    requested = [row for row in audit.requested if _numbers(row, specs)]
    if not requested:
        return []
    train, holdout = (audit.dataset.conditions(side) for side in ("train", "holdout"))
    count = float(exact_rows(requested, train, specs))
    fresh = exact_rows(requested, holdout, specs) * len(train) / max(len(holdout), 1)
    words = "Requested rows that equal a training subject's in every number: must be 0."
    return [metric_of(EXACT_ROWS, Estimate(count, count, count, len(requested)), words, reference=fresh)]


def exact_rows(requested: Sequence[Condition], real: Sequence[Condition], specs: Sequence[ConditionSpec]) -> int:
    """Requested rows with at least one number that equal a real row in all their numbers.

    Two or more numbers agree if they do as stored, to four digits. A single number, such as an age, is met by chance:
    it must agree exactly, and every category with it. Categories alone are many subjects'.
    """
    known = {_key(row, specs) for row in real}
    return sum(bool(_numbers(row, specs)) and _key(row, specs) in known for row in requested)


def _numbers(row: Condition, specs: Sequence[ConditionSpec]) -> dict[str, float]:
    names = [spec.name for spec in specs if isinstance(spec, ContinuousCondition)]
    return {name: float(value) for name in names if isinstance(value := row.get(name), int | float)}


def _key(row: Condition, specs: Sequence[ConditionSpec]) -> tuple[object, ...]:
    """Equal for rows that count as the same one."""
    numbers = _numbers(row, specs)
    if len(numbers) > 1:
        return tuple((name, f"{value:.{STORED_DIGITS}g}") for name, value in numbers.items())
    return tuple((spec.name, row.get(spec.name)) for spec in specs)


def _risk_metric(attack: str, risk: Risk) -> Metric:
    succeeds = f"Share of training subjects who {SUCCESSES[attack]}"
    words = f"{succeeds}, beyond the share of holdout subjects: about 0 without a leak."
    return metric_of(COVARIATES_RISK, risk.leak, words, attack, reference=0.0)


def _table(risks: Sequence[Risk]) -> Table:
    figures = [(one.main.value, one.control.value, one.baseline, *one.leak.figures) for one in risks]
    return Table(
        part="privacy",
        title="Attacks on the table of conditions",
        caption="Success on training subjects, on holdout subjects, and of a guess. The risk is what the first has "
        "beyond the second; its interval should hold 0.",
        columns=("attack", "training", "holdout", "guess", "risk", "low", "high"),
        rows=tuple((risk.attack, *rounded(row, 3)) for risk, row in zip(risks, figures, strict=True)),
    )
