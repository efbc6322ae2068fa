"""Named figures of intensity, texture and shape, as the Image Biomarker Standardisation Initiative defines them.

Zwanenburg et al. 2020, IBSI reference manual, chapter 3. A reader can check each of them by hand, and knows what
it means when one is off; features of a network say only that something is. Intensities are those of the contract,
in [0, 1], so no bin depends on the volume at hand, and a shift of intensity is not normalised away.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special, stats

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract, Spacing
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.measurements import FOREGROUND
from meddiff_core.evidence.surfaces import OFFSETS, surface_areas
from meddiff_core.types import FloatArray, LabelArray, Volumes

LEVELS = 32
"""Grey levels of equal width, 1/32 of the intensity range, for entropies and co-occurrence (fixed bin size)."""
INTENSITY = (
    "mean", "variance", "skewness", "kurtosis", "median", "minimum", "p10", "p90", "maximum", "interquartile_range",
    "mean_absolute_deviation", "robust_mean_absolute_deviation", "root_mean_square", "entropy", "uniformity",
)  # fmt: skip
TEXTURE = (
    "joint_maximum", "joint_average", "joint_variance", "joint_entropy", "difference_average", "difference_variance",
    "difference_entropy", "sum_entropy", "angular_second_moment", "contrast", "inverse_difference",
    "inverse_difference_moment", "correlation", "autocorrelation", "cluster_shade", "cluster_prominence",
    "information_correlation_1", "information_correlation_2",
)  # fmt: skip
SHAPE = ("volume_mm3", "surface_to_volume", "sphericity", "elongation", "flatness")


class RadiomicsFeatures:
    """Intensity and texture of the foreground, and the shape of each label group and of the foreground."""

    name = "radiomics"

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        settings = {"levels": LEVELS, "foreground": FOREGROUND, "names": self.feature_names}
        self.digest = digest_of({"radiomics": 1, **settings})

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the columns, in their order."""
        shapes = [f"{figure}:{group}" for group in ("foreground", *self.contract.labels) for figure in SHAPE]
        return (*INTENSITY, *TEXTURE, *shapes)

    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 38 + 5 groups); an empty foreground or group has zeros."""
        rows = []
        for index in indices:
            unit = self.contract.intensity.unit(volumes.image(index))
            rows.append(radiomics(unit, volumes.label(index), self.contract))
        return np.array([[row[name] for name in self.feature_names] for row in rows], dtype=np.float32)


def radiomics(unit: FloatArray, label: LabelArray | None, contract: Contract) -> dict[str, float]:
    """Figures by name of one volume (i, j, k) with intensities in [0, 1]."""
    foreground = unit > FOREGROUND
    figures = _intensity(unit[foreground]) | _texture(unit, foreground, contract)
    masks = {"foreground": foreground}
    if label is not None:
        masks |= {group: label == value for value, group in enumerate(contract.labels, start=1)}
    for group, mask in masks.items():
        figures |= {f"{name}:{group}": value for name, value in shape(mask, contract.spacing_mm).items()}
    return figures


def _intensity(inside: FloatArray) -> dict[str, float]:
    """IBSI 3.3 and 3.4 of the foreground's intensities (n,)."""
    if not inside.size:
        return dict.fromkeys(INTENSITY, 0.0)
    values = inside.astype(np.float64)
    low, quarter, middle, three, high = np.percentile(values, [10, 25, 50, 75, 90])
    robust = values[(values >= low) & (values <= high)]
    # scipy has no skewness of a constant, and warns of it
    skewness, kurtosis = (stats.skew(values), stats.kurtosis(values)) if np.ptp(values) > 0 else (0.0, -3.0)
    share = np.bincount(_levels(inside), minlength=LEVELS) / len(inside)
    figures = (
        values.mean(), values.var(), skewness, kurtosis, middle, values.min(), low, high, values.max(), three - quarter,
        np.abs(values - values.mean()).mean(), np.abs(robust - robust.mean()).mean(),
        np.sqrt(np.square(values).mean()), _entropy(share), (share**2).sum(),
    )  # fmt: skip
    return dict(zip(INTENSITY, map(float, figures), strict=True))


def _levels(unit: FloatArray) -> NDArray[np.intp]:
    """Grey level of each intensity, from 0."""
    return np.minimum((unit * LEVELS).astype(np.intp), LEVELS - 1)


def _entropy(share: Matrix) -> float:
    """In bits."""
    return float(special.entr(share).sum() / np.log(2))


def _texture(unit: FloatArray, foreground: NDArray[np.bool_], contract: Contract) -> dict[str, float]:
    counts = co_occurrence(_levels(unit), foreground, contract.spacing_mm)
    return texture(counts / counts.sum()) if counts.any() else dict.fromkeys(TEXTURE, 0.0)


