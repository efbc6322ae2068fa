"""Synthetic brains: T1-weighted volumes with label maps, ages and sexes that belong to nobody.

They let a study run from end to end where no patient data may be, and give tests an anatomy whose laws are
known: ventricles grow and the cortex thins with age. Everything is drawn from formulas in millimetres, without
a template, so no real voxel can leak from them.
"""

import gzip
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from meddiff_core.artefacts import write_bytes, write_text
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import FloatArray, LabelArray, Progress

LABEL_GROUPS = {"ventricles": [1], "cortex": [2], "white_matter": [3], "deep_grey": [4], "cerebellum_brainstem": [5]}
"""Structures of the label maps, as a study's `label_groups`. Fluid in sulci is 0, as in most parcellations."""

Triple = tuple[float, float, float]
Knot = tuple[float, float, float, float]
"""Point of a tube's axis in mm, and the radius there."""
Points = tuple[FloatArray, FloatArray, FloatArray]
"""Millimetres right, anterior and superior of the anterior commissure. Shapes below are of the right half:
they see the absolute of the first."""
Layer = tuple[FloatArray, float, int]
"""Distance in mm (negative inside), brightness (white matter is 1) and label of one tissue."""

FIELD_OF_VIEW_MM: Triple = (160.0, 192.0, 160.0)
CENTRE_MM: Triple = (0.0, -17.0, 6.0)
FINEST_MM = 1.0

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
class Phantom:
    """One synthetic brain."""

    image: FloatArray
    """(i, j, k), RAS+, scanner-like units; 0 outside the brain."""
    label: LabelArray
    """(i, j, k): 0 or a value of `LABEL_GROUPS`."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index to mm."""


@dataclass(frozen=True)
class _Traits:
    """What makes one person's brain and scan differ from another's."""

    matrix: NDArray[np.float64]
    """(3, 3), scanner mm to anatomical mm: size, proportions and pose."""
    waves: NDArray[np.float64]
    """(3, 3, 7): per axis three smooth displacements, each an amplitude, three lengths and three phases."""
    ventricle: float
    """Factor on the radius of the ventricles."""
    cortex_mm: float
    sulcus_mm: float
    """Half of a sulcus's width at depth."""
    fold_seed: int
    bias: NDArray[np.float64]
    """(3, 2): per axis an amplitude and a phase of the coil's sensitivity."""
    gain: float
    noise: float
    """Deviation, as a share of white matter."""
    grey: float
    """Brightness of the cortex."""


@dataclass(frozen=True)
class _Voxels:
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


def make_phantom(seed: int, age: float, sex: str, spacing_mm: float = 4.0) -> Phantom:
    """The brain of person `seed` at an age in years, drawn at 2 to 3 mm and averaged to `spacing_mm`.

    The same seed is the same person: only what age or sex change differs. The field of view is 160 x 192 x 160 mm
    or a little more, each size a multiple of 4 voxels.

    Raises:
        ConfigurationError: age, sex (M or F) or spacing cannot be drawn.
    """
    _check(age, sex, spacing_mm)
    rng = np.random.default_rng(seed)
    traits = _traits(rng, age, sex)
    factor = max(1, round(spacing_mm / 2.5))
    step_mm = spacing_mm / factor
    voxels = _voxels(_anatomical(_axes(spacing_mm, factor), traits), traits, step_mm)
    signal, labels = _paint(_layers(voxels, traits), step_mm)
    image, label = _average(signal * _sensitivity(voxels, traits), labels, voxels.inside, factor)
    noise = rng.standard_normal(image.shape, np.float32) * traits.noise
    brain = np.maximum((image + noise) * traits.gain, 1)  # 0 is kept for what is outside
    return Phantom(np.where(image > 0, brain, 0), label, _affine(spacing_mm))


def write_phantoms(
    folder: Path, subjects: int, seed: int = 0, spacing_mm: float = 4.0
) -> Generator[Progress, None, None]:
    """Write `images/`, `labels/`, `participants.tsv` and `groups.yaml` as a site would hand them over, gaps included.

    The fourth subject has no row, and from the third on every twentieth has no age. A subject is the same however
    many others there are.
    """
    if subjects < 1:
        raise ConfigurationError(f"subjects must be >= 1, is {subjects}")
    rows = ["participant_id\tage\tsex"]
    for index in range(subjects):
        name = f"phantom-{index + 1:04d}"
        person, age, sex = _person(seed, index)
        phantom = make_phantom(person, age, sex, spacing_mm)
        write_bytes(folder / "images" / f"{name}.nii.gz", _nifti(np.rint(phantom.image).astype(np.int16), phantom))
        write_bytes(folder / "labels" / f"{name}.nii.gz", _nifti(phantom.label, phantom))
        if index != 3:
            rows.append(f"{name}\t{'n/a' if index % 20 == 2 else age}\t{sex}")
        yield Progress("phantoms", index + 1, subjects)
    write_text(folder / "participants.tsv", "\n".join(rows) + "\n")
    write_text(folder / "groups.yaml", "".join(f"{group}: {values}\n" for group, values in LABEL_GROUPS.items()))


