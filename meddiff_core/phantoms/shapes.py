"""Shapes as distances in mm: negative inside, exact to first order near the surface."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from meddiff_core.types import FloatArray

Triple = tuple[float, float, float]
Knot = tuple[float, float, float, float]
"""Point of a tube's axis in mm, and the radius there."""
Points = tuple[FloatArray, FloatArray, FloatArray]
"""Millimetres right, anterior and superior of the anterior commissure. Shapes below are of the right half:
they see the absolute of the first."""


def project(p: Points, direction: Sequence[float]) -> FloatArray:
    """Scalar product of points and a direction."""
    return np.asarray(p[0] * direction[0] + p[1] * direction[1] + p[2] * direction[2])


def length(x: FloatArray, y: FloatArray | float, z: FloatArray | float = 0.0) -> FloatArray:
    """Euclidean length of vectors."""
    square = x * x + y * y + z * z
    return np.asarray(np.sqrt(square, out=square))


def ellipsoid(p: Points, centre: Triple, radii: Triple) -> FloatArray:
    """An ellipsoid by its centre and semi-axes."""
    near, slope = np.zeros_like(p[1]), np.zeros_like(p[1])
    for axis, c, r in zip(p, centre, radii, strict=True):
        square = axis - c
        square *= square
        square *= 1 / r**2
        near += square
        square *= 1 / r**2
        slope += square
    np.sqrt(near, out=near)
    np.sqrt(slope, out=slope)
    near += 1e-6  # the centre itself has no direction
    slope += 1e-6 / min(radii)
    near *= near - 1
    near /= slope
    return near


def tube(p: Points, knots: Sequence[Knot], widen: float = 1.0) -> FloatArray:
    """A chain of round cones, their radii times `widen`."""
    distances = [_cone(p, start, end, widen) for start, end in pairwise(knots)]
    return np.asarray(np.minimum.reduce(distances))


def _cone(p: Points, start: Knot, end: Knot, widen: float) -> FloatArray:
    axis = [b - a for a, b in zip(start[:3], end[:3], strict=True)]
    x, y, z = (coordinate - s for coordinate, s in zip(p, start[:3], strict=True))
    along = np.clip(project((x, y, z), axis) / sum(a * a for a in axis), 0, 1)
    radius = widen * (start[3] + along * (end[3] - start[3]))
    return np.asarray(length(x - along * axis[0], y - along * axis[1], z - along * axis[2]) - radius)


def union(a: FloatArray, b: FloatArray, seam_mm: float) -> FloatArray:
    """Shapes that grow together along a rounded seam."""
    overlap = a - b
    np.abs(overlap, out=overlap)
    np.subtract(seam_mm, overlap, out=overlap)
    np.maximum(overlap, 0, out=overlap)
    overlap *= overlap
    overlap *= 1 / (4 * seam_mm)
    return np.asarray(np.minimum(a, b) - overlap)


def intersection(a: FloatArray, b: FloatArray, seam_mm: float) -> FloatArray:
    """What both shapes share, with a rounded seam."""
    return -union(-a, -b, seam_mm)
