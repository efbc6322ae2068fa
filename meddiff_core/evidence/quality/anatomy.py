"""Whether synthetic volumes are built like real ones: intensities, and size, shape, place and wholeness of structures.

Feature distances can miss what an anatomist sees at once: a blurred texture, a torn structure, ventricles that no
longer grow as the cortex shrinks. Each volume is read once for all of it.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.evidence.aggregates import Histogram, histogram, intensity_histogram, intensity_shares
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Matrix, from_resamples, resample_weights
from meddiff_core.evidence.measurements import MEASURED_VOLUME, measure
from meddiff_core.evidence.metrics import Metric, MetricSpec, Part, metric_of
from meddiff_core.evidence.quality.comparison import LARGEST_SAMPLE
from meddiff_core.evidence.quality.distances import estimate
from meddiff_core.evidence.quality.effects import (
    COLUMNS,
    READING,
    Comparison,
    Sample,
    cells,
    compare,
    effect_metric,
    short,
    span,
)
from meddiff_core.evidence.quality.shapes import AXES, CENTROID, SURFACE, shape
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.evidence.subjects import numbered
from meddiff_core.types import Progress, Volumes

PART: Part = "anatomy"


def _shift(name: str, part: Part = PART, detail: str = "") -> MetricSpec:
    needs = f"{FEWEST} training and {FEWEST} held-out subjects" + (
        " and label maps (data.labels)" if detail == "structure" else ""
    )
    return MetricSpec(
        name=name, part=part, better="lower", reference="that of the holdout", detail=detail, requires=needs
    )


EFFECT = _shift("effect", "quality", "measurement")
EXCESS_NOISE = EFFECT.model_copy(update={"name": "effect:excess_noise", "better": "nearer", "detail": ""})
SYMMETRY_EFFECT, ASYMMETRY_EFFECT = _shift("symmetry_effect"), _shift("symmetry_effect:intensity")
VOLUME_EFFECT, SURFACE_EFFECT = (
    _shift("volume_effect", detail="structure"),
    _shift("surface_effect", detail="structure"),
)
COMPONENTS_EFFECT = _shift("components_effect", detail="structure")
VOLUME_DISTANCE = MetricSpec(
    name="volume_distance",
    part=PART,
    better="lower",
    reference="that of the training volumes",
    detail="structure",
    requires="label maps (data.labels)",
)
STRUCTURE_CORRELATION = MetricSpec(
    name="structure_correlation",
    part=PART,
    better="lower",
    reference="that of the training volumes",
    requires="label maps (data.labels) of two structures",
)
METRICS = (
    EFFECT, EXCESS_NOISE, SYMMETRY_EFFECT, ASYMMETRY_EFFECT, VOLUME_EFFECT, SURFACE_EFFECT, COMPONENTS_EFFECT,
    VOLUME_DISTANCE, STRUCTURE_CORRELATION,
)  # fmt: skip
APPEARANCE = ("mean", "std", "foreground_share", "p50", "sharpness", "noise")
"""Measurements of intensity whose shift is reported."""
OFFSET = "offset_mm:"
"""Distance of a structure's centroid from its mean place in the training set."""
MOST_PAIRS = 40
"""Rows of the table of correlations."""
UNLABELLED = "Anatomy was not measured: it needs label maps (data.labels)."
FEW_SUBJECTS = f"Anatomy is not shown: it needs at least {FEWEST} training and {FEWEST} held-out subjects."

Found = dict[str, Comparison]
"""By name of the figure."""


@dataclass(frozen=True)
class Measured:
    """What was measured of the volumes of one set."""

    figures: dict[str, Matrix]
    """(n,) by name."""
    subjects: NDArray[np.intp]
    """(n,) as in `Sample`."""
    shares: Matrix
    """(n, bins) of intensity."""

    def sample(self, name: str) -> Sample:
        """One figure."""
        return Sample(self.figures[name], self.subjects)

    def volumes(self, groups: Sequence[str]) -> Matrix:
        """(n, groups) in mm3."""
        return np.stack([self.figures[f"{MEASURED_VOLUME}{group}"] for group in groups], axis=1)


Three = tuple[Measured, Measured, Measured]
"""Synthetic, train, holdout."""


