"""Whether synthetic volumes are built like real ones: intensities, and size, shape, place and wholeness of structures.

Feature distances can miss what an anatomist sees at once: a blurred texture, a torn structure, ventricles that no
longer grow as the cortex shrinks. Each volume is read once for all of it.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.evidence.aggregates import Histogram, histogram, intensity_histogram, intensity_shares
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Matrix, from_resamples, resample_weights
from meddiff_core.evidence.measurements import MEASURED_VOLUME, measure
from meddiff_core.evidence.metrics import Metric, MetricSpec, Part, metric_of
from meddiff_core.evidence.quality.comparison import LARGEST_SAMPLE
from meddiff_core.evidence.quality.distances import Sides, beside_real
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
VOLUME_EFFECT = _shift("volume_effect", detail="structure")
SURFACE_EFFECT = _shift("surface_effect", detail="structure")
COMPONENTS_EFFECT = _shift("components_effect", detail="structure")
STRUCTURE_CORRELATION = MetricSpec(
    name="structure_correlation",
    part=PART,
    better="lower",
    reference="that of the training volumes",
    requires="label maps (data.labels) of two structures",
)
VOLUME_DISTANCE = STRUCTURE_CORRELATION.model_copy(
    update={"name": "volume_distance", "detail": "structure", "requires": "label maps (data.labels)"}
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

    figures: pd.DataFrame
    """A row per volume, a column per figure."""
    subjects: NDArray[np.intp]
    """(n,) as in `Sample`."""
    shares: Matrix
    """(n, bins) of intensity."""

    def sample(self, name: str) -> Sample:
        """One figure."""
        return Sample(self.figures[name].to_numpy(), self.subjects)

    def volumes(self, groups: Sequence[str]) -> Matrix:
        """(n, groups) in mm3."""
        return self.figures[[f"{MEASURED_VOLUME}{group}" for group in groups]].to_numpy()


def appearance_and_anatomy(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Intensities, structures, their correlations and symmetry, beside train and holdout."""
    sets = yield from _measure_sets(audit)
    if min(len(np.unique(one.subjects)) for one in sets.real) < FEWEST:
        return Section(statements=(FEW_SUBJECTS,))
    found = {name: compare(Sides(*(one.sample(name) for one in sets)), bootstrap) for name in _names(audit.contract)}
    metrics = [*_appearance_metrics(found), *_symmetry_metrics(found)]
    tables = [_symmetry_table(found)]
    groups = list(audit.contract.labels)
    if groups:
        metrics += [metric for group in groups for metric in _structure_metrics(group, found)]
        tables.append(_structure_table(groups, found))
    if len(groups) > 1:
        metrics.append(_correlation_metric(sets.each(lambda one: one.volumes(groups)), bootstrap))
        tables.append(_correlation_table(groups, sets, bootstrap))
    return Section(
        metrics=metrics,
        tables=tables,
        histograms=_histograms(sets, audit.dataset.subjects("train"), groups),
        statements=() if groups else (UNLABELLED,),
    )


def _measure_sets(audit: AuditInput) -> Generator[Progress, None, Sides[Measured]]:
    data, groups = audit.dataset, audit.contract.labels
    sets = Sides(
        synthetic=(yield from _measure_set("cohort", audit.accepted, audit.contract, None, audit.measured)),
        train=(yield from _measure_set("train", data.volumes("train"), audit.contract, data.subjects("train"))),
        holdout=(yield from _measure_set("holdout", data.volumes("holdout"), audit.contract, data.subjects("holdout"))),
    )
    centroids = {group: [f"{CENTROID}{group}:{axis}" for axis in AXES] for group in groups}
    usual = sets.train.figures.mean()

    def with_offsets(one: Measured) -> Measured:
        offsets = {
            f"{OFFSET}{group}": np.linalg.norm(one.figures[names] - usual[names], axis=1)
            for group, names in centroids.items()
        }
        return replace(one, figures=one.figures.assign(**offsets))

    return sets.each(with_offsets)


