"""What screening did to the cohort: its distance to reality before and after, and whom it let through.

A screen that rejects what is rare makes every figure of the accepted volumes better and the cohort worse. So the
first attempts, everything that was generated once for each place of the cohort, are measured beside what was accepted.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec
from meddiff_core.evidence.features.records import Extractor, Features, extract
from meddiff_core.evidence.inputs import AuditInput, FirstAttempts
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_flags, from_resamples, resample_weights
from meddiff_core.evidence.metrics import Metric, MetricSpec, Part, metric_of
from meddiff_core.evidence.quality.comparison import LARGEST_SAMPLE, extract_sides
from meddiff_core.evidence.quality.distances import (
    Sides,
    cubic_kernel,
    estimate,
    fit_projection,
    frechet_distance,
    kernel_distance,
)
from meddiff_core.evidence.quality.effects import short, span
from meddiff_core.evidence.quality.subgroups import Subgroup, subgroup_section, subgroups_of, subject_tables_of
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.evidence.selection import Selection
from meddiff_core.types import Progress

Values = NDArray[Any]
"""(n,) numbers or names."""
Shift = Callable[[Values, Values], float]
PART: Part = "screening"
REFERENCE = "training (reference)"
SCREENING_DRIFT = MetricSpec(
    name="screening_drift",
    part=PART,
    better="lower",
    reference="that of training volumes to the holdout",
    detail="feature space",
    requires="at least 4 first attempts",
)
ACCEPTANCE_RATIO = MetricSpec(name="acceptance_ratio", part=PART, better="higher", limited_by="generated")
METRICS = (SCREENING_DRIFT, ACCEPTANCE_RATIO)
LARGEST_UNION = 2000
"""Volumes of first attempts and cohort together of which every pair is compared."""
FEWEST_ATTEMPTS = 8
"""First attempts of a cell below which its rate says nothing."""
UNKNOWN = "What screening changed was not measured: the first attempts of the cohort are not known."
DRIFT = (
    "Unbiased kernel distance between the first attempts and what was accepted, no volume compared with itself: about "
    "0 without drift."
)
SHIFT = (
    "Difference between the accepted cohort and the first attempts in what was requested: largest difference of the "
    "distribution functions (Kolmogorov-Smirnov) for numbers, total variation for categories; 0 is none. p: chance of "
    "as large a difference between rejected and accepted first attempts if screening did not look at the condition "
    "(permutations)."
)


def subgroups_and_drift(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Subgroups, and the cohort before and after screening, by the first extractor."""
    extractor, data = audit.extractors[0], audit.dataset
    sides = yield from extract_sides(extractor, audit)
    smallest = min(len(sides.train), len(sides.holdout))
    groups = subgroups_of(audit.contract.conditions, data.conditions("train"), smallest)
    sections = [subgroup_section(sides, subject_tables_of(audit), groups, bootstrap)]
    if audit.first_attempts is None:
        sections.append(Section(statements=(UNKNOWN,)))
    else:
        union = yield from _union(audit, audit.first_attempts, sides.synthetic, extractor)
        sections += [
            _distance_section(union, sides, bootstrap),
            _condition_section(audit.first_attempts, audit.requested, audit.contract.conditions, bootstrap),
            acceptance_section(audit.first_attempts, groups, bootstrap),
        ]
    return Section.merge(sections)


@dataclass(frozen=True)
class Union:
    """Every volume that is in the first attempts, in the cohort, or in both, once."""

    features: Features
    first: NDArray[np.bool_]
    """(n,) whether it is in the first attempts."""
    accepted: NDArray[np.bool_]
    """(n,) whether it is in the cohort."""


def _union(
    audit: AuditInput, first: FirstAttempts, accepted: Features, extractor: Extractor
) -> Generator[Progress, None, Union]:
    """The cohort, and the first attempts that are not in it: only of these are features new."""
    attempted, kept = set(first.sample_ids), set(audit.sample_ids)
    rejected = [row for row, one in enumerate(first.sample_ids) if one not in kept]
    values = accepted.values
    if rejected:
        new = yield from extract(extractor, Selection.of(first.volumes, rejected))
        values = np.concatenate([values, new.values])
    in_first = [one in attempted for one in audit.sample_ids] + [True] * len(rejected)
    in_cohort = [True] * len(accepted) + [False] * len(rejected)
    return Union(replace(accepted, values=values), np.array(in_first), np.array(in_cohort))


