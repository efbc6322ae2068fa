"""Whether a volume has the property that was asked for.

Each condition that can be measured on the generated volume is compared with its request. A study whose
conditions do nothing would otherwise release a covariate table that describes no volume in it.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from meddiff_core.contract import Condition, ContinuousCondition
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_resamples, resample_weights
from meddiff_core.evidence.measurements import MEASURED_VOLUME
from meddiff_core.evidence.metrics import Metric, MetricSpec, Part, metric_of
from meddiff_core.evidence.quality.effects import short, span
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.types import Progress

PART: Part = "fidelity"
Source = Literal["labels", "segmentation"]
"""What measures a volume: the label map that was generated with the image, or a segmentation of the image."""
_R = MetricSpec(
    name="fidelity_r",
    part=PART,
    better="higher",
    limited_by="synthetic",
    detail="condition",
    requires="a condition that is the volume of a structure on the label maps, with more than one value",
)
FIDELITY: dict[Source, MetricSpec] = {
    "labels": _R,
    "segmentation": _R.model_copy(
        update={
            "name": "fidelity_r_segmentation",
            "reference": "that of segmentations and label maps of the holdout",
        }
    ),
}
METRICS = tuple(FIDELITY.values())
COLUMNS = (
    "Condition", "Volumes", "r", "Interval of r", "Slope", "Interval of slope",
    "Mean error", "Interval of mean error", "RMSE", "Interval of RMSE",
)  # fmt: skip
CAPTION = (
    "r: Pearson correlation of what was asked for and what was measured; slope: of measured on requested, 1 follows "
    "fully; errors: measured minus requested, in the unit of the condition."
)


@dataclass(frozen=True)
class Fidelity:
    """Requested against measured. None where there is too little to tell."""

    r: Estimate
    """Pearson correlation; 0 within [-1, 1] where either side does not vary."""
    slope: Estimate | None
    """Of measured on requested; 1 follows fully."""
    mean_error: Estimate | None
    """Mean of measured minus requested, in the unit of the condition."""
    rmse: Estimate | None
    """Root mean square of the same."""


def fidelity(requested: ArrayLike, measured: ArrayLike, bootstrap: Bootstrap) -> Fidelity:
    """Agreement with bootstrap intervals over volumes.

    Fewer than 3 volumes, or a side that does not vary, are no evidence: r is 0 and its interval [-1, 1].
    """
    x, y = np.asarray(requested, np.float64), np.asarray(measured, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"requested and measured must be of one length, are {x.shape} and {y.shape}")
    nothing = Estimate(0.0, -1.0, 1.0, len(x))
    if len(x) < 3:
        return Fidelity(nothing, None, None, None)
    whole = np.full((1, len(x)), 1 / len(x))
    weights = resample_weights(len(x), bootstrap.repeats, bootstrap.seed) / len(x)

    def estimated(statistic: Matrix, resamples: Matrix) -> Estimate:
        return from_resamples(float(statistic[0]), resamples, bootstrap.confidence, len(x))

    error = y - x
    mean_error = estimated(whole @ error, weights @ error)
    rmse = estimated(np.sqrt(whole @ error**2), np.sqrt(weights @ error**2))
    if not _varies(x) or not _varies(y):
        return Fidelity(nothing, None, mean_error, rmse)
    found, resampled = _line(x, y, whole), _line(x, y, weights)
    return Fidelity(estimated(found[0], resampled[0]), estimated(found[1], resampled[1]), mean_error, rmse)


def _varies(values: Matrix) -> bool:
    return bool(values.std() > 1e-9 * max(1.0, float(np.abs(values).max())))


def _line(x: Matrix, y: Matrix, share: Matrix) -> tuple[Matrix, Matrix]:
    """(repeats,) weighted correlations and slopes; 0 for a resample in which one side does not vary.

    All resamples at once, under weights: scipy's `linregress` has neither.
    """
    dx, dy = x - (share @ x)[:, None], y - (share @ y)[:, None]
    covariance = (share * dx * dy).sum(1)
    spread_x, spread_y = (share * dx**2).sum(1), (share * dy**2).sum(1)
    size, tiny = np.sqrt(spread_x * spread_y), 1e-9 * x.std() * y.std()
    r = np.where(size > tiny, covariance / np.maximum(size, tiny), 0.0)
    return r, np.where(size > tiny, covariance / np.maximum(spread_x, 1e-18 * x.var()), 0.0)


def fidelity_of_labels(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Every condition that is the volume of a structure, measured on the generated label maps."""
    measurable = [spec for spec in audit.contract.conditions if isinstance(spec, ContinuousCondition) and spec.group]
    columns = {
        spec.name: np.array([one.get(f"{MEASURED_VOLUME}{spec.group}", np.nan) for one in audit.measured], np.float64)
        for spec in measurable
    }
    section = fidelity_section(audit.requested, columns, "labels", bootstrap)
    yield Progress("fidelity", 1, 1)
    others = [spec.name for spec in audit.contract.conditions if spec not in measurable]
    unmeasured = f"Whether {' and '.join(others)} of a volume are as requested cannot be measured on its label map."
    return Section(section.metrics, section.tables, statements=(unmeasured,) if others else ())


def fidelity_section(
    requested: Sequence[Condition],
    measured: Mapping[str, ArrayLike],
    source: Source,
    bootstrap: Bootstrap,
    references: Mapping[str, float] | None = None,
) -> Section:
    """Agreement per condition; `measured` holds a figure per volume, not a number where there is none.

    `references` are the correlations that real volumes show, where the metric of the source has any.
    """
    found = {name: _agreement(requested, name, values, bootstrap) for name, values in measured.items()}
    if not found:
        return Section()
    table = Table(
        part=PART,
        title=f"Requested against measured ({source})",
        caption=CAPTION,
        columns=COLUMNS,
        rows=tuple(_row(name, one) for name, one in found.items()),
    )
    real = references or {}
    return Section([_metric(name, source, one, real.get(name)) for name, one in found.items()], [table])


def _agreement(requested: Sequence[Condition], name: str, measured: ArrayLike, bootstrap: Bootstrap) -> Fidelity:
    asked = [one.get(name) for one in requested]
    wanted = np.array([value if isinstance(value, int | float) else np.nan for value in asked], np.float64)
    figures = np.asarray(measured, np.float64)
    known = np.isfinite(wanted) & np.isfinite(figures)
    return fidelity(wanted[known], figures[known], bootstrap)


def _metric(name: str, source: Source, found: Fidelity, reference: float | None) -> Metric:
    line = "" if found.slope is None else f", slope {found.slope.value:.2f}"
    error = "" if found.mean_error is None else f", mean error {found.mean_error.value:.4g}"
    words = f"Correlation of requested and measured {name} by {source}{line}{error}."
    return metric_of(FIDELITY[source], found.r, words, name, reference)


def _row(name: str, found: Fidelity) -> tuple[Cell, ...]:
    figures = (found.r, found.slope, found.mean_error, found.rmse)
    pairs = [(None, None) if one is None else (short(one.value), span(one)) for one in figures]
    return (name, found.r.n, *(cell for pair in pairs for cell in pair))
