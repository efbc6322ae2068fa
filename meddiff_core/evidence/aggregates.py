"""Histograms of real beside synthetic volumes that may be published.

A bin with few subjects in it, or the edge where the data end, tells of a person: so edges are round numbers,
the outermost bins are open, every bin holds at least five real subjects, and shares are rounded.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from meddiff_core.contract import Contract, Frozen
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.measurements import FOREGROUND
from meddiff_core.evidence.subjects import numbered
from meddiff_core.types import StoredArray

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
INTENSITY_BINS = 20


class Histogram(Frozen):
    """Shares per bin; the first bin reaches down to minus, the last up to plus infinity."""

    name: str
    unit: str
    edges: tuple[float, ...]
    """Inner edges: one fewer than there are bins."""
    real: tuple[float, ...]
    synthetic: tuple[float, ...]

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        bins = len(self.edges) + 1
        if not len(self.real) == len(self.synthetic) == bins:
            raise ValueError(f"{self.name}: must have {bins} shares, has {len(self.real)} and {len(self.synthetic)}")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"{self.name}: edges must increase, are {self.edges}")
        return self


def histogram(
    name: str, unit: str, real: Matrix, synthetic: Matrix, subjects: Sequence[str] | None = None
) -> Histogram:
    """Of one figure per volume (n,); what is not finite is left out. Fewer than ten real subjects give a single bin.

    `subjects` names the subject of each real volume where some have several.
    """
    numbers, known = numbered(subjects, len(real)), np.isfinite(real)
    edges = _round_edges(real[known])
    bins = [_bins(values[np.isfinite(values)], edges) for values in (real, synthetic)]
    return _publish(name, unit, edges, bins, numbers[known], digits=2)


def _round_edges(values: Matrix, bins: int = 10) -> list[float]:
    """About `bins` multiples of a round step, across the bulk of the values."""
    low, high = np.quantile(values, [0.05, 0.95]) if len(values) else (0.0, 0.0)
    if high <= low:
        return []
    raw = (high - low) / bins
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(factor for factor in STEPS if raw <= factor * power * (1 + 1e-9))
    multiples = np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    return [float(f"{multiple * step:.6g}") for multiple in multiples]


def _bins(values: Matrix, edges: Sequence[float]) -> Matrix:
    """(n, bins): 1 in the bin that each value falls in."""
    return np.eye(len(edges) + 1)[np.searchsorted(edges, values, side="right")]


def _publish(
    name: str,
    unit: str,
    edges: Sequence[float],
    sets: Sequence[Matrix],
    subjects: NDArray[np.intp],
    digits: int,
) -> Histogram:
    """The mean over volumes of what each has in each bin, with bins that few subjects are in merged.

    `sets` are the real and the synthetic volumes, each (n, bins); `subjects` number those of the real ones.
    """
    kept = _merge(sets[0] > 0, subjects)
    means = [rows.sum(0) / max(1, len(rows)) for rows in sets]
    shares = [tuple(np.add.reduceat(mean, [0, *kept]).round(digits).tolist()) for mean in means]
    chosen = tuple(edges[cut - 1] for cut in kept)
    return Histogram(name=name, unit=unit, edges=chosen, real=shares[0], synthetic=shares[1])


def _merge(occupied: NDArray[np.bool_], subjects: NDArray[np.intp]) -> list[int]:
    """Keep a cut between bins (n, bins) only if FEWEST subjects are between it and the last one, and above it."""
    kept: list[int] = []
    for cut in range(1, occupied.shape[1]):
        sides = occupied[:, kept[-1] if kept else 0 : cut], occupied[:, cut:]
        if all(len(np.unique(subjects[side.any(1)])) >= FEWEST for side in sides):
            kept.append(cut)
    return kept


def intensity_shares(image: StoredArray, contract: Contract) -> Matrix:
    """(INTENSITY_BINS,) share of the foreground voxels of one volume in each bin of [0, 1]."""
    unit = contract.intensity.unit(image)
    counts, _ = np.histogram(unit[unit > FOREGROUND], bins=INTENSITY_BINS, range=(0, 1))
    return np.asarray(counts / max(1, counts.sum()), dtype=np.float64)


def intensity_histogram(real: Matrix, synthetic: Matrix, subjects: Sequence[str] | None = None) -> Histogram:
    """Mean over volumes of their intensity shares (n, INTENSITY_BINS).

    Bins that fewer than FEWEST real subjects have voxels in are merged with the next.
    """
    edges = np.linspace(0, 1, INTENSITY_BINS + 1)[1:-1].round(3).tolist()
    numbers = numbered(subjects, len(real))
    return _publish("intensity", "share of range", edges, (real, synthetic), numbers, digits=3)