def _distance_section(union: Union, sides: Sides[Features], bootstrap: Bootstrap) -> Section:
    """First attempts and cohort beside the holdout, and beside each other."""
    first = union.features.take(union.first)
    size = min(len(first) // 2, min(map(len, sides)) // 2, LARGEST_SAMPLE)
    if size < 2:
        return Section(statements=("What screening changed was not measured: it needs at least 4 first attempts.",))
    projection = fit_projection(sides.train, min(16, max(1, size // 2)), beside=union.features)
    sets = {"first attempts": first, "accepted": sides.synthetic, REFERENCE: sides.train}
    found = {
        name: [
            estimate(statistic, rows_of(one), rows_of(sides.holdout), size, bootstrap)
            for statistic, rows_of in ((kernel_distance, projection.standardise), (frechet_distance, projection))
        ]
        for name, one in sets.items()
    }
    drift = screening_drift(projection.standardise(union.features), union.first, union.accepted, bootstrap)
    table = Table(
        part=PART,
        title="Distance to the holdout before and after screening",
        caption=f"At equal sizes, by {sides.train.extractor}. The first attempts are the cohort as it would be without "
        "a screen, and without rounds of the search for copies.",
        columns=("Volumes", "Per side", "Kernel distance", "Interval", "Fréchet distance", "Its interval"),
        rows=tuple(
            (name, size, *(cell for one in both for cell in (short(one.value), span(one))))
            for name, both in found.items()
        ),
    )
    return Section(
        [metric_of(SCREENING_DRIFT, drift, DRIFT, sides.train.extractor, found[REFERENCE][0].value)], [table]
    )


def screening_drift(
    rows: Matrix, first: NDArray[np.bool_], accepted: NDArray[np.bool_], bootstrap: Bootstrap
) -> Estimate:
    """Kernel distance between two sets that share volumes, of rows (n, d) that are in either or both.

    Gretton et al. 2012, eq. 3, without the pairs of a volume with itself between the sets too: they would make the
    distance negative. The interval resamples volumes, in both sets at once. Sets without a difference give 0.
    """
    kept = _at_most(len(rows), LARGEST_UNION, bootstrap.seed)
    pairs = cubic_kernel(rows[kept], rows[kept])
    np.fill_diagonal(pairs, 0)
    sides = first[kept].astype(np.float64), accepted[kept].astype(np.float64)
    weights = resample_weights(len(kept), bootstrap.repeats, bootstrap.seed)
    value, resamples = (_shared_distance(pairs, *sides, one) for one in (np.ones((1, len(kept))), weights))
    return from_resamples(float(value[0]), resamples, bootstrap.confidence, int(min(side.sum() for side in sides)))


def _at_most(n: int, most: int, seed: int) -> NDArray[np.int64]:
    """All of 0..n-1 in order, or `most` of them."""
    return np.sort(np.random.default_rng(seed).choice(n, min(n, most), replace=False))


def _shared_distance(pairs: Matrix, first: Matrix, accepted: Matrix, weights: Matrix) -> Matrix:
    """(repeats,) of kernel values (n, n) with a zero diagonal."""
    left, right = weights * first, weights * accepted

    def mean(a: Matrix, b: Matrix) -> Matrix:
        count = a.sum(1) * b.sum(1) - (a * b).sum(1)
        return np.asarray(((a @ pairs) * b).sum(1) / np.maximum(count, 1))

    return mean(left, left) + mean(right, right) - 2 * mean(left, right)


def _condition_section(
    first: FirstAttempts, requested: Sequence[Condition], specs: Sequence[ConditionSpec], bootstrap: Bootstrap
) -> Section:
    accepted = np.array(first.accepted, dtype=np.bool_)
    rows: list[tuple[Cell, ...]] = []
    for spec in specs:
        attempted, cohort = (_values([one.get(spec.name) for one in side]) for side in (first.requested, requested))
        measure = total_variation if isinstance(spec, CategoricalCondition) else kolmogorov_smirnov
        if len(attempted) == len(accepted) and len(cohort):
            p = permutation_p(measure, attempted, accepted, bootstrap)
            rows.append((spec.name, short(measure(attempted, cohort)), None if p is None else short(p)))
    columns = ("Condition", "Shift", "p")
    table = Table(part=PART, title="Shift of conditions", caption=SHIFT, columns=columns, rows=tuple(rows))
    return Section(tables=[table] if rows else [])


def _values(column: Sequence[float | str | None]) -> Values:
    known = [one for one in column if one is not None]
    return np.array(known, dtype=np.str_ if any(isinstance(one, str) for one in known) else np.float64)


def kolmogorov_smirnov(query: Values, reference: Values) -> float:
    """Largest difference of two distribution functions."""
    return float(stats.ks_2samp(query, reference, method="asymp").statistic)  # the exact p, which nobody reads, is slow


def total_variation(query: Values, reference: Values) -> float:
    """Half the sum over categories of the difference of their shares."""
    names = np.union1d(query, reference)
    shares = [(side[:, None] == names).mean(0) for side in (query, reference)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def permutation_p(shift: Shift, values: Values, accepted: NDArray[np.bool_], bootstrap: Bootstrap) -> float | None:
    """Share of relabellings with as large a shift between accepted and rejected values (n,); None if all are alike."""
    if accepted.all() or not accepted.any():
        return None

    def shift_of(labels: NDArray[np.bool_]) -> float:
        return shift(values[labels], values[~labels])

    found = stats.permutation_test(  # of the labels: as two samples it would refuse a single rejected value
        (accepted,), shift_of, permutation_type="pairings", n_resamples=bootstrap.repeats, alternative="greater",
        vectorized=False, rng=np.random.default_rng(bootstrap.seed),
    )  # fmt: skip
    return float(found.pvalue)


def acceptance_section(first: FirstAttempts, groups: Sequence[Subgroup], bootstrap: Bootstrap) -> Section:
    """Acceptance of first attempts per cell of a category and a band, and how the lowest compares with all."""
    accepted = np.array(first.accepted, dtype=np.bool_)
    cells = {name: mask for name, mask in _cells(groups, first.requested).items() if mask.any()}
    rates = {name: from_flags(accepted[mask], bootstrap.confidence) for name, mask in cells.items()}
    overall = from_flags(accepted, bootstrap.confidence)
    rows = tuple((name, one.n, round(one.value * one.n), short(one.value), span(one)) for name, one in rates.items())
    table = Table(
        part=PART,
        title="Acceptance of first attempts",
        caption="Share of the first attempts that screening accepted, per cell of what was requested, with exact "
        "intervals.",
        columns=("Cell", "Attempts", "Accepted", "Share", "Interval"),
        rows=(*rows, ("all", overall.n, int(accepted.sum()), short(overall.value), span(overall))),
    )
    masks = [mask for mask in cells.values() if mask.sum() >= FEWEST_ATTEMPTS]
    if not masks or not accepted.any():
        return Section(tables=[table])
    return Section([_ratio_metric([accepted[mask] for mask in masks], overall, bootstrap)], [table])


def _cells(groups: Sequence[Subgroup], requested: Sequence[Condition]) -> dict[str, NDArray[np.bool_]]:
    """Which requests fall into each category and band together, or into each of whichever kind there is."""
    inside = {group: group.holds(requested) for group in groups}
    categories = [group for group in groups if group.category is not None]
    bands = [group for group in groups if group.category is None]
    if not categories or not bands:
        return {group.name: mask for group, mask in inside.items()}
    return {f"{a.name}, {b.name}": inside[a] & inside[b] for a, b in product(categories, bands)}


def _ratio_metric(cells: Sequence[NDArray[np.bool_]], overall: Estimate, bootstrap: Bootstrap) -> Metric:
    """Intervals of the cells hold together (Bonferroni), since the lowest of many is low by chance."""
    together = 1 - (1 - bootstrap.confidence) / len(cells)
    rates = [from_flags(cell, together) for cell in cells]
    lowest = min(rates, key=lambda rate: rate.value)
    value, low, high = (min(ends) / overall.value for ends in zip(*(rate.figures for rate in rates), strict=True))
    found = Estimate(value, low, max(value, high), lowest.n)
    words = (
        f"Acceptance of first attempts in the cell where it is lowest, over that of all; of {len(rates)} cells with at "
        f"least {FEWEST_ATTEMPTS} first attempts. 1 is even; lower is a kind of volume that screening keeps out."
    )
    return metric_of(ACCEPTANCE_RATIO, found, words)
