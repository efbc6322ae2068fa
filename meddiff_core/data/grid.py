"""The grid of a study, chosen from the training scans alone, with a sentence of reason for spacing and size.

How often the networks halve each axis is decided here too, for both: a size that one rule allowed and another
refused ended a plan with a key that nobody had set. Every figure is robust: one broken file must not set the grid
of all others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import spacing_text
from meddiff_core.data.fingerprint import CaseFingerprint
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study

MOST_VOXELS_CPU = 100_000
MOST_VOXELS_GPU = 2_100_000
LARGE_VOXELS = 4_000_000
"""From here on the autoencoder's latents are smaller by 8 instead of 4 along each axis."""
DENOISER_HALVES = 2
"""Factor by which the denoiser halves latents, at least."""
SHORTEST_LATENT = 4
"""Voxels along an axis below which it is not halved further: less would leave no place along it."""
SHORTEST_SIDE = 8
"""Voxels along each axis of a volume; of fewer the networks' layers leave nothing."""
THICK = 3.0
"""Times the spacing along both other axes from which slices are thick, as in nnU-Net (Isensee et al. 2021)."""
MOSTLY = 0.75
"""Share of the scans with thick slices along one axis from which that axis keeps its spacing."""
ODD_EXTENT, ODD_SHARE = 2.0, 0.25
"""Times the median extent from which a scan is left out of the size, if less than this share of all is so large."""
AXES = "ijk"
Lengths = tuple[float, float, float]
Size = tuple[int, int, int]
Stride = tuple[int, int, int]
"""1 or 2 along i, j, k."""
Vector = NDArray[np.float64]


def choose_grid(train: Sequence[CaseFingerprint], study: Study, device: str) -> tuple[Lengths, Size, dict[str, str]]:
    """Spacing and size along each axis that hold the training scans, and why.

    Raises:
        ConfigurationError: a size that the networks cannot halve.
    """
    given = study.plan.size
    if given and min(given) < SHORTEST_SIDE:
        raise ConfigurationError(f"plan.size: must be at least {SHORTEST_SIDE} along each axis, is {list(given)}")
    spans, outliers = _spans_mm(train)
    spacing, why_spacing = _spacing(train, spans, study, device)
    fitting = _size_for(spans, spacing, study)
    size = given or fitting
    require_halvable(size, spacing, study)
    why_size = (
        f"As the study says; the training scans would need {fitting}." if given else _why_size(size, spacing, study)
    )
    if outliers and not given:
        why_size += f" Not counted: {outliers} with more than {ODD_EXTENT:g} times the median extent."
    if cut := sum(bool((_voxels(_span_mm(case), spacing) > np.array(size)).any()) for case in train):
        why_size += f" The box of {cut} of {len(train)} training scans is larger and is cut."
    return spacing, size, {"spacing_mm": why_spacing, "size": why_size}


def latent_factor(size: Size, study: Study) -> int:
    """Downsampling of the autoencoder along axes that are neither coarse nor short."""
    return study.plan.latent_factor or (4 if math.prod(size) < LARGE_VOXELS else 8)


def latent_strides(size: Size, spacing_mm: Lengths, study: Study) -> tuple[Stride, ...]:
    """By how much each level of the autoencoder is coarser than the one before, along i, j, k."""
    return level_strides(size, spacing_mm, latent_factor(size, study).bit_length() - 1, SHORTEST_LATENT)


