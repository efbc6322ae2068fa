"""Grain: what the autoencoder leaves out of a scan, put back as a random field instead of being averaged away.

A decoder gives about the mean of all scans that a latent may stand for, so their noise and finest texture cancel out,
and every volume is smoother than any scan. The grain has the power that is missing, by frequency in three dimensions,
label and intensity, and comes from a stream of its own of the sample's seed. It is made of sums over many subjects, and
shows nothing of any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage

from meddiff_core.models.checkpoint import load_checkpoint, save_checkpoint
from meddiff_core.types import FloatArray, LabelArray

FOREGROUND = 0.02
"""Share of the intensity range above which a voxel is foreground; elsewhere there is no grain."""
BINS = 8
"""Bins of intensity, of equal width."""
LEVELS = 256
"""Intensities that a tone curve is given at."""
CELLS = 6
"""Cells of frequency along each axis, of equal width. Bands of spheres alone give diagonal frequencies too much."""
LOWEST = 0.35
"""Below it, in units of the highest frequency along an axis, is anatomy and no grain."""
FINE = 0.9
"""Above it, in that unit, the strengths are measured: what is missing is nearly all that scans have there."""
RIM = 2
"""Voxels from the border of the foreground that do not count: its outline would."""
SHARE = 0.85
"""Of the amplitude that was measured, to be added: with all of it volumes were noisier than scans, by 0.7 standard
deviations on brains and 2.3 on phantoms; with this share by -0.4 and 0.2."""
FEWEST = 5
"""Subjects behind every figure that is kept."""
STREAM = 1 << 255
"""Counter of the generator at which grain begins: half its period away from the noise that a sample starts from."""

Matrix = NDArray[np.float64]
LADDER: Matrix = np.linspace(0, 1, LEVELS)
"""Intensities of the tone curve; as a curve, the one that changes nothing."""
Places = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Grain:
    """What reconstructions lack, over many subjects."""

    spectrum: Matrix
    """(CELLS,) * 3: power by frequency along i, j, k, in squared shares of the intensity range."""
    strength: Matrix
    """(1 + label groups, BINS): amplitude by label value and intensity; `SHARE` in the mean, or less."""
    spread: float
    """Standard deviation between subjects of the logarithm of their amplitude."""
    tone: Matrix
    """(LEVELS,) what each decoded intensity from 0 to 1 becomes before."""

    def add(self, unit: FloatArray, label: LabelArray | None, seed: int) -> FloatArray:
        """A decoded volume (i, j, k), intensities in [0, 1], with grain in its foreground; clipped to that range."""
        unit = toned(unit, self.tone)
        random = np.random.Generator(np.random.Philox(key=seed, counter=STREAM))
        amplitude = np.exp(self.spread * random.standard_normal()) * self.strength
        white = random.standard_normal(unit.shape, dtype=np.float32)
        # filtered last: an amplitude that changes from voxel to voxel would whiten it
        spectrum = fft.rfftn(amplitude.astype(np.float32)[_places(unit, label)] * white)
        gain = np.sqrt(self.spectrum).astype(np.float32)[_cells(unit.shape)]
        field = fft.irfftn(spectrum * (gain * _is_above(LOWEST, unit.shape)), unit.shape)
        return np.where(unit > FOREGROUND, (unit + field).clip(0, 1), unit)


def toned(unit: FloatArray, tone: Matrix) -> FloatArray:
    """A volume through a tone curve."""
    return np.interp(unit, LADDER, tone).astype(np.float32)


def _places(unit: FloatArray, label: LabelArray | None) -> Places:
    """Label value, 0 without a label map, and bin of intensity of each voxel."""
    bins = np.minimum((unit * BINS).astype(np.intp), BINS - 1)
    return np.zeros_like(bins) if label is None else label.astype(np.intp), bins


def _frequencies(shape: Sequence[int]) -> list[Matrix]:
    """Along each axis, of a real spectrum, in units of the highest one."""
    *others, last = shape
    return [2 * np.abs(fft.fftfreq(side)) for side in others] + [2 * fft.rfftfreq(last)]


def _cells(shape: Sequence[int]) -> tuple[NDArray[np.intp], ...]:
    """Cell of each frequency of a real spectrum."""
    return np.ix_(*(np.minimum((axis * CELLS).astype(np.intp), CELLS - 1) for axis in _frequencies(shape)))


def _is_above(lowest: float, shape: Sequence[int]) -> NDArray[np.bool_]:
    squares = [np.square(axis) for axis in np.meshgrid(*_frequencies(shape), indexing="ij", sparse=True)]
    return np.asarray(sum(squares) >= lowest**2)


def inner_window(unit: FloatArray) -> FloatArray:
    """Weights that fade out within the foreground, so that its outline hardly counts."""
    inside = unit > FOREGROUND
    inner = ndimage.binary_erosion(inside, iterations=RIM, border_value=1)
    return np.asarray(ndimage.gaussian_filter((inner if inner.any() else inside).astype(np.float32), 1.0))


def power_under(window: FloatArray, unit: FloatArray) -> FloatArray:
    """Real power spectrum of a volume (i, j, k) under a window; its mean is the variance there."""
    mean = float((window * unit).sum(dtype=np.float64)) / max(float(window.sum(dtype=np.float64)), 1e-12)
    power = np.square(np.abs(fft.rfftn(window * (unit - mean))))
    return np.asarray(power / max(float(np.square(window).sum(dtype=np.float64)), 1e-12), dtype=np.float32)


@dataclass(frozen=True)
class Sums:
    """Sums over one volume. They hold no voxel."""

    power: Matrix
    """(CELLS,) * 3 mean of each cell of frequency."""
    sizes: Matrix
    """(1 + label groups, BINS) of absolute values of what is fine."""
    counts: Matrix
    """(1 + label groups, BINS) of voxels."""
    squares: float
    """Of what is fine, of all of them."""


def sums_of(unit: FloatArray, copy: FloatArray, label: LabelArray | None, groups: int) -> Sums:
    """Of a volume (i, j, k) in [0, 1], where its reconstruction `copy` has an intensity and a label.

    By its own intensity, noise would seem strong wherever it is what makes a voxel bright or dark.
    """
    power = power_under(inner_window(copy), unit)
    cells = np.ravel_multi_index(np.broadcast_arrays(*_cells(unit.shape)), (CELLS,) * 3).ravel()
    totals, counts = np.bincount(cells, power.ravel(), CELLS**3), np.bincount(cells, minlength=CELLS**3)
    fine = fft.irfftn(fft.rfftn(unit) * _is_above(FINE, unit.shape), unit.shape)
    inside = ndimage.binary_erosion(copy > FOREGROUND, iterations=RIM, border_value=1)
    shape = groups + 1, BINS
    flat = np.ravel_multi_index(_places(copy, label), shape)[inside]
    sizes, voxels = (np.bincount(flat, weights, shape[0] * BINS) for weights in (np.abs(fine[inside]), None))
    return Sums(
        (totals / np.maximum(counts, 1)).reshape((CELLS,) * 3),
        sizes.astype(np.float64).reshape(shape),
        voxels.astype(np.float64).reshape(shape),
        float(np.square(fine[inside]).sum(dtype=np.float64)),
    )


def histogram_of(unit: FloatArray) -> Matrix:
    """(LEVELS,) voxels of each intensity."""
    levels = np.rint(unit * (LEVELS - 1)).astype(np.intp)
    return np.bincount(levels.ravel(), minlength=LEVELS).astype(np.float64)


def fit_tone(scans: Sequence[Matrix], copies: Sequence[Matrix]) -> Matrix:
    """(LEVELS,) the intensity below which as many voxels of scans lie as of reconstructions below each one.

    From the histograms of both. As many voxels become background as are background in scans: a decoder blurs the sharp
    outline of a masked scan to a dark rim that no scan has.
    """
    below, own = ((np.cumsum(one) - one / 2) / one.sum() for one in (np.sum(scans, axis=0), np.sum(copies, axis=0)))
    background = np.interp(FOREGROUND, LADDER, below)
    return np.where(own <= background, 0, np.interp(own, below, LADDER))


def fit_grain(
    scans: Sequence[Sums], copies: Sequence[Sums], subjects: Sequence[str], tone: Matrix = LADDER
) -> Grain | None:
    """What reconstructions, through the tone curve, lack of the power of their scans; None of too few subjects.

    A label and intensity that fewer than `FEWEST` subjects have takes what is missing of that intensity in all labels,
    or of the whole foreground.
    """
    if len(set(subjects)) < FEWEST:
        return None
    spectrum = np.maximum(np.mean([a.power - b.power for a, b in zip(scans, copies, strict=True)], axis=0), 0)
    counts = np.stack([copy.counts for copy in copies])
    own, of_bin, of_all = (_missing(scans, copies, axes) for axes in ((), (0,), (0, 1)))
    common = np.where(_enough(counts.sum(1, keepdims=True), subjects), of_bin, of_all)
    power = np.where(_enough(counts, subjects), own, common)
    squares = [sum(one.squares for one in side) for side in (scans, copies)]
    # the spectrum is of squares, to which few large values add much; a normal field has none
    strength = SHARE * np.sqrt(power * counts.sum() / max(squares[0] - squares[1], 1e-12))
    levels = np.array([scan.sizes.sum() / max(scan.counts.sum(), 1) for scan in scans])
    return Grain(spectrum, strength, float(np.log(np.maximum(levels, 1e-9)).std()), tone)


def _missing(scans: Sequence[Sums], copies: Sequence[Sums], axes: tuple[int, ...]) -> Matrix:
    """Variance of scans minus that of reconstructions, pooled over labels (0) and intensities (1) if named."""
    return np.maximum(_variance(scans, axes) - _variance(copies, axes), 0)


def _variance(found: Sequence[Sums], axes: tuple[int, ...]) -> Matrix:
    """Of a normal distribution with the mean absolute value that was found: edges, few and large, count for less."""
    sizes, counts = (
        np.sum([getattr(one, name) for one in found], axis=0).sum(axes, keepdims=True) for name in ("sizes", "counts")
    )
    return np.asarray(np.pi / 2 * np.square(sizes / np.maximum(counts, 1)))


def _enough(counts: Matrix, subjects: Sequence[str]) -> NDArray[np.bool_]:
    """Where at least `FEWEST` subjects have a voxel."""
    names = np.array(subjects)
    having = [counts[names == name].sum(0) > 0 for name in sorted(set(subjects))]
    return np.asarray(np.sum(having, axis=0) >= FEWEST)


def save_grain(folder: Path, grain: Grain | None) -> None:
    """As a checkpoint; of no tensors where there is none."""
    names = () if grain is None else ("spectrum", "strength", "tone")
    parts = {name: torch.from_numpy(getattr(grain, name)) for name in names}
    save_checkpoint(folder, parts, {"spread": grain.spread if grain else 0.0})


def load_grain(folder: Path) -> Grain | None:
    """What `save_grain` wrote; None where there is no such folder, or no grain in it."""
    if not folder.exists():
        return None
    tensors, facts = load_checkpoint(folder)
    parts = {name: tensor.numpy() for name, tensor in tensors.items()}
    return Grain(spread=float(facts["spread"]), **parts) if parts else None
