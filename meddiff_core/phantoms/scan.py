"""A scan of a brain: its grid, partial volume, bias field and noise."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.errors import ConfigurationError
from meddiff_core.phantoms.anatomy import CENTRE_MM, FLUID, Layer, Voxels, place_voxels, tissue_layers
from meddiff_core.phantoms.shapes import Points, Triple, project
from meddiff_core.phantoms.traits import Traits, random_traits
from meddiff_core.types import FloatArray, LabelArray

LABEL_GROUPS = {"ventricles": [1], "cortex": [2], "white_matter": [3], "deep_grey": [4], "cerebellum_brainstem": [5]}
"""Structures of the label maps, as a study's `label_groups`. Fluid in sulci is 0, as in most parcellations."""

FIELD_OF_VIEW_MM: Triple = (160.0, 192.0, 160.0)
FINEST_MM = 1.0


@dataclass(frozen=True)
class Phantom:
    """One synthetic brain."""

    image: FloatArray
    """(i, j, k), RAS+, scanner-like units; 0 outside the brain."""
    label: LabelArray
    """(i, j, k): 0 or a value of `LABEL_GROUPS`."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index to mm."""


def make_phantom(seed: int, age: float, sex: str, spacing_mm: float = 4.0) -> Phantom:
    """The brain of person `seed` at an age in years, computed at 2 to 3 mm and averaged to `spacing_mm`.

    The same seed is the same person: only what age or sex change differs. The field of view is 160 x 192 x 160 mm
    or a little more, each size a multiple of 4 voxels.

    Raises:
        ConfigurationError: age, sex (M or F) or spacing is out of range.
    """
    _check(age, sex, spacing_mm)
    rng = np.random.default_rng(seed)
    traits = random_traits(rng, age, sex)
    factor = max(1, round(spacing_mm / 2.5))
    step_mm = spacing_mm / factor
    voxels = place_voxels(_anatomical(_axes(spacing_mm, factor), traits), traits, step_mm)
    signal, labels = _paint(tissue_layers(voxels, traits), step_mm)
    image, label = _average(signal * _sensitivity(voxels, traits), labels, voxels.inside, factor)
    noise = rng.standard_normal(image.shape, np.float32) * traits.noise
    brain = np.maximum((image + noise) * traits.gain, 1)  # 0 is kept for what is outside
    return Phantom(np.where(image > 0, brain, 0), label, _affine(spacing_mm))


def _check(age: float, sex: str, spacing_mm: float) -> None:
    if not 0 < age < 120:
        raise ConfigurationError(f"age must be between 0 and 120 years, is {age}")
    if sex not in ("M", "F"):
        raise ConfigurationError(f"sex must be M or F, is {sex!r}")
    if not FINEST_MM <= spacing_mm <= 12:
        raise ConfigurationError(f"spacing must be {FINEST_MM} to 12 mm, is {spacing_mm}")


def _shape(spacing_mm: float) -> list[int]:
    return [4 * math.ceil(extent / spacing_mm / 4) for extent in FIELD_OF_VIEW_MM]


def _affine(spacing_mm: float) -> NDArray[np.float64]:
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = [c - spacing_mm * (n - 1) / 2 for c, n in zip(CENTRE_MM, _shape(spacing_mm), strict=True)]
    return affine


def _axes(spacing_mm: float, factor: int) -> Points:
    """Millimetres from the centre of the field of view, one broadcastable axis each, `factor` times finer."""
    axes = []
    for n in _shape(spacing_mm):
        axes.append(((np.arange(n * factor) - (n * factor - 1) / 2) * spacing_mm / factor).astype(np.float32))
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return x, y, z


def _anatomical(axes: Points, traits: Traits) -> Points:
    """Where each voxel lies in the common anatomy: pose, size and smooth displacements of this person undone."""
    x, y, z = (
        project(axes, [float(weight) for weight in row]) + centre + _displacement(axes, waves)
        for row, centre, waves in zip(traits.matrix, CENTRE_MM, traits.waves, strict=True)
    )
    return x, y, z


def _displacement(axes: Points, waves: NDArray[np.float64]) -> FloatArray:
    """Sum of waves of at most 1.2 mm, each a product of one sine an axis, 130 to 390 mm long."""
    total = np.zeros((1, 1, 1), np.float32)
    for amplitude, *shape in waves.tolist():
        sx, sy, sz = (
            np.sin(axis * (0.032 + 0.016 * frequency) + math.pi * phase)
            for axis, frequency, phase in zip(axes, shape[:3], shape[3:], strict=True)
        )
        total = total + 1.2 * amplitude * sx * sy * sz
    return total


def _paint(layers: list[Layer], step_mm: float) -> tuple[FloatArray, LabelArray]:
    """Brightness with partial volume at every border, and the label of the topmost tissue."""
    signal = np.full(layers[0][0].shape, FLUID, np.float32)
    label = np.zeros(signal.shape, np.uint8)
    for distance, brightness, value in layers:
        signal += np.clip(0.5 - distance / step_mm, 0, 1) * (brightness - signal)
        label[distance < 0] = value
    return signal, label


def _sensitivity(v: Voxels, traits: Traits) -> FloatArray:
    """The coil's smooth bias field, at most 15% off."""
    field = np.ones(v.side.shape, np.float32)
    for axis, (amplitude, phase) in zip((v.side, *v.points[1:]), traits.bias.tolist(), strict=True):
        field += 0.05 * amplitude * np.cos(axis / 40 + math.pi * phase)
    return field


def _average(
    signal: FloatArray, label: LabelArray, inside: NDArray[np.bool_], factor: int
) -> tuple[FloatArray, LabelArray]:
    """Output voxels: the mean signal and the commonest label of the fine ones; 0 where most are outside."""
    i, j, k = (size // factor for size in inside.shape)
    coarse = np.arange(i * j * k).reshape(i, 1, j, 1, k, 1)
    voxel = np.broadcast_to(coarse, (i, factor, j, factor, k, factor)).reshape(inside.shape)[inside]
    image = np.bincount(voxel, signal, i * j * k) / factor**3
    values = 1 + sum(len(group) for group in LABEL_GROUPS.values())
    votes = np.bincount(voxel * values + label, minlength=i * j * k * values).reshape(i, j, k, values)
    kept = votes.sum(-1) >= factor**3 / 2
    return (image.reshape(kept.shape) * kept).astype(np.float32), (votes.argmax(-1) * kept).astype(np.uint8)