def _person(seed: int, index: int) -> tuple[int, float, str]:
    rng = np.random.default_rng([seed, index])
    return int(rng.integers(2**53)), round(float(rng.uniform(20, 85)), 1), str(rng.choice(["F", "M"]))


def _nifti(array: NDArray[np.int16] | LabelArray, phantom: Phantom) -> bytes:
    image = nibabel.Nifti1Image(array, phantom.affine)
    image.set_qform(phantom.affine, code=1)
    image.set_sform(phantom.affine, code=1)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _check(age: float, sex: str, spacing_mm: float) -> None:
    if not 0 < age < 120:
        raise ConfigurationError(f"age must be between 0 and 120 years, is {age}")
    if sex not in ("M", "F"):
        raise ConfigurationError(f"sex must be M or F, is {sex!r}")
    if not FINEST_MM <= spacing_mm <= 12:
        raise ConfigurationError(f"spacing must be {FINEST_MM} to 12 mm, is {spacing_mm}")


# --- the person


def _traits(rng: np.random.Generator, age: float, sex: str) -> _Traits:
    """Every draw is made whatever age and sex are, so that they change nothing but what they should."""
    years = (min(max(age, 18.0), 90.0) - 50) / 30
    size, ventricle, cortex, sulcus, gain, noise, grey = (float(u) for u in np.clip(rng.standard_normal(7), -2, 2))
    volume = 1.04 if sex == "M" else 0.96
    proportions = 1 + 0.015 * np.clip(rng.standard_normal(3), -2, 2)
    scale = 0.97 * volume ** (1 / 3) * (1 + 0.02 * size) * proportions
    pitch, roll, yaw = np.deg2rad([2.2, 0.9, 0.9]) * np.clip(rng.standard_normal(3), -2, 2)
    return _Traits(
        matrix=_rotation(pitch, roll, yaw) / scale[:, None],
        waves=rng.uniform(-1, 1, (3, 3, 7)),
        ventricle=1.35 * math.exp(0.37 * years + 0.15 * ventricle),
        cortex_mm=2.5 - 0.23 * years + 0.1 * cortex,
        sulcus_mm=max(0.15, 0.55 + 0.4 * years + 0.12 * sulcus),
        fold_seed=int(rng.integers(2**53)),
        bias=rng.uniform(-1, 1, (3, 2)),
        gain=600 * math.exp(0.15 * gain),
        noise=0.012 * (1 + 0.25 * noise),
        grey=0.66 * (1 - 0.04 * years + 0.03 * grey),
    )


def _rotation(pitch: float, roll: float, yaw: float) -> NDArray[np.float64]:
    (cp, cr, cy), (sp, sr, sy) = np.cos([pitch, roll, yaw]), np.sin([pitch, roll, yaw])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)


# --- the grid


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


