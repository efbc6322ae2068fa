"""What is planted into healthy scans, each from a seed: holes to fill, lesions to find, faults to notice.

Real lesions and real artefacts with a known outline are rare, and never of the same scan without them. Here the
truth is known in every voxel, so that a task which finds nothing cannot look as if it did. All arrays are
(i, j, k), intensities 0 to 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.scans import Mask
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray

HOLE_SHARES = (0.02, 0.1)
"""Smallest and largest hole, as a share of the body."""
LESION_RADII = (1.5, 4.0)
"""Smallest and largest lesion, in voxels."""
ROUGHNESS = 0.35
"""How far a blob's border strays from a sphere's, as a share of its radius."""
BLURRED_BY, WARPED_BY = 1.5, 0.6
"""Of lesions without another brightness: width of the blur in voxels, displacement as a share of the radius."""
Floats = NDArray[np.floating[Any]]
Kind = Literal["brighter", "darker", "blurred", "warped"]


@dataclass(frozen=True)
class Lesion:
    """A planted lesion: the scan with it, and where it is."""

    image: FloatArray
    mask: Mask


def random_of(seed: int, *purpose: object) -> Generator:
    """A generator for one purpose of a seed."""
    return np.random.default_rng(derive_seed(seed, "planted", *purpose))


def random_hole(body: Mask, seed: int) -> Mask:
    """A smooth random blob of 2 to 10% of the body.

    Raises:
        ConfigurationError: the body has no voxel.
    """
    random = random_of(seed, "hole")
    count = max(1, round(float(random.uniform(*HOLE_SHARES)) * int(body.sum())))
    distance = np.where(body, _rough_distance(body, random, (3 * count / (4 * np.pi)) ** (1 / 3)), np.inf)
    threshold = np.partition(distance.ravel(), count - 1)[count - 1]
    return np.asarray((distance <= threshold) & body)


def plant_lesion(image: FloatArray, body: Mask, kind: Kind, contrast: float, seed: int) -> Lesion:
    """A lesion of random place, size and outline; `contrast` in standard deviations of the body's intensities.

    A blurred or warped one has no contrast: nothing but its texture or its shape gives it away.
    """
    random = random_of(seed, "lesion")
    radius = float(random.uniform(*LESION_RADII))
    distance = _rough_distance(ndimage.binary_erosion(body, iterations=2) | _core(body), random, radius)
    mask = np.asarray((distance < radius) & body)
    if kind in ("brighter", "darker"):
        step = contrast * float(image[body].std()) * (1 if kind == "brighter" else -1)
        changed = image + step * np.clip(1 - (distance - radius + 0.5), 0, 1) * body
    elif kind == "blurred":
        changed = np.where(mask, ndimage.gaussian_filter(image, BLURRED_BY), image)
    else:
        changed = np.where(mask, _bulged(image, mask, radius), image)
    return Lesion(np.clip(changed, 0, 1).astype(np.float32), mask)


def _core(body: Mask) -> Mask:
    """The innermost voxels, so that a small body has a place for a lesion too."""
    depth = ndimage.distance_transform_edt(body)
    return np.asarray(depth >= 0.5 * depth.max())


def _rough_distance(places: Mask, random: Generator, radius: float) -> FloatArray:
    """Distance in voxels from a random place, with smooth noise on it."""
    candidates = np.argwhere(places)
    if len(candidates) == 0:
        raise ConfigurationError("a scan must show a body to plant something in, this one has no voxel above 0")
    centre = candidates[int(random.integers(len(candidates)))]
    axes = np.meshgrid(*(np.arange(side) - middle for side, middle in zip(places.shape, centre, strict=True)),
                       indexing="ij", sparse=True)  # fmt: skip
    distance = np.sqrt(sum(axis.astype(np.float64) ** 2 for axis in axes))
    noise = ndimage.gaussian_filter(random.standard_normal(places.shape), max(1.0, radius / 2), mode="wrap")
    return np.asarray(distance + ROUGHNESS * radius * noise / max(float(noise.std()), 1e-9) / 2, dtype=np.float32)


def _bulged(image: FloatArray, mask: Mask, radius: float) -> FloatArray:
    """The image pushed away from the middle of a mask, by at most a share of the radius; its border stays."""
    centre = np.array(ndimage.center_of_mass(mask))
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij")).astype(np.float64)
    away = grid - centre[:, None, None, None]
    share = np.clip(np.sqrt((away**2).sum(0)) / (1.5 * radius), 0, 1)
    moved = grid - away * WARPED_BY * (1 - share) ** 2
    return np.asarray(ndimage.map_coordinates(image, moved, order=1, mode="nearest"), dtype=np.float32)


def rician(image: FloatArray, body: Mask, std: float, seed: int, masked: bool) -> FloatArray:
    """The magnitude of a complex signal with Gaussian noise; outside the body nothing, where scans are masked."""
    real, imaginary = random_of(seed, "rician").standard_normal((2, *image.shape)) * std
    noisy = np.clip(np.hypot(image + real, imaginary), 0, 1)
    return np.asarray(np.where(body, noisy, 0) if masked else noisy, dtype=np.float32)


def lines_measured(size: tuple[int, int, int], times: int, seed: int) -> Mask:
    """K-space of which one line in so many along j was measured, zero frequency first: a third of them around the
    centre, the others at random.
    """
    count = max(2, size[1] // times)
    nearest = np.argsort(np.abs(np.fft.fftfreq(size[1])), kind="stable")
    centre, others = nearest[: max(1, count // 3)], nearest[max(1, count // 3) :]
    chosen = random_of(seed, "lines", times).choice(others, count - len(centre), replace=False)
    line = np.zeros(size[1], bool)
    line[[*centre, *chosen]] = True
    return np.array(np.broadcast_to(line[None, :, None], size))


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a whole scan."""

    near: bool
    """Whether the scan still is one of the right part of the body, the right way round."""
    apply: Callable[[FloatArray, Mask, Generator], Floats]
    """(image, body, random) to the image with the fault."""

    def plant(self, image: FloatArray, body: Mask, seed: int) -> FloatArray:
        """The scan with the fault; intensities stay within 0 to 1."""
        changed = self.apply(image, body, random_of(seed, "fault"))
        return np.asarray(np.clip(changed, 0, 1), dtype=np.float32)


