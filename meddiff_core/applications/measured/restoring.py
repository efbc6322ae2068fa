"""Classical restoration, as a person without a trained model would do it: filters, splines, total variation.

Their free numbers are chosen on validation scans by whoever calls them, so that no baseline is beaten by a bad
setting of it.
"""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.scans import CoarseScan, Mask
from meddiff_core.types import FloatArray

Complex = NDArray[np.complexfloating[Any, Any]]
SEARCH, PATCH = 2, 1
"""Radii of non-local means in voxels: of the places that are compared, and of what is compared there."""


def gaussian(image: FloatArray, width: float) -> FloatArray:
    """A Gaussian filter; `width` in voxels."""
    return np.asarray(ndimage.gaussian_filter(image, width), dtype=np.float32)


def non_local_means(image: FloatArray, std: float, strength: float) -> FloatArray:
    """Mean of near voxels by the likeness of their patches (Buades et al. 2005), for noise of a known deviation.

    Weights are exp(-max(d - 2 std^2, 0) / (strength std)^2) of the mean squared difference d of patches, as in
    scikit-image's fast mode; all voxels of a shift at once.
    """
    wide = image.astype(np.float64)
    padded = np.pad(wide, SEARCH, mode="reflect")
    total, weights = np.zeros_like(wide), np.zeros_like(wide)
    for shift in product(range(2 * SEARCH + 1), repeat=3):
        moved = padded[tuple(slice(start, start + side) for start, side in zip(shift, wide.shape, strict=True))]
        distance = ndimage.uniform_filter((wide - moved) ** 2, 2 * PATCH + 1)
        weight = np.exp(-np.maximum(distance - 2 * std**2, 0) / max((strength * std) ** 2, 1e-12))
        total += weight * moved
        weights += weight
    return np.asarray(total / weights, dtype=np.float32)


def without_rician_bias(image: FloatArray, std: float) -> FloatArray:
    """sqrt(m^2 - std^2) of a denoised magnitude, which for much signal is the signal (Gudbjartsson & Patz 1995)."""
    return np.asarray(np.sqrt(np.maximum(image.astype(np.float64) ** 2 - std**2, 0)), dtype=np.float32)


def coarsened(image: FloatArray, factors: tuple[int, int, int]) -> CoarseScan:
    """Means of blocks of voxels, as thick voxels measure them; a rest that fills no block is left out."""
    kept = [side // factor for side, factor in zip(image.shape, factors, strict=True)]
    whole = image[tuple(slice(0, count * factor) for count, factor in zip(kept, factors, strict=True))]
    (i, j, k), (a, b, c) = kept, factors
    means = whole.reshape(i, a, j, b, k, c).mean((1, 3, 5), dtype=np.float64).astype(np.float32)
    offsets = tuple((factor - 1) / 2 for factor in factors)
    return CoarseScan(means, (float(a), float(b), float(c)), (offsets[0], offsets[1], offsets[2]))


def interpolated(coarse: CoarseScan, shape: tuple[int, ...], order: int) -> FloatArray:
    """The coarse scan on the fine grid by splines: order 1 is linear, 3 cubic."""
    axes = [
        (np.arange(side) - offset) / factor
        for side, offset, factor in zip(shape, coarse.offsets, coarse.factors, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    fine = ndimage.map_coordinates(coarse.image.astype(np.float64), grid, order=order, mode="nearest")
    return np.asarray(np.clip(fine, 0, 1), dtype=np.float32)


def zero_filled(kspace: Complex) -> FloatArray:
    """Magnitude of the inverse transform with zeros where nothing was measured."""
    return np.asarray(np.clip(np.abs(np.fft.ifftn(kspace, norm="ortho")), 0, 1), dtype=np.float32)


def total_variation(kspace: Complex, measured: Mask, weight: float, iterations: int = 150) -> FloatArray:
    """argmin |M F x - y|^2 / 2 + weight TV(x), by the primal-dual method of Chambolle & Pock (2011)."""
    step = 1 / np.sqrt(12.0)  # the gradient's norm is below sqrt(12) in three dimensions
    wide = kspace.astype(np.complex128)
    x = np.fft.ifftn(wide, norm="ortho").real
    ahead, dual = x.copy(), np.zeros((3, *x.shape))
    for _ in range(iterations):
        dual += step * _gradient(ahead)
        dual /= np.maximum(1, np.sqrt((dual**2).sum(0)) / weight)
        before, moved = x, np.fft.fftn(x + step * _divergence(dual), norm="ortho")
        fitted = np.where(measured, (moved + step * wide) / (1 + step), moved)
        x = np.fft.ifftn(fitted, norm="ortho").real
        ahead = 2 * x - before
    return np.asarray(np.clip(x, 0, 1), dtype=np.float32)


def _gradient(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Forward differences, circular as the transform is."""
    return np.stack([np.roll(x, -1, axis) - x for axis in range(3)])


def _divergence(dual: NDArray[np.float64]) -> NDArray[np.float64]:
    """The negative adjoint of `_gradient`."""
    return np.asarray(sum(dual[axis] - np.roll(dual[axis], 1, axis) for axis in range(3)))


def harmonic_fill(image: FloatArray, hole: Mask, sweeps: int = 2000) -> FloatArray:
    """The hole as the smoothest surface through its border: Laplace's equation, by conjugate gradients."""
    from scipy.sparse.linalg import LinearOperator, cg

    inner = np.asarray(hole)

    def laplacian(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(6 * values - sum(_beside(values, axis, step) for axis in range(3) for step in (1, -1)))

    def inside(flat: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.zeros(image.shape)
        whole[inner] = flat
        return laplacian(whole)[inner]

    border = np.where(inner, 0, image.astype(np.float64))
    count = int(inner.sum())
    found, _ = cg(
        LinearOperator((count, count), matvec=inside, dtype=np.float64),
        -laplacian(border)[inner],
        rtol=1e-6,
        maxiter=sweeps,
    )
    filled = image.copy()
    filled[inner] = np.clip(found, 0, 1)
    return filled


def _beside(values: NDArray[np.float64], axis: int, step: int) -> NDArray[np.float64]:
    """The neighbour along an axis; at the edge of the grid the voxel itself."""
    moved = np.roll(values, step, axis)
    edge: list[slice | int] = [slice(None)] * 3
    edge[axis] = 0 if step == 1 else -1
    moved[tuple(edge)] = values[tuple(edge)]
    return moved
