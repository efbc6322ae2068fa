"""The grid of a study, chosen from the training scans alone: spacing and size, and one sentence of reason for each."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meddiff_core.data.fingerprint import CaseFingerprint
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study

SPACING_STEP_MM = 0.5
MOST_VOXELS_CPU = 100_000
MOST_VOXELS_GPU = 2_100_000
DEFAULT_LATENT_FACTOR = 4
Size = tuple[int, int, int]
Vector = NDArray[np.float64]


def choose_grid(train: Sequence[CaseFingerprint], study: Study, device: str) -> tuple[float, Size, dict[str, str]]:
    """Spacing and size that hold the training scans, and why.

    Raises:
        ConfigurationError: a size that the networks cannot halve.
    """
    step = 2 * (study.plan.latent_factor or DEFAULT_LATENT_FACTOR)
    if study.plan.size and any(length % step for length in study.plan.size):
        raise ConfigurationError(f"plan.size: must be multiples of {step} along each axis, is {list(study.plan.size)}")
    spans = _spans_mm(train)
    spacing, why_spacing = _spacing(train, spans, study, device, step)
    fitting = _size_for(spans, spacing, step)
    size = study.plan.size or fitting
    why_size = (
        f"As the study says; the training scans would need {fitting}." if study.plan.size else _why_size(size, step)
    )
    if cut := sum(bool((_voxels(_span_mm(case), spacing) > np.array(size)).any()) for case in train):
        why_size += f" The box of {cut} of {len(train)} training scans is larger and is cut."
    return spacing, size, {"spacing_mm": why_spacing, "size": why_size}


def _why_size(size: Size, step: int) -> str:
    return f"The 99th percentile of the training scans' foreground and half a voxel, in multiples of {step}: {size}."


def _span_mm(case: CaseFingerprint) -> Vector:
    """Between the centres of the outermost foreground voxels."""
    return np.subtract(case.extent_mm, case.spacing_mm)


def _spans_mm(train: Sequence[CaseFingerprint]) -> Vector:
    return np.asarray(np.percentile([_span_mm(case) for case in train], 99, axis=0))


def _voxels(span_mm: Vector, spacing: float) -> NDArray[np.int64]:
    """Voxels whose edges reach half a voxel past both ends of a span."""
    return np.ceil(np.round(span_mm / spacing, 6)).astype(np.int64) + 1


def _size_for(spans_mm: Vector, spacing: float, step: int) -> Size:
    i, j, k = (step * math.ceil(count / step) for count in _voxels(spans_mm, spacing))
    return i, j, k


def _spacing(
    train: Sequence[CaseFingerprint],
    spans_mm: Vector,
    study: Study,
    device: str,
    step: int,
) -> tuple[float, str]:
    if study.plan.spacing_mm is not None:
        return study.plan.spacing_mm, "As the study says."
    finest = float(np.median([min(case.spacing_mm) for case in train]))
    spacing = _round_up(finest)
    most = MOST_VOXELS_CPU if device.startswith("cpu") else MOST_VOXELS_GPU
    size = study.plan.size
    while not (_fits(spans_mm, spacing, size) if size else math.prod(_size_for(spans_mm, spacing, step)) <= most):
        spacing += SPACING_STEP_MM
    why = f"The training scans' median is {finest:.2f} mm"
    if spacing == _round_up(finest):
        return spacing, f"{why}, rounded up to steps of {SPACING_STEP_MM} mm."
    bound = (
        f"so that they fit {size}"
        if size
        else f"so that a volume has at most {most} voxels, which {device} can train on"
    )
    return spacing, f"{why}, raised {bound}."


def _round_up(spacing: float) -> float:
    return SPACING_STEP_MM * math.ceil(round(spacing / SPACING_STEP_MM, 3))


def _fits(spans_mm: Vector, spacing: float, size: Size) -> bool:
    return bool((_voxels(spans_mm, spacing) <= np.array(size)).all())