def _blur(image: FloatArray, body: Mask, random: Generator) -> Floats:
    return np.where(body, ndimage.gaussian_filter(image, float(random.uniform(1.0, 1.6))), 0)


def _noise(image: FloatArray, body: Mask, random: Generator) -> Floats:
    return image + np.where(body, random.standard_normal(image.shape) * float(random.uniform(0.08, 0.15)), 0)


def _ghosting(image: FloatArray, body: Mask, random: Generator) -> Floats:
    """A faint copy at half the field of view along j, as motion between two interleaves leaves it."""
    share = float(random.uniform(0.2, 0.35))
    return (1 - share / 2) * image + share * np.roll(image, image.shape[1] // 2, axis=1)


def _bias(image: FloatArray, body: Mask, random: Generator) -> Floats:
    ramp = np.linspace(-1, 1, image.shape[1])[None, :, None] * float(random.choice([-1, 1]))
    return image * np.exp(float(random.uniform(0.5, 0.8)) * ramp)


def _mirrored(image: FloatArray, body: Mask, random: Generator) -> Floats:
    return image[:, ::-1]


def _upside_down(image: FloatArray, body: Mask, random: Generator) -> Floats:
    return image[:, :, ::-1]


def _missing_slices(image: FloatArray, body: Mask, random: Generator) -> Floats:
    kept = image.copy()
    kept[:, :, random.choice(image.shape[2], max(2, image.shape[2] // 6), replace=False)] = 0
    return kept


def _crop(image: FloatArray, body: Mask, random: Generator) -> Floats:
    kept = image.copy()
    kept[:, :, round(image.shape[2] * float(random.uniform(0.5, 0.62))) :] = 0
    return kept


def _wrong_spacing(image: FloatArray, body: Mask, random: Generator) -> Floats:
    """As a header with half of the slice spacing shows it: everything is flat."""
    middle = (image.shape[2] - 1) / 2
    place = (np.arange(image.shape[2]) - middle) * float(random.uniform(1.5, 2.0)) + middle
    grid = np.meshgrid(*map(np.arange, image.shape[:2]), place, indexing="ij")
    return np.asarray(ndimage.map_coordinates(image, np.stack(grid), order=1, cval=0.0))


def _another_part(image: FloatArray, body: Mask, random: Generator) -> Floats:
    """Eighths of the scan in another order, each turned: tissue of the right brightness in no place of its own."""
    half = [side // 2 for side in image.shape]
    parts = [image[a : a + half[0], b : b + half[1], c : c + half[2]] for a in (0, half[0]) for b in (0, half[1])
             for c in (0, half[2])]  # fmt: skip
    order, made = random.permutation(8), np.zeros_like(image)
    for place, which in enumerate(order):
        a, b, c = (bit * side for bit, side in zip(((place >> 2) & 1, (place >> 1) & 1, place & 1), half, strict=True))
        made[a : a + half[0], b : b + half[1], c : c + half[2]] = parts[which][::-1, ::-1]
    return made


FAULTS: Mapping[str, Fault] = {
    "blur": Fault(True, _blur),
    "noise": Fault(True, _noise),
    "ghosting": Fault(True, _ghosting),
    "bias field": Fault(True, _bias),
    "missing slices": Fault(True, _missing_slices),
    "back to front": Fault(False, _mirrored),
    "upside down": Fault(False, _upside_down),
    "cropped": Fault(False, _crop),
    "wrong spacing": Fault(False, _wrong_spacing),
    "another body part": Fault(False, _another_part),
}
"""By the name that the table shows."""
