"""Tissues of a brain: where they lie, in millimetres of a common anatomy, and how they are layered."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from meddiff_core.phantoms.shapes import Knot, Points, Triple, ellipsoid, intersection, length, tube, union
from meddiff_core.phantoms.traits import Traits
from meddiff_core.types import FloatArray

Layer = tuple[FloatArray, float, int]
"""Distance in mm (negative inside), brightness (white matter is 1) and label of one tissue."""

CENTRE_MM: Triple = (0.0, -17.0, 6.0)

UPPER_LOBES: tuple[tuple[Triple, Triple], ...] = (
    ((24.0, -14.0, 22.0), (40.0, 62.0, 45.0)),
    ((21.0, 24.0, 14.0), (32.0, 40.0, 35.0)),
    ((20.0, -62.0, 13.0), (33.0, 39.0, 35.0)),
    ((36.0, -28.0, 24.0), (29.0, 42.0, 33.0)),
)
"""Centre and semi-axes: parietal, frontal, occipital, and the bulge above the ear."""
VENTRICLE_BODY: tuple[Knot, ...] = (
    (7.0, 28.0, 3.0, 2.5),
    (6.5, 15.0, 9.0, 4.5),
    (7.0, -5.0, 16.0, 4.5),
    (13.0, -26.0, 16.0, 4.5),
    (25.0, -41.0, 10.0, 6.0),
)
OCCIPITAL_HORN: tuple[Knot, ...] = ((25.0, -41.0, 11.0, 6.0), (24.0, -64.0, 6.0, 2.5))
TEMPORAL_HORN: tuple[Knot, ...] = ((25.0, -41.0, 11.0, 5.0), (35.0, -28.0, -8.0, 2.5), (31.0, -10.0, -19.0, 2.0))
HIPPOCAMPUS: tuple[Knot, ...] = ((24.0, -6.0, -19.0, 6.5), (27.0, -20.0, -16.0, 4.5), (25.0, -36.0, -4.0, 3.0))

FOLD_GRID_MM = 4.0
FOLD_GRID_SIZE = 48
FOLD_WAVE_MM = 26.0
"""Sulci are half of this apart."""
COMMON_FOLDS = 20
"""Seed of the folds that all people share."""
FLUID = 0.2


@dataclass(frozen=True)
class Voxels:
    """The voxels of one brain as flat arrays; distances in mm, negative inside."""

    inside: NDArray[np.bool_]
    """(i, j, k): where they lie in the volume."""
    side: FloatArray
    """Millimetres to the right, with sign."""
    points: Points
    roots: Points
    """The point of the pial surface that each belongs to: folds are the same along the way down."""
    depth: FloatArray
    """Millimetres below the pial surface, positive inside."""
    below_sylvian: FloatArray
    """From -1 in the temporal lobe to 1 in the others."""
    arch: FloatArray
    cerebellum: FloatArray
    stem: FloatArray


def _upper_lobes(p: Points) -> FloatArray:
    """Frontal, parietal and occipital lobes, flat below."""
    lobes = ellipsoid(p, *UPPER_LOBES[0])
    for centre, radii in UPPER_LOBES[1:]:
        lobes = union(lobes, ellipsoid(p, centre, radii), 12.0)
    return intersection(lobes, 0.1 * p[1] - p[2] - 17, 8.0)


def _temporal_lobe(p: Points) -> FloatArray:
    """Its pole points forward, down and inwards."""
    x, y, z = p
    tilted = (x + 0.16 * (y + 20), y, z + 0.25 * (y + 20))
    outer = ellipsoid(tilted, (45.0, -20.0, -17.0), (20.0, 45.0, 21.0))
    return union(outer, ellipsoid(tilted, (27.0, -22.0, -16.0), (13.0, 32.0, 12.0)), 8.0)


def _cerebellum(p: Points) -> FloatArray:
    x, y, z = p
    hemisphere = ellipsoid((x, y, z + 0.2 * x), (23.0, -60.0, -27.0), (28.0, 28.0, 23.0))
    return union(hemisphere, ellipsoid(p, (0.0, -61.0, -30.0), (13.0, 22.0, 23.0)), 8.0)


def _brain_stem(p: Points) -> FloatArray:
    midbrain = tube(p, ((4.0, -12.0, -4.0, 9.0), (5.0, -22.0, -16.0, 11.0)))
    pons = ellipsoid(p, (0.0, -26.0, -31.0), (17.0, 14.0, 14.0))
    medulla = tube(p, ((0.0, -32.0, -40.0, 10.0), (0.0, -40.0, -62.0, 6.5)))
    return np.asarray(np.maximum(union(union(midbrain, pons, 5.0), medulla, 5.0), -62 - p[2]))


def place_voxels(anatomical: Points, traits: Traits, step_mm: float) -> Voxels:
    """Place every voxel relative to the outer surfaces, and keep those of the brain with a thin rim of fluid."""
    side, y, z = anatomical
    p = (np.abs(side), y, z)
    upper, temporal, cerebellum, stem = _upper_lobes(p), _temporal_lobe(p), _cerebellum(p), _brain_stem(p)
    cistern = ellipsoid(p, (0.0, 2.0, -26.0), (17.0, 17.0, 16.0))
    below = 1.2 - union(cerebellum, cistern, 4.0)
    cerebrum = intersection(union(upper, temporal, 6.0), below, 4.0)
    arch = ellipsoid(p, (0.0, -7.0, 1.0), (1e3, 40.0, 27.0))  # what the corpus callosum spans, in every sagittal plane
    to_fissure = length(np.maximum(p[0] - 0.3 - traits.sulcus_mm, 0), np.maximum(-arch, 0))
    depth = union(-cerebrum, to_fissure, 3.0)
    inside = np.minimum(np.minimum(cerebrum, cerebellum), stem) < 1.2
    return Voxels(
        inside=inside,
        side=side[inside],
        points=(p[0][inside], y[inside], z[inside]),
        roots=_roots(anatomical, depth, inside, step_mm),
        depth=depth[inside],
        below_sylvian=np.clip((temporal[inside] - upper[inside]) / 8, -1, 1),
        arch=arch[inside],
        cerebellum=cerebellum[inside],
        stem=stem[inside],
    )


def _roots(p: Points, depth: FloatArray, inside: NDArray[np.bool_], step_mm: float) -> Points:
    """Climb against the gradient of depth, and waver a little so that no sulcus is a plane."""
    climb = 0.9 * np.clip(depth[inside], -2, 25)
    x, y, z = (axis[inside] - climb * slope[inside] for axis, slope in zip(p, np.gradient(depth, step_mm), strict=True))
    waver = [2 * np.sin(a[inside] / 5 + b[inside] / 7) for a, b in ((p[1], p[2]), (p[2], p[0]), (p[0], p[1]))]
    return x + waver[0], y + waver[1], z + waver[2]


def _fold_sheets(seed: int) -> FloatArray:
    """Signed distance in mm to winding sheets, on a periodic cube.

    Band-passed noise changes sign along a labyrinth, as sulci do. Most of it is common to all people and mirrored
    between the hemispheres, so that a model can learn where folds lie; the rest is the person's own.
    """
    shape = (FOLD_GRID_SIZE,) * 3
    common = np.random.default_rng(COMMON_FOLDS).standard_normal(shape, np.float32)
    own = np.random.default_rng(seed).standard_normal(shape, np.float32)
    white = 0.7 * (common + common[::-1]) + 0.25 * own
    full = fft.fftfreq(FOLD_GRID_SIZE, FOLD_GRID_MM / FOLD_WAVE_MM).astype(np.float32)
    half = np.abs(full[: FOLD_GRID_SIZE // 2 + 1])
    cycles = length(*np.meshgrid(full, full, half, indexing="ij", sparse=True))
    band = np.exp(-(((cycles - 1) / 0.2) ** 2))
    noise = fft.irfftn(fft.rfftn(white) * band, shape)
    slope = length(*np.gradient(noise, FOLD_GRID_MM))
    return np.asarray(noise / length(slope, 0.5 * float(slope.mean())))


def _to_fluid(v: Voxels, traits: Traits) -> FloatArray:
    """Millimetres from the nearest cerebrospinal fluid outside the ventricles, negative in it."""
    centre = (FOLD_GRID_SIZE - 1) / 2
    index = [(root - c) / FOLD_GRID_MM + centre for root, c in zip(v.roots, CENTRE_MM, strict=True)]
    sheet = ndimage.map_coordinates(_fold_sheets(traits.fold_seed), index, order=1, mode="grid-wrap")
    sulcus = length(sheet, np.maximum(v.depth - 15 - 6 * v.below_sylvian, 0))
    sulcus = np.maximum(sulcus, 4 - _core(v.points))
    width = traits.sulcus_mm * (0.6 + 1.6 * np.exp(-np.maximum(v.depth, 0) / 4))
    return np.asarray(np.minimum(np.minimum(v.depth, sulcus - width), _to_sylvian(v.points, traits.sulcus_mm)))


def _core(p: Points) -> FloatArray:
    """The middle of the hemispheres, which no sulcus enters."""
    return ellipsoid(p, (0.0, -9.0, 9.0), (30.0, 35.0, 18.0))


def _to_sylvian(p: Points, sulcus_mm: float) -> FloatArray:
    """The fissure above the temporal lobe, and at its bottom the cleft that covers the insula."""
    x, y, z = p
    above = z + 4 + 0.33 * (y - 5) - 2 * np.sin(y / 9) - 1.5 * np.sin((x - 35) / 7)
    beyond = np.maximum(np.maximum(y - 28, -36 - y), 0)
    fissure = length(above, np.maximum(37 - x, 0), beyond) - 0.4 - 1.2 * sulcus_mm
    bowl = x - 39 + 0.012 * (y - 2) ** 2 + 0.02 * (above - 2) ** 2
    cleft = length(bowl, np.maximum(np.abs(above - 2) - 10, 0), np.maximum(np.abs(y - 2) - 20, 0))
    return np.asarray(np.minimum(fissure, cleft - 0.2 - 0.8 * sulcus_mm))


def tissue_layers(v: Voxels, traits: Traits) -> list[Layer]:
    """All tissues in the order in which they are painted: a later one covers an earlier one."""
    to_fluid = _to_fluid(v, traits)
    cortex_mm = traits.cortex_mm * np.clip(_core(v.points) / 4 + 0.3, 0, 1)  # none between callosum and thalamus
    callosum = np.maximum(np.abs(v.arch + 3.5) - 3.5, np.maximum(v.points[0] - 25, -1 - v.points[2]))
    deep = _deep_grey(v.points, traits.ventricle)
    return [
        (-to_fluid, traits.grey, 2),
        (cortex_mm - to_fluid, 1.0, 3),
        (callosum, 1.0, 3),
        *deep,
        *_hindbrain(v),
        (_ventricles(v, traits.ventricle, deep), FLUID, 1),
    ]


def _deep_grey(p: Points, ventricle: float) -> list[Layer]:
    """Caudate and thalamus first: the ventricles spare them, and push them outwards as they grow."""
    x, y, z = p
    push = 3 * (ventricle - 1.1)
    head = ellipsoid(p, (14.0 + push, 14.0, 6.0), (5.5, 10.0, 9.0))
    tail = tube(p, ((15.0 + push, 8.0, 13.0, 4.0), (19.0 + push, -22.0, 18.0, 2.0)))
    thalamus = ellipsoid((x + 0.35 * (y + 18), y, z), (10.0 + push / 3, -18.0, 6.0), (8.0, 14.0, 8.5))
    putamen = ellipsoid((x + 0.25 * (y - 2), y, z), (26.0, 2.0, 1.0), (5.0, 16.0, 10.0))
    pallidum = ellipsoid((x + 0.3 * (y + 3), y, z), (19.0, -3.0, -1.0), (4.0, 9.0, 6.5))
    return [
        (union(head, tail, 3.0), 0.72, 4),
        (thalamus, 0.76, 4),
        (putamen, 0.72, 4),
        (tube(p, HIPPOCAMPUS), 0.72, 4),
        (pallidum, 0.86, 4),
    ]


def _ventricles(v: Voxels, widen: float, deep: list[Layer]) -> FloatArray:
    """Butterfly of frontal horns and bodies, the two horns behind, and the third and fourth ventricle."""
    x, y, z = v.points
    slanted = (0.85 * x + 1, y, z - 0.55 * (x - 4))
    spared = np.minimum(deep[0][0], deep[1][0])
    body = np.maximum(np.maximum(tube(slanted, VENTRICLE_BODY, widen), -spared), np.maximum(0.4 - x, v.arch + 6))
    third = ellipsoid(v.points, (0.0, -14.0, -1.0), (2 * widen, 15.0, 10.0))
    fourth = ellipsoid(v.points, (0.0, -43.0, -33.0), (7 * math.sqrt(widen), 5 * math.sqrt(widen), 9.0))
    horns = np.minimum(tube(v.points, OCCIPITAL_HORN, widen), tube(v.points, TEMPORAL_HORN, widen))
    return np.asarray(np.minimum(np.minimum(body, horns), np.minimum(third, fourth)))


def _hindbrain(v: Voxels) -> list[Layer]:
    """Cerebellum, its leaves fanned out behind the fourth ventricle, and the brain stem before it."""
    x, y, z = v.points
    fan = np.mod(3.7 * np.arctan2(z + 33, 0.3 * x - y - 42), 1)
    to_cleft: FloatArray = 3.2 * np.abs(2 * fan - 1)
    to_fluid: FloatArray = np.minimum(-v.cerebellum, length(to_cleft, np.maximum(-v.cerebellum - 10, 0)))
    return [(v.cerebellum, 0.45, 5), (0.1 - to_fluid, 0.72, 5), (2 - to_fluid, 0.9, 5), (v.stem, 0.95, 5)]
