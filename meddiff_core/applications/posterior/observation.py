"""What is known of a wanted volume, as operators on the decoded volume.

Latents are never masked: one of them reaches far into a volume, and a mask on them would change regions far away.
All operators but `magnitudes` and those on label probabilities are linear in the image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from meddiff_core.applications.models import Decoded

Operator = Callable[[Decoded], Tensor]
"""A decoded batch to what would be measured of it, (b, ...); differentiable."""
Profile = Literal["box", "gaussian"]
"""Sensitivity of a thick voxel along an axis: constant over its width, or a bell with that width at half height."""
VoxelMask = Bool[Tensor, "i j k"]
FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half height of a Gaussian, in standard deviations."""


@dataclass(frozen=True)
class Observation:
    """A measurement of the wanted volume, with Gaussian noise."""

    operator: Operator
    value: Tensor
    """(...) what was measured, the same for every sample of a batch."""
    std: Tensor
    """Standard deviation of the measurement and of the autoencoder there, a number or of the value's shape."""
    name: str = "image"
    """What was measured, for the figure that says how well it is met."""


def identity(decoded: Decoded) -> Float[Tensor, "b c i j k"]:
    """The whole volume: image, and probability of each label value."""
    return torch.cat([decoded.image[:, None], decoded.labels], dim=1)


def image_alone(decoded: Decoded) -> Float[Tensor, "b i j k"]:
    """The image; labels are what is missing."""
    return decoded.image


def voxels(mask: VoxelMask) -> Operator:
    """The image where the mask is true, (b, n)."""
    return lambda decoded: decoded.image[:, mask]


def magnitudes(mask: VoxelMask, noise: float) -> Operator:
    """Expected magnitude where the mask is true, (b, n), under noise of that standard deviation in both quadratures.

    `sqrt(image^2 + noise^2)`: to first order the mean of a Rician variable (Gudbjartsson & Patz 1995).
    """
    return lambda decoded: (decoded.image[:, mask].square() + noise**2).sqrt()


def downsampled(
    size: tuple[int, int, int],
    coarse: tuple[int, ...],
    factors: Sequence[float],
    offsets: Sequence[float],
    profile: Profile = "box",
) -> Operator:
    """The image as thicker voxels see it, (b, i', j', k'): of size `coarse`, see `CoarseScan` for the others."""
    rows = [thick_voxels(*axis, profile) for axis in zip(size, coarse, factors, offsets, strict=True)]
    return lambda decoded: along_axes(decoded.image, rows)


def along_axes(image: Float[Tensor, "b i j k"], rows: Sequence[Tensor]) -> Float[Tensor, "b p q r"]:
    """A matrix (p, i), (q, j), (r, k) applied along each axis."""
    averaged: Tensor = torch.einsum("bijk,pi,qj,rk->bpqr", image, *rows)
    return averaged


def thick_voxels(size: int, count: int, factor: float, offset: float, profile: Profile = "box") -> Float[Tensor, "m n"]:
    """(count, size): weights by which `count` voxels, `factor` wide, the first at `offset`, average those of a grid.

    Rows sum to 1; one that lies beyond the grid is the nearest voxel's.
    """
    distance = torch.arange(size, dtype=torch.float64) - (offset + factor * torch.arange(count)[:, None])
    if profile == "gaussian":
        weights = torch.exp(-0.5 * (distance * FWHM / factor) ** 2)
    else:
        ends = (distance + 0.5).clamp(-factor / 2, factor / 2), (distance - 0.5).clamp(-factor / 2, factor / 2)
        weights = ends[0] - ends[1]
    nearest = functional.one_hot(distance.abs().argmin(dim=1), size).double()
    weights = torch.where(weights.sum(dim=1, keepdim=True) > 1e-6, weights, nearest)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def blurred(psf: Float[Tensor, "p q r"]) -> Operator:
    """The image after a convolution with a point spread function of odd sides, zero beyond the grid."""
    kernel = psf.flip(0, 1, 2)[None, None]  # torch correlates
    padding = [side // 2 for side in psf.shape]
    return lambda decoded: functional.conv3d(decoded.image[:, None], kernel, padding=padding)[:, 0]


def kspace(mask: VoxelMask) -> Operator:
    """Measured frequencies of the image, (b, n, 2) as real and imaginary part, by `spectrum`."""
    return lambda decoded: torch.view_as_real(spectrum(decoded.image)[:, mask])


def spectrum(image: Float[Tensor, "*b i j k"]) -> Tensor:
    """Discrete Fourier transform of a volume, orthonormal, its zero frequency first."""
    frequencies: Tensor = torch.fft.fftn(image, dim=(-3, -2, -1), norm="ortho")
    return frequencies


def volume_of(structure: int, voxel_mm3: float) -> Operator:
    """Volume in mm3 of a stored label value, (b,).

    It moves labels more than the image: a decoder may satisfy it at its label head alone.
    """
    return lambda decoded: decoded.labels[:, structure].sum(dim=(1, 2, 3)) * voxel_mm3


def labels_in(mask: VoxelMask) -> Operator:
    """Probability of each label value where the mask is true, (b, l, n)."""
    return lambda decoded: decoded.labels[:, :, mask]