def _measure_set(
    name: str,
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
        yield Progress(f"measure {name}", index + 1, len(volumes))
    return Measured(pd.DataFrame(rows, dtype=np.float64), numbered(subjects, len(rows)), np.stack(shares))


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


def _appearance_metrics(found: Found) -> list[Metric]:
    """Shifts of intensities, sharpness and noise, which feature distances can miss in a blurred cohort."""
    noise = found["noise"]
    signed = metric_of(EXCESS_NOISE, noise.effect, NOISE, reference=noise.effect_reference.value)
    return [*(effect_metric(EFFECT, name, found[name], name) for name in APPEARANCE), signed]


def _symmetry_metrics(found: Found) -> list[Metric]:
    specs = {"symmetry": SYMMETRY_EFFECT, "asymmetry": ASYMMETRY_EFFECT}
    words = {"symmetry": "Dice of the label map with its mirror image", "asymmetry": "intensity asymmetry"}
    return [effect_metric(spec, words[name], found[name]) for name, spec in specs.items() if name in found]


def _structure_metrics(group: str, found: Found) -> list[Metric]:
    volume = found[f"{MEASURED_VOLUME}{group}"]
    words = f"Wasserstein distance of the volumes of {group} to the holdout's, in standard deviations of training."
    return [
        metric_of(VOLUME_DISTANCE, volume.distance, words, group, volume.distance_reference.value),
        effect_metric(VOLUME_EFFECT, f"volume of {group}", volume, group),
        effect_metric(SURFACE_EFFECT, f"surface to volume ratio of {group}", found[f"{SURFACE}{group}"], group),
        effect_metric(COMPONENTS_EFFECT, f"number of components of {group}", found[f"pieces:{group}"], group),
    ]


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


def _correlation_metric(volumes: Sides[Matrix], bootstrap: Bootstrap) -> Metric:
    """How the correlations between structures differ from the holdout's, at equal sizes."""
    size = min(min(map(len, volumes)) // 2, LARGEST_SAMPLE)
    found, real = beside_real(correlation_difference, volumes, size, bootstrap)
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


def _correlation_table(groups: Sequence[str], sets: Sides[Measured], bootstrap: Bootstrap) -> Table:
    """Per pair of structures, largest difference first."""
    whole = sets.each(lambda one: correlations(one.volumes(groups)))
    synthetic, train, holdout = [
        _resampled_correlations(one, groups, bootstrap, number) for number, one in enumerate(sets)
    ]
    pairs = list(combinations(groups, 2))
    order = np.argsort(-np.abs(whole.synthetic - whole.train), kind="stable")[:MOST_PAIRS]
    rows: list[tuple[Cell, ...]] = []
    for pair in order.tolist():
        row: list[Cell] = [" and ".join(pairs[pair]), *(short(one[pair]) for one in whole)]
        for one, values, samples in (
            (sets.synthetic, whole.synthetic, synthetic),
            (sets.holdout, whole.holdout, holdout),
        ):
            value, resamples = values[pair] - whole.train[pair], samples[:, pair] - train[:, pair]
            shift = from_resamples(value, resamples, bootstrap.confidence, len(one.subjects))
            row += [short(shift.value), span(shift)]
        rows.append(tuple(row))
    cut = f", {MOST_PAIRS} of {len(pairs)}" if len(pairs) > MOST_PAIRS else ""
    return Table(
        part=PART,
        title="Structures together",
        caption="Correlation of the volumes of two structures. Difference: synthetic minus training; its reference is "
        f"that of the holdout. Largest differences first{cut}.",
        columns=(
            "Pair", "Synthetic", "Training", "Holdout", "Difference", "Interval", "Reference of difference",
            "Its interval",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _resampled_correlations(measured: Measured, groups: Sequence[str], bootstrap: Bootstrap, number: int) -> Matrix:
    """(repeats, pairs), of bootstrap samples of the subjects."""
    subjects = int(measured.subjects.max()) + 1
    weights = resample_weights(subjects, bootstrap.repeats, bootstrap.seed + number)[:, measured.subjects]
    rows = measured.volumes(groups)
    return np.stack([correlations(rows, one) for one in weights])


def _histograms(sets: Sides[Measured], subjects: Sequence[str], groups: Sequence[str]) -> list[Histogram]:
    volumes = []
    for group in groups:
        real, synthetic = (one.volumes([group])[:, 0] for one in (sets.train, sets.synthetic))
        volumes.append(histogram(f"volume of {group}", "mm3", real, synthetic, subjects))
    return [intensity_histogram(sets.train.shares, sets.synthetic.shares, subjects), *volumes]
