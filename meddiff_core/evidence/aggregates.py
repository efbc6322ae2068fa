"""Histograms of real beside synthetic volumes that may be published.

A bin with few subjects in it, or the edge where the data end, tells of a person: so edges are round numbers,
the outermost bins are open, every bin holds at least five real subjects, and shares are rounded.
"""

from collections.abc import Sequence

import numpy as np

from meddiff_core.contract import Contract, Frozen
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.types import StoredArray

FEWEST = 5
"""Real subjects that every published bin holds at least."""
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


def histogram(name: str, unit: str, real: Matrix, synthetic: Matrix) -> Histogram:
    """Of one figure per volume (n,). Fewer than ten real volumes give a single bin."""
    inner = _merge(_round_edges(real), real)
    bins = [0.0] * (len(inner) + 1)
    shares = [_shares(values, inner) if len(values) else tuple(bins) for values in (real, synthetic)]
    return Histogram(name=name, unit=unit, edges=tuple(inner), real=shares[0], synthetic=shares[1])


def _round_edges(values: Matrix, bins: int = 10) -> list[float]:
    """About `bins` multiples of a round step, across the bulk of the values."""
    low, high = np.quantile(values, [0.05, 0.95])
    if high <= low:
        return []
    raw = (high - low) / bins
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * next(factor for factor in STEPS if raw <= factor * power * (1 + 1e-9))
    multiples = np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    return [float(f"{multiple * step:.6g}") for multiple in multiples]


def _merge(edges: Sequence[float], values: Matrix) -> list[float]:
    """Keep an edge only if the bin below it, and all above it, hold at least FEWEST values."""
    kept: list[float] = []
    for edge in edges:
        below = values < edge
        since_last = below & (values >= kept[-1]) if kept else below
        if since_last.sum() >= FEWEST and (~below).sum() >= FEWEST:
            kept.append(edge)
    return kept


def _shares(values: Matrix, inner: Sequence[float]) -> tuple[float, ...]:
    counts = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)
    return tuple(round(float(count) / len(values), 2) for count in counts)


def intensity_shares(image: StoredArray, contract: Contract) -> Matrix:
    """(INTENSITY_BINS,) share of the foreground voxels of one volume in each bin of [0, 1]."""
    unit = contract.intensity.unit(image)
    counts, _ = np.histogram(unit[unit > 0.02], bins=INTENSITY_BINS, range=(0, 1))
    return np.asarray(counts / max(1, counts.sum()), dtype=np.float64)


def intensity_histogram(real: Matrix, synthetic: Matrix) -> Histogram:
    """Mean over volumes of their intensity shares (n, INTENSITY_BINS).

    Bins that fewer than FEWEST real volumes have voxels in are merged with the next.
    """
    edges = np.linspace(0, 1, INTENSITY_BINS + 1)[1:-1]
    kept: list[int] = []
    start = 0
    for stop in range(1, INTENSITY_BINS):
        inside, above = real[:, start:stop], real[:, stop:]
        if (inside.sum(1) > 0).sum() >= FEWEST and (above.sum(1) > 0).sum() >= FEWEST:
            kept.append(stop)
            start = stop
    shares = [
        tuple(round(float(part), 3) for part in np.add.reduceat(rows.mean(0), [0, *kept])) for rows in (real, synthetic)
    ]
    chosen = tuple(round(float(edges[stop - 1]), 3) for stop in kept)
    return Histogram(name="intensity", unit="share of range", edges=chosen, real=shares[0], synthetic=shares[1])