def co_occurrence(
    levels: NDArray[np.intp], foreground: NDArray[np.bool_], spacing_mm: Spacing = (1.0, 1.0, 1.0)
) -> Matrix:
    """(32, 32) symmetric counts of grey levels in neighbouring foreground voxels, all 13 directions merged.

    IBSI 3.6, aggregation 3D:MRG; where slices are thick, of neighbours within them alone, 2.5D:VMRG. Levels start at 0.
    """
    outside = LEVELS
    marked = np.pad(np.where(foreground, levels, outside), 1, constant_values=outside)
    inner = tuple(slice(1, -1) for _ in range(3))
    first = marked[inner].ravel() * (LEVELS + 1)
    counts = np.zeros((LEVELS + 1) ** 2, dtype=np.int64)
    for offset in _near(spacing_mm):
        moved = marked[tuple(slice(1 + step, side - 1 + step) for step, side in zip(offset, marked.shape, strict=True))]
        counts += np.bincount(first + moved.ravel(), minlength=len(counts))
    pairs = counts.reshape(LEVELS + 1, LEVELS + 1)[:LEVELS, :LEVELS]
    return (pairs + pairs.T).astype(np.float64)


def _near(spacing_mm: Spacing) -> list[tuple[int, ...]]:
    """Offsets that take no step along an axis whose spacing is twice the finest or more."""
    finest = min(spacing_mm)
    coarse = [spacing >= 2 * finest for spacing in spacing_mm]
    return [offset for offset in OFFSETS if not any(step and far for step, far in zip(offset, coarse, strict=True))]


def texture(p: Matrix) -> dict[str, float]:
    """Figures of a co-occurrence matrix (levels, levels) that sums to 1; levels count from 1 (IBSI 3.6)."""
    levels = len(p)
    i, j = np.indices(p.shape) + 1.0
    gap, total = np.abs(i - j), i + j
    mean, joint = (i * p).sum(), _entropy(p)
    variance = ((i - mean) ** 2 * p).sum()
    differences = np.bincount(gap.astype(int).ravel(), weights=p.ravel(), minlength=levels).astype(np.float64)
    sums = np.bincount(total.astype(int).ravel(), weights=p.ravel()).astype(np.float64)
    spread = (np.arange(levels) * differences).sum()
    first, second = _information_correlations(p)
    correlation = (i * j * p).sum() - mean**2
    figures = (
        p.max(), mean, variance, joint, spread, ((np.arange(levels) - spread) ** 2 * differences).sum(),
        _entropy(differences), _entropy(sums), (p**2).sum(), (gap**2 * p).sum(),
        (p / (1 + gap)).sum(), (p / (1 + gap**2)).sum(), correlation / variance if variance > 1e-12 else 1.0,
        (i * j * p).sum(), ((total - 2 * mean) ** 3 * p).sum(), ((total - 2 * mean) ** 4 * p).sum(), first, second,
    )  # fmt: skip
    return dict(zip(TEXTURE, map(float, figures), strict=True))


def _information_correlations(p: Matrix) -> tuple[float, float]:
    """IBSI 3.6.24 and 3.6.25 of a symmetric matrix: 0 where a level says nothing of its neighbour.

    Both are of the mutual information of the two, in bits.
    """
    marginal: Matrix = p.sum(1)
    shared = max(0.0, float(special.rel_entr(p, np.outer(marginal, marginal)).sum() / np.log(2)))
    alone = _entropy(marginal)
    return -shared / alone if alone > 1e-12 else 0.0, float(np.sqrt(1 - np.exp(-2 * shared)))


def shape(mask: NDArray[np.bool_], spacing_mm: Spacing) -> dict[str, float]:
    """Volume by counting, surface by Crofton's formula, axes by principal components (IBSI 3.1).

    IBSI measures surfaces on a mesh; Crofton's formula needs none. It is within 2% of a sphere's from a radius of 8
    voxels on, and up to 13% below that of a box.
    """
    boxes: list[Any] = ndimage.find_objects(mask.astype(np.uint8), max_label=1)
    if boxes[0] is None:
        return dict.fromkeys(SHAPE, 0.0)
    inside = mask[boxes[0]]
    volume, area = inside.sum() * np.prod(spacing_mm), surface_areas(inside.astype(np.uint8), 1, spacing_mm)[0]
    least, minor, major = _axes(inside, spacing_mm)
    figures = (volume, area / volume, (36 * np.pi * volume**2) ** (1 / 3) / area, minor / major, least / major)
    return dict(zip(SHAPE, map(float, figures), strict=True))


def _axes(mask: NDArray[np.bool_], spacing_mm: Spacing) -> tuple[float, float, float]:
    """Lengths of the principal axes, least first; those of one voxel are alike."""
    points = np.argwhere(mask) * np.array(spacing_mm)
    voxel = np.diag(np.square(spacing_mm)) / 12  # has an extent of its own
    values = np.linalg.eigvalsh(np.cov(points.T, bias=True) + voxel)
    least, minor, major = np.sqrt(np.maximum(values, 1e-12))
    return float(least), float(minor), float(major)