def appearance_and_anatomy(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Intensities, structures, their correlations and symmetry, beside train and holdout."""
    sets = yield from _measure_sets(audit)
    subjects = [len(np.unique(one.subjects)) for one in sets[1:]]
    if min(subjects) < FEWEST:
        return Section(statements=(FEW_SUBJECTS,))
    found = {name: _compare(name, sets, bootstrap) for name in _names(audit.contract)}
    metrics = [*appearance_metrics(sets, found, bootstrap), *_symmetry_metrics(found)]
    tables = [_symmetry_table(found)]
    groups = list(audit.contract.labels)
    if groups:
        metrics += [metric for group in groups for metric in _structure_metrics(group, found)]
        tables.append(_structure_table(groups, found))
    if len(groups) > 1:
        metrics.append(_correlation_metric([one.volumes(groups) for one in sets], bootstrap))
        tables.append(_correlation_table(groups, sets, bootstrap))
    return Section(
        metrics=metrics,
        tables=tables,
        histograms=_histograms(sets, audit, groups),
        statements=() if groups else (UNLABELLED,),
    )


def _compare(name: str, sets: Three, bootstrap: Bootstrap) -> Comparison:
    synthetic, train, holdout = (one.sample(name) for one in sets)
    return compare(synthetic, train, holdout, bootstrap)


def _measure_sets(audit: AuditInput) -> Generator[Progress, None, Three]:
    data, contract = audit.dataset, audit.contract
    accepted = yield from measure_set("measure cohort", audit.accepted, contract, None, audit.measured)
    train = yield from measure_set("measure train", data.volumes("train"), contract, data.subjects("train"))
    holdout = yield from measure_set("measure holdout", data.volumes("holdout"), contract, data.subjects("holdout"))
    where = {
        f"{CENTROID}{group}:{axis}": float(train.figures[f"{CENTROID}{group}:{axis}"].mean())
        for group in contract.labels
        for axis in AXES
    }
    synthetic, real, fresh = (_with_offsets(one, contract, where) for one in (accepted, train, holdout))
    return synthetic, real, fresh


def measure_set(
    label: str,
    volumes: Volumes,
    contract: Contract,
    subjects: Sequence[str] | None,
    measured: Sequence[Mapping[str, float]] | None = None,
) -> Generator[Progress, None, Measured]:
    """Figures and intensity shares of every volume; `measured` are figures that are known already."""
    rows: list[dict[str, float]] = []
    shares = []
    for index in range(len(volumes)):
        image, labels = volumes.image(index), volumes.label(index)
        known = measured[index] if measured is not None else measure(image, labels, contract)
        rows.append({**known, **shape(image, labels, contract)})
        shares.append(intensity_shares(image, contract))
        yield Progress(label, index + 1, len(volumes))
    figures = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}
    return Measured(figures, numbered(subjects, len(rows)), np.stack(shares))


def _with_offsets(measured: Measured, contract: Contract, where: Mapping[str, float]) -> Measured:
    """With the distance of each centroid from `where` they are on average, in mm."""
    figures = dict(measured.figures)
    for group in contract.labels:
        names = [f"{CENTROID}{group}:{axis}" for axis in AXES]
        figures[f"{OFFSET}{group}"] = np.sqrt(sum(np.square(figures[name] - where[name]) for name in names))
    return replace(measured, figures=figures)


def _structure_figures(group: str) -> dict[str, str]:
    """Name of each figure of a structure, and how the table calls it."""
    return {
        f"{MEASURED_VOLUME}{group}": "volume, mm3",
        f"{SURFACE}{group}": "surface to volume, 1/mm",
        f"pieces:{group}": "components",
        f"components:{group}": "share in the largest component",
        f"{OFFSET}{group}": "centroid from its mean place, mm",
    }


def _names(contract: Contract) -> list[str]:
    structures = [name for group in contract.labels for name in _structure_figures(group)]
    return [*APPEARANCE, "asymmetry", *(["symmetry"] if contract.labels else []), *structures]


NOISE = (
    "Shift of the mean noise level from the training set's, in pooled standard deviations: above 0 is noisier than "
    "real volumes, below 0 lacks their noise or fine texture."
)


def appearance_metrics(sets: Three, found: Found, bootstrap: Bootstrap) -> list[Metric]:
    """Shifts of intensities, sharpness and noise, which feature distances can miss in a blurred cohort."""
    noise = found["noise"]
    signed = metric_of(EXCESS_NOISE, noise.effect, NOISE, reference=noise.effect_reference.value)
    return [*(effect_metric(EFFECT, name, found[name], name) for name in APPEARANCE), signed]


def _symmetry_metrics(found: Found) -> list[Metric]:
    names = {
        "symmetry": (SYMMETRY_EFFECT, "Dice of the label map with its mirror image"),
        "asymmetry": (ASYMMETRY_EFFECT, "intensity asymmetry"),
    }
    return [effect_metric(*words, found[name]) for name, words in names.items() if name in found]


def _structure_metrics(group: str, found: Found) -> Iterator[Metric]:
    volume = found[f"{MEASURED_VOLUME}{group}"]
    words = f"Wasserstein distance of the volumes of {group} to the holdout's, in standard deviations of training."
    yield metric_of(VOLUME_DISTANCE, volume.distance, words, group, volume.distance_reference.value)
    yield effect_metric(VOLUME_EFFECT, f"volume of {group}", volume, group)
    yield effect_metric(SURFACE_EFFECT, f"surface to volume ratio of {group}", found[f"{SURFACE}{group}"], group)
    yield effect_metric(COMPONENTS_EFFECT, f"number of components of {group}", found[f"pieces:{group}"], group)


def _structure_table(groups: Sequence[str], found: Found) -> Table:
    rows = [
        (group, title, *cells(found[name])) for group in groups for name, title in _structure_figures(group).items()
    ]
    caption = f"Surfaces by Crofton's formula; components from 4 voxels. {READING}"
    return Table(
        part=PART, title="Structures", caption=caption, columns=("Structure", "Figure", *COLUMNS), rows=tuple(rows)
    )


def _symmetry_table(found: Found) -> Table:
    names = {"symmetry": "Dice with the mirror image", "asymmetry": "intensity asymmetry, 0 to 1"}
    rows = [(title, *cells(found[name])) for name, title in names.items() if name in found]
    caption = f"Left against right, about the plane through the middle of the foreground. {READING}"
    return Table(part=PART, title="Symmetry", caption=caption, columns=("Figure", *COLUMNS), rows=tuple(rows))


def _correlation_metric(volumes: Sequence[Matrix], bootstrap: Bootstrap) -> Metric:
    """How the correlations between structures differ from the holdout's, at equal sizes."""
    synthetic, train, holdout = volumes
    size = min(*(len(one) // 2 for one in volumes), LARGEST_SAMPLE)
    found, real = (estimate(correlation_difference, query, holdout, size, bootstrap) for query in (synthetic, train))
    words = "Root mean square difference to the holdout of the correlations between volumes of structures."
    return metric_of(STRUCTURE_CORRELATION, found, words, reference=real.value)


def correlation_difference(query: Matrix, reference: Matrix) -> float:
    """Root mean square over pairs of columns of the difference of their correlations."""
    difference = correlations(query) - correlations(reference)
    return float(np.sqrt(np.square(difference).mean()))


def correlations(rows: Matrix, weights: Matrix | None = None) -> Matrix:
    """(pairs,) correlation of each pair of columns of (n, d), in the order of `combinations`; 0 for a constant."""
    # np.corrcoef takes no weights, and warns of a constant
    covariance = np.atleast_2d(np.cov(rows, rowvar=False, ddof=0, aweights=weights))
    std = np.sqrt(np.diag(covariance))
    constant = std <= 1e-9 * np.abs(rows).max(0)
    unit = np.where(constant, np.inf, std)
    first, second = np.triu_indices(rows.shape[1], 1)
    return np.asarray((covariance / unit[:, None] / unit)[first, second])


def _correlation_table(groups: Sequence[str], sets: Three, bootstrap: Bootstrap) -> Table:
    """Per pair of structures, largest difference first."""
    whole = [correlations(one.volumes(groups)) for one in sets]
    resampled = [_resampled_correlations(one, groups, bootstrap, number) for number, one in enumerate(sets)]
    pairs = list(combinations(groups, 2))
    order = np.argsort(-np.abs(whole[0] - whole[1]), kind="stable")[:MOST_PAIRS]
    rows: list[tuple[Cell, ...]] = []
    for pair in order.tolist():
        values, samples = [one[pair] for one in whole], [one[:, pair] for one in resampled]
        shift, real = (
            from_resamples(
                values[one] - values[1], samples[one] - samples[1], bootstrap.confidence, len(sets[one].subjects)
            )
            for one in (0, 2)
        )
        figures = [short(value) for value in values]
        differences = (short(shift.value), span(shift), short(real.value), span(real))
        rows.append((" and ".join(pairs[pair]), *figures, *differences))
    caption = "Correlation of the volumes of two structures. Difference: synthetic minus training; its reference is "
    return Table(
        part=PART,
        title="Structures together",
        caption=f"{caption}that of the holdout. Largest differences first{_cut(len(pairs))}.",
        columns=(
            "Pair", "Synthetic", "Training", "Holdout", "Difference", "Interval", "Reference of difference",
            "Its interval",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _cut(pairs: int) -> str:
    return f", {MOST_PAIRS} of {pairs}" if pairs > MOST_PAIRS else ""


def _resampled_correlations(measured: Measured, groups: Sequence[str], bootstrap: Bootstrap, number: int) -> Matrix:
    """(repeats, pairs), of bootstrap samples of the subjects."""
    subjects = int(measured.subjects.max()) + 1
    weights = resample_weights(subjects, bootstrap.repeats, bootstrap.seed + number)[:, measured.subjects]
    rows = measured.volumes(groups)
    return np.stack([correlations(rows, one) for one in weights])


def _histograms(sets: Three, audit: AuditInput, groups: Sequence[str]) -> list[Histogram]:
    synthetic, train, _ = sets
    subjects = audit.dataset.subjects("train")
    volumes = [
        histogram(
            f"volume of {group}", "mm3", train.figures[f"{MEASURED_VOLUME}{group}"],
            synthetic.figures[f"{MEASURED_VOLUME}{group}"], subjects,
        )
        for group in groups
    ]  # fmt: skip
    return [intensity_histogram(train.shares, synthetic.shares, subjects), *volumes]
