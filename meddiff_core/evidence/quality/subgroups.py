"""Whether the cohort is as near to reality for women as for men, for the old as for the young.

A mean over everyone hides a group that is imitated badly. Groups are the categories of a condition and bands of a
number, with round edges; what would disclose fewer than five real subjects is not shown, nor what it can be
computed from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec
from meddiff_core.evidence.aggregates import STEPS
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.features.records import Features
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Matrix
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.quality.comparison import LARGEST_SAMPLE
from meddiff_core.evidence.quality.distances import Sides, beside_real, fit_projection, kernel_distance
from meddiff_core.evidence.quality.effects import short, span
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_estimates
from meddiff_core.evidence.section import Cell, Section, Table

KERNEL_SUBGROUP = MetricSpec(
    name="kernel_subgroup",
    part="quality",
    better="lower",
    reference="that of training volumes of the subgroup",
    detail="feature space and subgroup",
    requires="conditions that are known of enough real volumes (data.covariates)",
)
METRICS = (KERNEL_SUBGROUP,)
FEWEST_VOLUMES = 8
"""Synthetic, training and held-out volumes that a subgroup needs."""
FEWEST_NEIGHBOURS = 16
"""Volumes per side below which the balls of recall and coverage hold most of a set."""
FEWEST_FOR_THREE = 36
"""Training and held-out volumes from which a number is cut into three bands instead of two."""
UNGROUPED = "No subgroups were compared: that needs conditions that are known of the real volumes (data.covariates)."
CAPTION = (
    "Kernel distance of synthetic to held-out volumes of the same subgroup at equal sizes, and its reference, that of "
    "training volumes of the subgroup. Volumes whose condition is not known are in none."
)


@dataclass(frozen=True)
class Subgroup:
    """The volumes with one category, or with a number within a band."""

    name: str
    condition: str
    category: str | None = None
    low: float = -np.inf
    high: float = np.inf
    """The band reaches from `low` up to, but not including, `high`."""

    def holds(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """(n,) whether each volume is in it."""
        return np.array([self._has(one.get(self.condition)) for one in conditions], dtype=np.bool_)

    def _has(self, value: float | str | None) -> bool:
        if self.category is not None:
            return value == self.category
        return isinstance(value, int | float) and self.low <= value < self.high


def subgroups_of(specs: Sequence[ConditionSpec], train: Sequence[Condition], volumes: int) -> list[Subgroup]:
    """Categories, and two or three bands per number; `volumes` is the size of the smallest real set."""
    bands = 3 if volumes >= FEWEST_FOR_THREE else 2
    found: list[Subgroup] = []
    for spec in specs:
        if isinstance(spec, CategoricalCondition):
            found += [Subgroup(f"{spec.name} {one}", spec.name, category=one) for one in spec.categories]
        else:
            values = [value for one in train if isinstance(value := one.get(spec.name), int | float)]
            found += _bands(spec.name, np.array(values, dtype=np.float64), bands)
    return found


def _bands(name: str, values: Matrix, bands: int) -> list[Subgroup]:
    edges = round_quantiles(values, bands)
    if not edges:
        return []
    texts = [f"{edge:.10g}" for edge in edges]
    inner = [f"{low} to {high}" for low, high in pairwise(texts)]
    names = [f"below {texts[0]}", *inner, f"from {texts[-1]}"]
    limits = zip(names, [-np.inf, *edges], [*edges, np.inf], strict=True)
    return [Subgroup(f"{name} {text}", name, low=low, high=high) for text, low, high in limits]


def round_quantiles(values: Matrix, parts: int) -> list[float]:
    """Edges that cut values (n,) into about equal parts, rounded to a tenth of where most of them lie."""
    low, high = np.quantile(values, [0.05, 0.95]) if len(values) else (0.0, 0.0)
    if high <= low:
        return []
    power = 10.0 ** np.floor(np.log10((high - low) / 10))
    step = max(factor for factor in STEPS if factor * power <= (high - low) / 10 * (1 + 1e-9)) * power
    cuts = np.quantile(values, np.arange(1, parts) / parts)
    return sorted({float(f"{round(float(cut) / step) * step:.6g}") for cut in cuts})


@dataclass(frozen=True)
class SubjectTables:
    """Conditions and subjects of the volumes."""

    conditions: Sides[Sequence[Condition]]
    """Of the synthetic volumes those that were requested."""
    subjects: Sequence[Sequence[str]]
    """Of training and held-out volumes."""


def subject_tables_of(audit: AuditInput) -> SubjectTables:
    """Conditions and subjects of everything that is audited."""
    data = audit.dataset
    conditions = Sides[Sequence[Condition]](audit.requested, data.conditions("train"), data.conditions("holdout"))
    return SubjectTables(conditions, [data.subjects("train"), data.subjects("holdout")])


def subgroup_section(
    sides: Sides[Features], tables: SubjectTables, groups: Sequence[Subgroup], bootstrap: Bootstrap
) -> Section:
    """Every subgroup that is large enough, and what the others lack."""
    if not groups:
        return Section(statements=(UNGROUPED,))
    projection = fit_projection(sides.train, min(16, max(1, min(map(len, sides)) // 4)), beside=sides.synthetic)
    standardised, coordinates = sides.each(projection.standardise), sides.each(projection)
    metrics: list[Metric] = []
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        masks = tables.conditions.each(group.holds)
        size = min(*(int(mask.sum()) for mask in masks), _disclosable(group, groups, tables)) // 2
        if lacking := _lacking(masks, tables, size):
            rows.append((group.name, *[None] * 7, lacking))
            continue
        size = min(size, LARGEST_SAMPLE)
        kernel = beside_real(kernel_distance, _taken(standardised, masks), size, bootstrap)
        words = f"Kernel distance of synthetic to held-out volumes of {group.name}."
        detail = f"{sides.train.extractor}:{group.name}"
        metrics.append(metric_of(KERNEL_SUBGROUP, kernel[0], words, detail, kernel[1].value))
        figures = [cell for one in kernel for cell in (short(one.value), span(one))]
        near = _near(_taken(coordinates, masks), 2 * size, bootstrap)
        rows.append((group.name, size, *figures, *near, "compared"))
    columns = (
        "Subgroup", "Volumes per side", "Kernel distance", "Interval", "Reference", "Interval of reference",
        "Recall (reference)", "Coverage (reference)", "Result",
    )  # fmt: skip
    table = Table(part="quality", title="Subgroups", caption=CAPTION, columns=columns, rows=tuple(rows))
    return Section(metrics, [table])


def _taken(sides: Sides[Matrix], masks: Sides[NDArray[np.bool_]]) -> Sides[Matrix]:
    return Sides(*(rows[mask] for rows, mask in zip(sides, masks, strict=True)))


def _disclosable(group: Subgroup, groups: Sequence[Subgroup], tables: SubjectTables) -> int:
    """Volumes that may be named: so many that a difference from all leaves FEWEST, or more than are there."""
    alike = [one for one in groups if one.condition == group.condition]
    known = [np.any([one.holds(side) for one in alike], axis=0) for side in tables.conditions.real]
    return max(0, min(int(side.sum()) for side in known) - FEWEST)


def _lacking(masks: Sides[NDArray[np.bool_]], tables: SubjectTables, size: int) -> str:
    """Why a subgroup cannot be compared; empty if it can."""
    counts = zip(("synthetic", "training", "held-out"), masks, strict=True)
    if short_of := [name for name, mask in counts if mask.sum() < FEWEST_VOLUMES]:
        return f"too small: needs {FEWEST_VOLUMES} {' and '.join(short_of)} volumes"
    if any(len(set(compress(*side))) < FEWEST for side in zip(tables.subjects, masks.real, strict=True)):
        return f"too small: needs {FEWEST} training and held-out subjects"
    if size < FEWEST_VOLUMES // 2:
        return f"not shown: the other subgroups need {FEWEST} training and held-out subjects"
    return ""


def _near(sides: Sides[Matrix], size: int, bootstrap: Bootstrap) -> tuple[Cell, Cell]:
    """Recall and coverage with their references; nothing for sets that are too small for neighbours."""
    if size < FEWEST_NEIGHBOURS:
        return None, None
    found, real = (neighbourhood_estimates(query, sides.holdout, size, bootstrap) for query in sides.compared)
    recall, coverage = (
        f"{short(found[name].value)}, {span(found[name])} ({short(real[name].value)})"
        for name in ("recall", "coverage")
    )
    return recall, coverage