def level_strides(size: Sequence[int], spacing_mm: Sequence[float], levels: int, shortest: int) -> tuple[Stride, ...]:
    """2 along each axis that a level of a network halves, 1 along others.

    Those are halved whose spacing is less than twice the finest, so that voxels become alike (as in nnU-Net), and of
    which at least `shortest` voxels are left.
    """
    sides, lengths, strides = np.array(size), np.array(spacing_mm), []
    for _ in range(levels):
        long = sides >= 2 * shortest
        halved = long & (lengths < 2 * lengths[long].min(initial=np.inf) * (1 - 1e-6))
        i, j, k = (2 if axis else 1 for axis in halved)
        strides.append((i, j, k))
        sides, lengths = np.where(halved, sides // 2, sides), np.where(halved, lengths * 2, lengths)
    return tuple(strides)


def require_halvable(size: Size, spacing_mm: Lengths, study: Study) -> None:
    """Refuse, with ConfigurationError, a size that the autoencoder and any denoiser after it cannot halve."""
    steps = _multiples(size, spacing_mm, study, DENOISER_HALVES)
    if any(side % step for side, step in zip(size, steps, strict=True)):
        raise ConfigurationError(f"plan.size: must be multiples of {along_axes(steps)}, is {list(size)}")


def _denoiser_factor(study: Study) -> int:
    levels = len(study.train.denoiser.channels or ())
    return max(DENOISER_HALVES, 2 ** (levels - 1) if levels else 1)


def _multiples(size: Size, spacing_mm: Lengths, study: Study, latents: int) -> Size:
    """What a size must be multiples of along i, j, k, so that latents are multiples of so many voxels."""
    i, j, k = latents * np.prod(latent_strides(size, spacing_mm, study), axis=0)
    return int(i), int(j), int(k)


def along_axes(steps: Size) -> str:
    """`8 along each axis`, or what it is along i, j and k."""
    if len(set(steps)) == 1:
        return f"{steps[0]} along each axis"
    first, second, third = (f"{step} along {axis}" for step, axis in zip(steps, AXES, strict=True))
    return f"{first}, {second} and {third}"


def _why_size(size: Size, spacing_mm: Lengths, study: Study) -> str:
    steps = along_axes(_multiples(size, spacing_mm, study, _denoiser_factor(study)))
    return f"Holds the foreground of the training scans up to its 99th percentile, in multiples of {steps}."


def _span_mm(case: CaseFingerprint) -> Vector:
    """Between the centres of the outermost foreground voxels."""
    return np.subtract(case.extent_mm, case.spacing_mm)


def _spans_mm(train: Sequence[CaseFingerprint]) -> tuple[Vector, int]:
    """99th percentile along each axis, and how many scans were left out of it: outliers, few and far larger."""
    spans, extents = (np.array([part(case) for case in train]) for part in (_span_mm, lambda case: case.extent_mm))
    outliers = (extents > ODD_EXTENT * np.median(extents, axis=0)).any(axis=1)
    counted = ~outliers if outliers.mean() < ODD_SHARE else np.ones_like(outliers)
    return np.asarray(np.percentile(spans[counted], 99, axis=0)), int((~counted).sum())


def _voxels(span_mm: Vector, spacing: Lengths | Vector) -> NDArray[np.int64]:
    """Voxels along each axis whose edges reach half a voxel past both ends of a span."""
    return np.asarray(np.ceil(np.round(span_mm / np.asarray(spacing), 6)), np.int64) + 1


def _size_for(spans_mm: Vector, spacing_mm: Lengths, study: Study) -> Size:
    """Smallest that holds the spans and that the networks can halve; to round up may itself add a halving."""
    i, j, k = (max(SHORTEST_SIDE, int(count)) for count in _voxels(spans_mm, spacing_mm))
    while True:
        size, steps = (i, j, k), _multiples((i, j, k), spacing_mm, study, _denoiser_factor(study))
        i, j, k = (step * math.ceil(side / step) for side, step in zip(size, steps, strict=True))
        if (i, j, k) == size:
            return size


@dataclass(frozen=True)
class _Resolution:
    """What the training scans have: the finest spacing worth keeping."""

    plane: float
    """Along axes that are not thick, in mm, as all lengths here rounded up to a readable figure."""
    why: str
    thick: int | None = None
    """Axis of thick slices, if most scans have them along the same."""
    slice_mm: float = 0.0
    """Spacing along it."""

    def raised(self, plane: float) -> Lengths:
        """With another spacing along axes that are not thick; the thick one follows once the others reach it."""
        i, j, k = (max(plane, self.slice_mm) if axis == self.thick else plane for axis in range(3))
        return i, j, k


def _spacing(train: Sequence[CaseFingerprint], spans_mm: Vector, study: Study, device: str) -> tuple[Lengths, str]:
    if study.plan.spacing_mm is not None:
        return study.plan.spacing_mm, "As the study says."
    found = _resolution(train)
    coarsest = found.raised(max(found.plane, found.slice_mm, float(spans_mm.max())))
    fewest = math.prod(_size_for(np.zeros(3), coarsest, study))  # that the networks can halve
    most = max(fewest, MOST_VOXELS_CPU if device.startswith("cpu") else MOST_VOXELS_GPU)
    if study.plan.size:
        spacing, bound = _fitting(found, spans_mm, study.plan.size), f"they fit {study.plan.size}"
    else:
        steps = (found.raised(plane) for plane in _ladder(found.plane))
        spacing = next(step for step in steps if math.prod(_size_for(spans_mm, step, study)) <= most)
        bound = f"a volume has at most {most} voxels, which {device} can train on"
    if spacing == found.raised(found.plane):
        return spacing, f"{found.why}: {spacing_text(spacing)}."
    return spacing, f"{found.why}; raised to {spacing_text(spacing)} so that {bound}."


def _fitting(found: _Resolution, spans_mm: Vector, size: Size) -> Lengths:
    """The finest spacing at which the spans fit a size; a thick axis is raised by itself."""

    def fit(axes: Sequence[int]) -> Callable[[float], bool]:
        return lambda length: bool((_voxels(spans_mm, (length,) * 3) <= np.array(size))[axes].all())

    plane = next(filter(fit([axis for axis in range(3) if axis != found.thick]), _ladder(found.plane)))
    if found.thick is None:
        return found.raised(plane)
    lengths = list(found.raised(plane))
    i, j, k = (
        next(filter(fit([axis]), _ladder(length))) if axis == found.thick else length
        for axis, length in enumerate(lengths)
    )
    return i, j, k


def _resolution(train: Sequence[CaseFingerprint]) -> _Resolution:
    """Isotropic, unless most scans have thick slices along the same axis: those keep it, since to make it as fine as
    the others would fill the volume with interpolated slices, and to make the others as coarse would lose their detail.
    """
    spacings = np.array([case.spacing_mm for case in train])
    thick = np.array([_thick_axis(spacing) for spacing in spacings])
    counts = np.bincount(thick[thick >= 0], minlength=3)
    axis = int(counts.argmax())
    if counts[axis] < MOSTLY * len(train):
        finest = float(np.median(spacings.min(axis=1)))
        mixed = f" ({_mixed_text(counts)}: too few along one axis to keep it)" if counts.any() else ""
        return _Resolution(
            _readable(finest), f"The training scans' median is {finest:.3g} mm{mixed}, the same each way"
        )
    of_thick = spacings[thick == axis]
    plane = float(np.median(np.delete(of_thick, axis, axis=1).min(axis=1)))
    slices = float(np.median(of_thick[:, axis]))
    why = (
        f"{counts[axis]} of {len(train)} training scans have slices at least {THICK:g} times as thick along "
        f"{AXES[axis]} as within them, so that axis is made no finer; the medians are {plane:.3g} and {slices:.3g} mm"
    )
    return _Resolution(_readable(plane), why, axis, _readable(slices))


def _thick_axis(spacing_mm: Vector) -> int:
    """Axis of thick slices, or -1."""
    coarsest = int(spacing_mm.argmax())
    others = float(np.delete(spacing_mm, coarsest).max())
    return coarsest if round(spacing_mm[coarsest] / others, 3) >= THICK else -1


def _mixed_text(counts: NDArray[np.int64]) -> str:
    along = [f"{count} along {axis}" for count, axis in zip(counts, AXES, strict=True) if count]
    return f"thick slices: {', '.join(along)}"


def _ladder(length_mm: float) -> Iterator[float]:
    """Readable lengths from this one on, each at most a twentieth longer than the one before."""
    length = _readable(length_mm)
    while True:
        yield length
        length = _readable(length + 0.6 * _readable_step(length))


def _readable(length_mm: float) -> float:
    """Rounded up to 1.0, 1.05, ... 1.95, 2.0, 2.1, ... 9.9, and likewise for each power of ten."""
    step = _readable_step(length_mm)
    return round(math.ceil(round(length_mm / step, 1)) * step, 9)


def _readable_step(length_mm: float) -> float:
    power = 10.0 ** math.floor(math.log10(length_mm) + 1e-9)
    return power * (0.05 if length_mm < 2 * power - 1e-9 else 0.1)
