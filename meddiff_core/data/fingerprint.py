"""What every scan is like: grid, intensities, labels, covariates. The plan is inferred from this alone.

A pure function per case and one reduction, so that it runs anywhere and no bad scan stops the others. The
same scan under two subjects would leak from training into the holdout; it is found here by its voxels.
"""

from collections.abc import Container, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import ConditionValue, Frozen
from meddiff_core.data.cohort import against_cohort
from meddiff_core.data.foreground import Box, Mask, body_of, box_of, mask_of
from meddiff_core.data.ingest import Inventory, digest_case, load_label_map, read_scan
from meddiff_core.data.modality import Modality, is_shifted
from meddiff_core.data.store import digest_volume
from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, FloatArray, Mapper, Note, Progress, Refusal, Volume

PERCENTILES = (0.5, 50.0, 99.5)
MOST_UNNAMED_GROUPS = 12
THUMBNAIL = 8
"""Voxels along each axis."""


class CaseFingerprint(Frozen):
    """One usable scan in figures. Axes (i, j, k) are RAS+."""

    case: str
    subject: str
    image_sha256: str
    """Of the file, or of a series' files."""
    label_sha256: str | None
    voxels_sha256: str
    """Of the voxels, RAS+: the same for a scan that was only packed or turned anew."""
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    """Axis codes of the source, such as PSR."""
    modality: Modality | None
    """As the file says or the intensities suggest; None where they leave it open."""
    bits: int
    """Of a stored voxel of the source."""
    integer: bool
    box: Box
    """Around the foreground: start and stop per axis, in voxels."""
    centre_mm: tuple[float, float, float]
    """Of the box, RAS."""
    extent_mm: tuple[float, float, float]
    """Of the box, edge to edge."""
    foreground: float = 1.0
    """Share of the voxels."""
    thumbnail: str = ""
    """What lies in the box, on 8 x 8 x 8 voxels of 8 bits, as hexadecimal digits."""
    percentiles: tuple[float, float, float]
    """0.5, 50 and 99.5 of the foreground."""
    mean: float
    std: float
    label_values: dict[int, int]
    """Voxels per label value, background left out."""
    group_volumes_mm3: dict[str, float]
    unlisted_labels: dict[int, float]
    """Label values outside the groups, and their share of the labelled voxels."""
    covariates: dict[str, ConditionValue]
    warnings: tuple[str, ...]


