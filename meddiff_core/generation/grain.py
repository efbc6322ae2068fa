"""Grain: what the autoencoder leaves out of a scan, put back as a random field instead of being averaged away.

A decoder gives about the mean of all scans that a latent may stand for, so their noise and finest texture cancel out,
and every volume is smoother than any scan. The grain has the power that is missing, by band of frequency, label and
intensity, and comes from a stream of its own of the sample's seed. It is made of sums over many subjects, and shows
nothing of any of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from meddiff_core.models.checkpoint import load_checkpoint, save_checkpoint
from meddiff_core.types import FloatArray, LabelArray

FOREGROUND = 0.02
"""Share of the intensity range above which a voxel is foreground; elsewhere there is no grain."""
BINS = 8
"""Bins of intensity, of equal width."""
EDGES = (0.35, 0.55, 0.75, 0.95)
"""Where the bands begin, in units of the highest frequency along an axis; the last one has no end."""
HALF_WIDTH = 0.1
"""Over which one band fades into the next, in the same unit."""
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

    def add(self, unit: FloatArray, label: LabelArray | None, seed: int) -> FloatArray:
        """A decoded volume (i, j, k), intensities in [0, 1], with grain in its foreground; clipped to that range."""
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
    for lower, upper in zip(above, above[1:], strict=False):
        yield np.sqrt(np.maximum(lower - upper, 0)).astype(np.float32)


def _rise(frequency: Matrix, edge: float) -> Matrix:
    across = np.clip((frequency - edge) / (2 * HALF_WIDTH) + 0.5, 0, 1)
    return np.asarray(np.sin(across * np.pi / 2) ** 2)


@dataclass(frozen=True)
class Powers:
    """Sums over the foreground of one volume, by band, label value and intensity. They hold no voxel."""

    squares: Matrix
    """(bands, 1 + label groups, BINS)."""
    counts: Matrix
    """(1 + label groups, BINS)."""

    @property
    def finest(self) -> float:
        """Mean power of the finest band."""
        return float(self.squares[-1].sum() / max(self.counts.sum(), 1))


def powers_of(unit: FloatArray, label: LabelArray | None, groups: int) -> Powers:
    """Of a volume (i, j, k) with intensities in [0, 1]."""
    shape, inside = (groups + 1, BINS), unit > FOREGROUND
    flat = np.ravel_multi_index(_places(unit, label), shape)[inside]

    def total(weights: FloatArray | None = None) -> Matrix:
        return np.bincount(flat, weights, minlength=groups * BINS + BINS).astype(np.float64).reshape(shape)

    return Powers(np.stack([total(np.square(band[inside])) for band in in_bands(unit)]), total())


def fit_grain(scans: Sequence[Powers], copies: Sequence[Powers], subjects: Sequence[str]) -> Grain | None:
    """What reconstructions lack of the power of their scans, each of a subject; None of too few subjects.

    A label and intensity that fewer than `FEWEST` subjects have takes what is missing of that intensity in all labels,
    or of the whole foreground.
    """
    if len(set(subjects)) < FEWEST:
        return None
    counts = np.stack([np.minimum(scan.counts, copy.counts) for scan, copy in zip(scans, copies, strict=True)])
    own, of_bin, of_all = (_missing(scans, copies, axes) for axes in ((), (-2,), (-2, -1)))
    common = np.where(_enough(counts.sum(-2, keepdims=True), subjects), of_bin, of_all)
    power = np.where(_enough(counts, subjects), own, common)
    finest = np.array([scan.finest for scan in scans])
    return Grain(power, float(np.log(np.maximum(finest, 1e-12)).std() / 2))


def _missing(scans: Sequence[Powers], copies: Sequence[Powers], axes: tuple[int, ...]) -> Matrix:
    """Mean power of scans minus that of reconstructions, over labels (-2) and intensities (-1) where these are named."""
    return np.maximum(_mean_power(scans, axes) - _mean_power(copies, axes), 0)


def _mean_power(found: Sequence[Powers], axes: tuple[int, ...]) -> Matrix:
    squares, counts = (
        np.sum([getattr(one, name) for one in found], axis=0).sum(axes, keepdims=True) for name in ("squares", "counts")
    )
    return np.asarray(squares / np.maximum(counts, 1))


def _enough(counts: Matrix, subjects: Sequence[str]) -> NDArray[np.bool_]:
    """Where at least `FEWEST` subjects have a voxel."""
    names = np.array(subjects)
    having = [counts[names == name].sum(0) > 0 for name in sorted(set(subjects))]
    return np.asarray(np.sum(having, axis=0) >= FEWEST)


def save_grain(folder: Path, grain: Grain | None) -> None:
    """As a checkpoint; of no bands where there is none."""
    power = torch.zeros(0) if grain is None else torch.from_numpy(grain.power)
    save_checkpoint(folder, {"power": power}, {"spread": grain.spread if grain else 0.0})


def load_grain(folder: Path) -> Grain | None:
    """What `save_grain` wrote; None where there is no such folder, or no grain in it."""
    if not folder.exists():
        return None
    tensors, facts = load_checkpoint(folder)
    return Grain(tensors["power"].numpy(), float(facts["spread"])) if tensors["power"].numel() else None