def _anatomical(axes: Points, traits: _Traits) -> Points:
    """Where each voxel lies in the common anatomy: pose, size and smooth displacements of this person undone."""
    x, y, z = (
        _along(axes, [float(weight) for weight in row]) + centre + _displacement(axes, waves)
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


def _along(p: Points, direction: Sequence[float]) -> FloatArray:
    return np.asarray(p[0] * direction[0] + p[1] * direction[1] + p[2] * direction[2])


# --- shapes: distances in mm, negative inside, exact to first order near the surface


def _length(x: FloatArray, y: FloatArray | float, z: FloatArray | float = 0.0) -> FloatArray:
    square = x * x + y * y + z * z
    return np.asarray(np.sqrt(square, out=square))


def _ellipsoid(p: Points, centre: Triple, radii: Triple) -> FloatArray:
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


def _tube(p: Points, knots: Sequence[Knot], widen: float = 1.0) -> FloatArray:
    """A chain of round cones, their radii times `widen`."""
    distances = [_cone(p, start, end, widen) for start, end in pairwise(knots)]
    return np.asarray(np.minimum.reduce(distances))


def _cone(p: Points, start: Knot, end: Knot, widen: float) -> FloatArray:
    axis = [b - a for a, b in zip(start[:3], end[:3], strict=True)]
    x, y, z = (coordinate - s for coordinate, s in zip(p, start[:3], strict=True))
    along = np.clip(_along((x, y, z), axis) / sum(a * a for a in axis), 0, 1)
    radius = widen * (start[3] + along * (end[3] - start[3]))
    return np.asarray(_length(x - along * axis[0], y - along * axis[1], z - along * axis[2]) - radius)


def _union(a: FloatArray, b: FloatArray, seam_mm: float) -> FloatArray:
    """Shapes that grow together along a rounded seam."""
    overlap = a - b
    np.abs(overlap, out=overlap)
    np.subtract(seam_mm, overlap, out=overlap)
    np.maximum(overlap, 0, out=overlap)
    overlap *= overlap
    overlap *= 1 / (4 * seam_mm)
    return np.asarray(np.minimum(a, b) - overlap)


def _intersection(a: FloatArray, b: FloatArray, seam_mm: float) -> FloatArray:
    return -_union(-a, -b, seam_mm)


# --- the anatomy


def _upper_lobes(p: Points) -> FloatArray:
    """Frontal, parietal and occipital lobes, flat below."""
    lobes = _ellipsoid(p, *UPPER_LOBES[0])
    for centre, radii in UPPER_LOBES[1:]:
        lobes = _union(lobes, _ellipsoid(p, centre, radii), 12.0)
    return _intersection(lobes, 0.1 * p[1] - p[2] - 17, 8.0)


def _temporal_lobe(p: Points) -> FloatArray:
    """Its pole points forward, down and inwards."""
    x, y, z = p
    tilted = (x + 0.16 * (y + 20), y, z + 0.25 * (y + 20))
    outer = _ellipsoid(tilted, (45.0, -20.0, -17.0), (20.0, 45.0, 21.0))
    return _union(outer, _ellipsoid(tilted, (27.0, -22.0, -16.0), (13.0, 32.0, 12.0)), 8.0)


def _cerebellum(p: Points) -> FloatArray:
    x, y, z = p
    hemisphere = _ellipsoid((x, y, z + 0.2 * x), (23.0, -60.0, -27.0), (28.0, 28.0, 23.0))
    return _union(hemisphere, _ellipsoid(p, (0.0, -61.0, -30.0), (13.0, 22.0, 23.0)), 8.0)


def _brain_stem(p: Points) -> FloatArray:
    midbrain = _tube(p, ((4.0, -12.0, -4.0, 9.0), (5.0, -22.0, -16.0, 11.0)))
    pons = _ellipsoid(p, (0.0, -26.0, -31.0), (17.0, 14.0, 14.0))
    medulla = _tube(p, ((0.0, -32.0, -40.0, 10.0), (0.0, -40.0, -62.0, 6.5)))
    return np.asarray(np.maximum(_union(_union(midbrain, pons, 5.0), medulla, 5.0), -62 - p[2]))


def _voxels(anatomical: Points, traits: _Traits, step_mm: float) -> _Voxels:
    """Place every voxel relative to the outer surfaces, and keep those of the brain with a thin rim of fluid."""
    side, y, z = anatomical
    p = (np.abs(side), y, z)
    upper, temporal, cerebellum, stem = _upper_lobes(p), _temporal_lobe(p), _cerebellum(p), _brain_stem(p)
    cistern = _ellipsoid(p, (0.0, 2.0, -26.0), (17.0, 17.0, 16.0))
    below = 1.2 - _union(cerebellum, cistern, 4.0)
    cerebrum = _intersection(_union(upper, temporal, 6.0), below, 4.0)
    arch = _ellipsoid(p, (0.0, -7.0, 1.0), (1e3, 40.0, 27.0))  # what the corpus callosum spans, in every sagittal plane
    to_fissure = _length(np.maximum(p[0] - 0.3 - traits.sulcus_mm, 0), np.maximum(-arch, 0))
    depth = _union(-cerebrum, to_fissure, 3.0)
    inside = np.minimum(np.minimum(cerebrum, cerebellum), stem) < 1.2
    return _Voxels(
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
    cycles = _length(*np.meshgrid(full, full, half, indexing="ij", sparse=True))
    band = np.exp(-(((cycles - 1) / 0.2) ** 2))
    noise = fft.irfftn(fft.rfftn(white) * band, shape)
    slope = _length(*np.gradient(noise, FOLD_GRID_MM))
    return np.asarray(noise / _length(slope, 0.5 * float(slope.mean())))


def _to_fluid(v: _Voxels, traits: _Traits) -> FloatArray:
    """Millimetres from the nearest cerebrospinal fluid outside the ventricles, negative in it."""
    centre = (FOLD_GRID_SIZE - 1) / 2
    index = [(root - c) / FOLD_GRID_MM + centre for root, c in zip(v.roots, CENTRE_MM, strict=True)]
    sheet = ndimage.map_coordinates(_fold_sheets(traits.fold_seed), index, order=1, mode="grid-wrap")
    sulcus = _length(sheet, np.maximum(v.depth - 15 - 6 * v.below_sylvian, 0))
    sulcus = np.maximum(sulcus, 4 - _core(v.points))
    width = traits.sulcus_mm * (0.6 + 1.6 * np.exp(-np.maximum(v.depth, 0) / 4))
    return np.asarray(np.minimum(np.minimum(v.depth, sulcus - width), _to_sylvian(v.points, traits.sulcus_mm)))


def _core(p: Points) -> FloatArray:
    """The middle of the hemispheres, which no sulcus enters."""
    return _ellipsoid(p, (0.0, -9.0, 9.0), (30.0, 35.0, 18.0))


def _to_sylvian(p: Points, sulcus_mm: float) -> FloatArray:
    """The fissure above the temporal lobe, and at its bottom the cleft that covers the insula."""
    x, y, z = p
    above = z + 4 + 0.33 * (y - 5) - 2 * np.sin(y / 9) - 1.5 * np.sin((x - 35) / 7)
    beyond = np.maximum(np.maximum(y - 28, -36 - y), 0)
    fissure = _length(above, np.maximum(37 - x, 0), beyond) - 0.4 - 1.2 * sulcus_mm
    bowl = x - 39 + 0.012 * (y - 2) ** 2 + 0.02 * (above - 2) ** 2
    cleft = _length(bowl, np.maximum(np.abs(above - 2) - 10, 0), np.maximum(np.abs(y - 2) - 20, 0))
    return np.asarray(np.minimum(fissure, cleft - 0.2 - 0.8 * sulcus_mm))


def _layers(v: _Voxels, traits: _Traits) -> list[Layer]:
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
    head = _ellipsoid(p, (14.0 + push, 14.0, 6.0), (5.5, 10.0, 9.0))
    tail = _tube(p, ((15.0 + push, 8.0, 13.0, 4.0), (19.0 + push, -22.0, 18.0, 2.0)))
    thalamus = _ellipsoid((x + 0.35 * (y + 18), y, z), (10.0 + push / 3, -18.0, 6.0), (8.0, 14.0, 8.5))
    putamen = _ellipsoid((x + 0.25 * (y - 2), y, z), (26.0, 2.0, 1.0), (5.0, 16.0, 10.0))
    pallidum = _ellipsoid((x + 0.3 * (y + 3), y, z), (19.0, -3.0, -1.0), (4.0, 9.0, 6.5))
    return [
        (_union(head, tail, 3.0), 0.72, 4),
        (thalamus, 0.76, 4),
        (putamen, 0.72, 4),
        (_tube(p, HIPPOCAMPUS), 0.72, 4),
        (pallidum, 0.86, 4),
    ]


def _ventricles(v: _Voxels, widen: float, deep: list[Layer]) -> FloatArray:
    """Butterfly of frontal horns and bodies, the two horns behind, and the third and fourth ventricle."""
    x, y, z = v.points
    slanted = (0.85 * x + 1, y, z - 0.55 * (x - 4))
    spared = np.minimum(deep[0][0], deep[1][0])
    body = np.maximum(np.maximum(_tube(slanted, VENTRICLE_BODY, widen), -spared), np.maximum(0.4 - x, v.arch + 6))
    third = _ellipsoid(v.points, (0.0, -14.0, -1.0), (2 * widen, 15.0, 10.0))
    fourth = _ellipsoid(v.points, (0.0, -43.0, -33.0), (7 * math.sqrt(widen), 5 * math.sqrt(widen), 9.0))
    horns = np.minimum(_tube(v.points, OCCIPITAL_HORN, widen), _tube(v.points, TEMPORAL_HORN, widen))
    return np.asarray(np.minimum(np.minimum(body, horns), np.minimum(third, fourth)))


def _hindbrain(v: _Voxels) -> list[Layer]:
    """Cerebellum, its leaves fanned out behind the fourth ventricle, and the brain stem before it."""
    x, y, z = v.points
    fan = np.mod(3.7 * np.arctan2(z + 33, 0.3 * x - y - 42), 1)
    to_cleft: FloatArray = 3.2 * np.abs(2 * fan - 1)
    to_fluid: FloatArray = np.minimum(-v.cerebellum, _length(to_cleft, np.maximum(-v.cerebellum - 10, 0)))
    return [(v.cerebellum, 0.45, 5), (0.1 - to_fluid, 0.72, 5), (2 - to_fluid, 0.9, 5), (v.stem, 0.95, 5)]


# --- the scan


def _paint(layers: list[Layer], step_mm: float) -> tuple[FloatArray, LabelArray]:
    """Brightness with partial volume at every border, and the label of the topmost tissue."""
    signal = np.full(layers[0][0].shape, FLUID, np.float32)
    label = np.zeros(signal.shape, np.uint8)
    for distance, brightness, value in layers:
        signal += np.clip(0.5 - distance / step_mm, 0, 1) * (brightness - signal)
        label[distance < 0] = value
    return signal, label


def _sensitivity(v: _Voxels, traits: _Traits) -> FloatArray:
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