class Fingerprint(Frozen):
    """All scans in figures, and what was refused."""

    cases: tuple[CaseFingerprint, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[Note, ...]
    kinds: dict[str, str]
    """Kind per covariate: continuous, categorical, or `volume of GROUP`."""


@dataclass(frozen=True)
class Foreground:
    """The part of a scan that is the subject."""

    inside: Mask
    box: Box
    percentiles: tuple[float, float, float]
    """0.5, 50 and 99.5 of its intensities."""


@dataclass(frozen=True)
class LabelFigures:
    """What a label map holds."""

    values: dict[int, int]
    volumes_mm3: dict[str, float]
    unlisted: dict[int, float]


def fingerprint_case(case: CaseRef, config: DataConfig) -> CaseFingerprint | Refusal:
    """Figures of one scan, or why it cannot be used."""
    try:
        return _measure(case, config)
    except CaseRefused as refused:
        return Refusal(refused.case, refused.reason)
    except (ValueError, ArithmeticError, MemoryError) as error:  # intensities beyond what can be counted with
        return Refusal(case.case, f"cannot be measured: {type(error).__name__}: {error}")


def _measure(case: CaseRef, config: DataConfig) -> CaseFingerprint:
    scan = read_scan(case)
    volume, source = scan.volume, scan.source
    modality = config.modality or source.modality
    if modality == "CT" and is_shifted(volume.array):
        raise CaseRefused(case.case, "CT must be in Hounsfield units, its soft tissue lies about 1024 above them")
    label_map = load_label_map(case, volume) if case.label else None
    label = None if label_map is None else label_map.values
    image_sha256, label_sha256 = digest_case(case)
    i, j, k = volume.array.shape
    foreground = foreground_of(case.case, volume, mask_of(case.case, volume, label, config.mask), modality)
    inside, box, (low, median, high) = foreground.inside, foreground.box, foreground.percentiles
    values = volume.array[inside]
    labels = _label_figures(case, label, _voxel_mm3(volume), config)
    return CaseFingerprint(
        case=case.case,
        subject=case.subject,
        image_sha256=image_sha256,
        label_sha256=label_sha256,
        voxels_sha256=digest_volume(volume.array),
        shape=(i, j, k),
        spacing_mm=volume.spacing_mm,
        orientation=source.orientation,
        modality=source.modality,
        bits=source.bits,
        integer=source.integer,
        box=box,
        centre_mm=_centre_mm(volume, box),
        extent_mm=_extent_mm(volume, box),
        foreground=float(inside.mean()),
        thumbnail=_thumbnail(np.where(inside, np.clip(volume.array, low, high), low), box),
        percentiles=(low, median, high),
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        label_values=labels.values,
        group_volumes_mm3=labels.volumes_mm3,
        unlisted_labels=labels.unlisted,
        covariates=case.covariates | _measured(config, labels),
        warnings=source.warnings + (() if label_map is None else label_map.warnings),
    )


def foreground_of(
    case: str, volume: Volume, mask: Mask | None, modality: Modality | None, hidden: Mask | None = None
) -> Foreground:
    """Where the subject is and how bright; intensities in `hidden` do not count.

    Raises:
        CaseRefused: all of it has one intensity.
    """
    inside = body_of(volume, modality) if mask is None else mask
    values = volume.array[inside if hidden is None else inside & ~hidden]
    if not values.size:
        raise CaseRefused(case, "foreground must have voxels, it has none")
    low, median, high = (float(value) for value in np.percentile(values, PERCENTILES))
    if low == high:
        raise CaseRefused(case, f"foreground must not be constant, percentiles 0.5 and 99.5 are both {low:g}")
    return Foreground(inside, box_of(inside), (low, median, high))


def _thumbnail(array: FloatArray, box: Box) -> str:
    """Means of blocks of the box, from the least to the largest, in 8 bits."""
    mean = _blocks(array[tuple(slice(start, stop) for start, stop in box)])
    low, high = mean.min(), mean.max()
    grey = np.rint(255 * (mean - low) / (high - low)) if high > low else np.zeros_like(mean)
    return grey.astype(np.uint8).tobytes().hex()


def _blocks(array: FloatArray) -> NDArray[np.float64]:
    mean = array.astype(np.float64)
    for axis, length in enumerate(array.shape):
        edges = np.arange(THUMBNAIL) * length // THUMBNAIL
        sizes = np.maximum(np.diff([*edges, length]), 1)  # an axis shorter than the thumbnail repeats its voxels
        mean = np.add.reduceat(mean, edges, axis) / sizes.reshape([-1 if n == axis else 1 for n in range(3)])
    return mean


def _voxel_mm3(volume: Volume) -> float:
    return round(abs(float(np.linalg.det(volume.affine[:3, :3]))), 6)  # the determinant carries rounding noise


def _centre_mm(volume: Volume, box: Box) -> tuple[float, float, float]:
    centre = [(start + stop - 1) / 2 for start, stop in box]
    i, j, k = volume.affine[:3, :3] @ centre + volume.affine[:3, 3]
    return float(i), float(j), float(k)


def _extent_mm(volume: Volume, box: Box) -> tuple[float, float, float]:
    i, j, k = ((stop - start) * length for (start, stop), length in zip(box, volume.spacing_mm, strict=True))
    return i, j, k


def _label_figures(
    case: CaseRef, label: NDArray[np.int32] | None, voxel_mm3: float, config: DataConfig
) -> LabelFigures:
    if label is None:
        return LabelFigures({}, {}, {})
    found, counts = _count_values(label)
    values = {int(value): int(count) for value, count in zip(found, counts, strict=True) if value}
    groups = config.label_groups or {f"label_{value}": [value] for value in values}
    listed = {value for group in groups.values() for value in group}
    total = sum(values.values())
    unlisted = {value: count / total for value, count in values.items() if value not in listed}
    if unlisted and config.unlisted_labels == "refuse":
        raise CaseRefused(case.case, f"label values must be in label_groups, outside are {sorted(unlisted)}")
    volumes = {name: sum(values.get(value, 0) for value in group) * voxel_mm3 for name, group in groups.items()}
    return LabelFigures(values, volumes, unlisted)


def _count_values(label: NDArray[np.int32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if label.max() > 1_000_000:  # counting by sorting is slow, but needs no table up to the largest value
        values, counts = np.unique(label, return_counts=True)
        return values.astype(np.intp), counts
    counts = np.bincount(label.ravel())
    return np.flatnonzero(counts), counts[counts > 0]


def _measured(config: DataConfig, labels: LabelFigures) -> dict[str, ConditionValue]:
    """Covariates that are volumes of a group, mm3; None for a case without label map."""
    kinds = (config.covariates or {}).items()
    groups = {name: kind.removeprefix("volume of ") for name, kind in kinds if kind.startswith("volume of ")}
    return {name: labels.volumes_mm3.get(group) for name, group in groups.items()}


def take_fingerprint(
    inventory: Inventory, config: DataConfig, mapper: Mapper
) -> Generator[Progress, None, Fingerprint]:
    """Figures of every case; whichever cannot be used is listed with its reason.

    Raises:
        ConfigurationError: labels have too many values to go without groups.
    """
    results: dict[int, CaseFingerprint | Refusal] = {}
    for position, result in mapper(partial(fingerprint_case, config=config), inventory.cases):
        results[position] = result
        yield Progress("fingerprint", len(results), len(inventory.cases))
    measured = [results[position] for position in sorted(results)]
    unique, duplicates = _without_copies([result for result in measured if isinstance(result, CaseFingerprint)])
    cases, rejected, far_out = against_cohort(unique, config.modality)
    refused = [
        *inventory.refused,
        *(result for result in measured if isinstance(result, Refusal)),
        *duplicates,
        *rejected,
    ]
    refused.sort(key=lambda refusal: (refusal.case, refusal.reason))
    _check_unnamed_groups(cases, config)
    repaired = [Note(case.case, warning) for case in cases for warning in case.warnings]
    notes = (*inventory.notes, *_label_notes(cases, config), *repaired, *far_out)
    return Fingerprint(cases=tuple(cases), refused=tuple(refused), notes=notes, kinds=inventory.kinds)


def without_voxels(fingerprint: Fingerprint, recalled: Container[str]) -> Fingerprint:
    """Refuse scans whose voxels, by their digest, are those of a subject who was recalled under another name."""
    back = [case.case for case in fingerprint.cases if case.voxels_sha256 in recalled]
    refused = [*fingerprint.refused, *(Refusal(case, "is a scan of a subject who was recalled") for case in back)]
    kept = tuple(case for case in fingerprint.cases if case.case not in back)
    ordered = tuple(sorted(refused, key=lambda refusal: (refusal.case, refusal.reason)))
    return fingerprint.model_copy(update={"cases": kept, "refused": ordered}) if back else fingerprint


def require_cases(fingerprint: Fingerprint) -> None:
    """Stop where nothing is left; apart from the measuring, so that what was refused is written down first.

    Raises:
        DataRefused: no case can be used.
    """
    if not fingerprint.cases:
        raise DataRefused(all_refused(fingerprint.refused))


def all_refused(refused: Sequence[Refusal]) -> str:
    """One line on why nothing is left; it names no case, for it may end in a log."""
    reasons = list(dict.fromkeys(refusal.reason for refusal in refused))
    several = f", for {len(reasons)} reasons" if len(reasons) > 1 else ""
    return f"data: all {len(refused)} were refused{several}: {'; '.join(reasons[:3])}"


def _without_copies(cases: Iterable[CaseFingerprint]) -> tuple[list[CaseFingerprint], list[Refusal]]:
    """Keep the first of several cases with the same voxels, whichever subjects they claim."""
    first: dict[str, CaseFingerprint] = {}
    kept, refused = [], []
    for case in cases:
        known = first.setdefault(case.voxels_sha256, case)
        if known is case:
            kept.append(case)
        else:
            refused.append(Refusal(case.case, f"is the same scan as {known.case} of subject {known.subject!r}"))
    return kept, refused


def _check_unnamed_groups(cases: Sequence[CaseFingerprint], config: DataConfig) -> None:
    values = sorted({value for case in cases for value in case.label_values})
    if not config.label_groups and len(values) > MOST_UNNAMED_GROUPS:
        raise ConfigurationError(
            f"data.label_groups: must name the structures, the label maps hold {len(values)} values "
            f"(at most {MOST_UNNAMED_GROUPS} go without names), first {values[:5]}"
        )


def _label_notes(cases: Sequence[CaseFingerprint], config: DataConfig) -> list[Note]:
    """Groups that no case has, and label values that became background."""
    unlisted = sorted({value for case in cases for value in case.unlisted_labels})
    largest = max((sum(case.unlisted_labels.values()) for case in cases), default=0.0)
    notes = [
        Note("label_groups", f"{name} is empty in every case")
        for name in config.label_groups
        if any(case.label_values for case in cases) and not any(case.group_volumes_mm3.get(name) for case in cases)
    ]
    if unlisted:
        text = (
            f"{len(unlisted)} label values outside the groups became background, at most {largest:.0%} of a label map"
        )
        notes.append(Note("label_groups", text))
    return notes
