"""Grain: what the autoencoder leaves out of a scan, put back as a random field instead of being averaged away.

A decoder gives about the mean of all scans that a latent may stand for, so their noise and finest texture cancel out,
and every volume is smoother than any scan. The grain has the power that is missing, by band of frequency, label and
intensity, and comes from a stream of its own of the sample's seed. It is made of sums over many subjects, and shows
nothing of any of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
"""Intensities of the tone curve."""
EDGES = (0.35, 0.55, 0.75, 0.95, 1.15, 1.4)
"""Where the bands begin, in units of the highest frequency along an axis. Diagonal ones reach to 1.73, where scans that
were resampled hold little, and where a measure of noise looks."""
HALF_WIDTH = 0.1
"""Over which one band fades into the next, in the same unit."""
RIM = 2
"""Voxels from the border of the foreground that do not count."""
FEWEST = 5
"""Subjects behind every figure that is kept."""
STREAM = 1 << 255
"""Counter of the generator at which grain begins: half its period away from the noise that a sample starts from."""

Matrix = NDArray[np.float64]
Places = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Grain:
    """Power that is missing in reconstructions, over many subjects."""

    power: Matrix
    """(bands, 1 + label groups, BINS): variance by label value and intensity, in squared shares of the range."""
    spread: float
    """Standard deviation between subjects of the logarithm of their amplitude in the finest band."""
    tone: Matrix
    """(LEVELS,) what each decoded intensity from 0 to 1 becomes before."""

    def add(self, unit: FloatArray, label: LabelArray | None, seed: int) -> FloatArray:
        """A decoded volume (i, j, k), intensities in [0, 1], with grain in its foreground; clipped to that range."""
        unit = np.interp(unit, np.linspace(0, 1, LEVELS), self.tone).astype(np.float32)
        random = np.random.Generator(np.random.Philox(key=seed, counter=STREAM))
        strength = np.exp(self.spread * random.standard_normal())
        white = random.standard_normal(unit.shape, dtype=np.float32)
        places, grained = _places(unit, label), unit.copy()
        for power, share, band in zip(self.power, band_shares(unit.shape), in_bands(white), strict=True):
            amplitude = strength * np.sqrt(power / max(share, 1e-6))
            grained += amplitude.astype(np.float32)[places] * band
        return np.where(unit > FOREGROUND, grained.clip(0, 1), unit)


def _places(unit: FloatArray, label: LabelArray | None) -> Places:
    """Label value, 0 without a label map, and bin of intensity of each voxel."""
    bins = np.minimum((unit * BINS).astype(np.intp), BINS - 1)
    return np.zeros_like(bins) if label is None else label.astype(np.intp), bins


def in_bands(volume: FloatArray) -> Iterator[FloatArray]:
    """What each band of frequencies holds of a volume (i, j, k); the squares of their gains add up to 1 or less."""
    spectrum = fft.rfftn(volume)
    for gain in _gains(volume.shape):
        yield fft.irfftn(spectrum * gain, volume.shape).astype(np.float32)


def band_shares(shape: Sequence[int]) -> list[float]:
    """Variance of white noise of variance 1 in each band."""
    # a real spectrum leaves out the half that mirrors what it holds
    twice = np.full(shape[-1] // 2 + 1, 2.0)
    twice[0] = 1
    if shape[-1] % 2 == 0:
        twice[-1] = 1
    return [float((np.square(gain, dtype=np.float64) * twice).sum() / np.prod(shape)) for gain in _gains(shape)]


def _gains(shape: Sequence[int]) -> Iterator[FloatArray]:
    """Of each band, over the frequencies of a real spectrum. Along each axis 1 is the highest frequency that it has."""
    *others, last = shape
    along = [2 * np.abs(fft.fftfreq(side)) for side in others] + [2 * fft.rfftfreq(last)]
    frequency = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*along, indexing="ij", sparse=True)))
    above = [_rise(frequency, edge) for edge in EDGES] + [np.zeros_like(frequency)]
    for lower, upper in pairwise(above):
        yield np.sqrt(np.maximum(lower - upper, 0)).astype(np.float32)


def _rise(frequency: Matrix, edge: float) -> Matrix:
    across = np.clip((frequency - edge) / (2 * HALF_WIDTH) + 0.5, 0, 1)
    return np.asarray(np.sin(across * np.pi / 2) ** 2)


@dataclass(frozen=True)
class Sums:
    """Sums over one volume, by band, label value and intensity. They hold no voxel."""

    sizes: Matrix
    """(bands, 1 + label groups, BINS) of absolute values: edges, which are rare and large, count less than in squares."""
    counts: Matrix
    """(1 + label groups, BINS) of voxels."""
    histogram: Matrix
    """(LEVELS,) of the whole volume."""

    @property
    def finest(self) -> float:
        """Mean of the finest band."""
        return float(self.sizes[-1].sum() / max(self.counts.sum(), 1))


def sums_of(unit: FloatArray, copy: FloatArray, label: LabelArray | None, groups: int) -> Sums:
    """Of a volume (i, j, k) in [0, 1], where its reconstruction `copy` has an intensity and a label.

    By its own intensity, noise would be thought strong wherever it is what makes a voxel bright or dark. Near the border
    of the foreground, its outline would count.
    """
    shape = groups + 1, BINS
    inside = ndimage.binary_erosion(copy > FOREGROUND, iterations=RIM, border_value=1)
    flat = np.ravel_multi_index(_places(copy, label), shape)[inside]

    def total(weights: FloatArray | None = None) -> Matrix:
        return np.bincount(flat, weights, minlength=shape[0] * BINS).astype(np.float64).reshape(shape)

    histogram = np.bincount(_level(unit).ravel(), minlength=LEVELS).astype(np.float64)
    return Sums(np.stack([total(np.abs(band[inside])) for band in in_bands(unit)]), total(), histogram)


def _level(unit: FloatArray) -> NDArray[np.intp]:
    return np.asarray(np.rint(unit * (LEVELS - 1)), dtype=np.intp)


def fit_tone(scans: Sequence[Matrix], copies: Sequence[Matrix]) -> Matrix:
    """(LEVELS,) the intensity of scans below which as many voxels lie as below each one of reconstructions.

    So many of the darkest become background that the foreground is as large as that of scans. From histograms of both.
    """
    below, own = ((np.cumsum(one) - one / 2) / one.sum() for one in (np.sum(scans, axis=0), np.sum(copies, axis=0)))
    levels = np.arange(LEVELS) / (LEVELS - 1)
    tone = np.interp(own, below, levels)
    return np.where(own <= np.interp(FOREGROUND, levels, below), 0, np.maximum(tone, 0))


def fit_grain(scans: Sequence[Sums], copies: Sequence[Sums], subjects: Sequence[str], tone: Matrix | None) -> Grain | None:
    """What reconstructions lack of the power of their scans, each of a subject; None of too few subjects.

    A label and intensity that fewer than `FEWEST` subjects have takes what is missing of that intensity in all labels,
    or of the whole foreground.
    """
    if len(set(subjects)) < FEWEST:
        return None
    counts = np.stack([copy.counts for copy in copies])
    own, of_bin, of_all = (_missing(scans, copies, axes) for axes in ((), (-2,), (-2, -1)))
    common = np.where(_enough(counts.sum(-2, keepdims=True), subjects), of_bin, of_all)
    power = np.where(_enough(counts, subjects), own, common)
    finest = np.array([scan.finest for scan in scans])
    return Grain(power, float(np.log(np.maximum(finest, 1e-9)).std()), np.arange(LEVELS) / (LEVELS - 1) if tone is None else tone)


def _missing(scans: Sequence[Sums], copies: Sequence[Sums], axes: tuple[int, ...]) -> Matrix:
    """Mean power of scans minus that of reconstructions, pooled over labels (-2) and intensities (-1) if named."""
    return np.maximum(_mean_power(scans, axes) - _mean_power(copies, axes), 0)


def _mean_power(found: Sequence[Sums], axes: tuple[int, ...]) -> Matrix:
    """Of a normal distribution with the mean absolute value that was found."""
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
    parts = {} if grain is None else {"power": torch.from_numpy(grain.power), "tone": torch.from_numpy(grain.tone)}
    save_checkpoint(folder, parts, {"spread": grain.spread if grain else 0.0})


def load_grain(folder: Path) -> Grain | None:
    """What `save_grain` wrote; None where there is no such folder, or no grain in it."""
    if not folder.exists():
        return None
    tensors, facts = load_checkpoint(folder)
    return Grain(tensors["power"].numpy(), float(facts["spread"]), tensors["tone"].numpy()) if tensors else None
