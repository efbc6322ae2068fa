"""Augmentation of training volumes in voxel space, and the vector that tells the denoiser what was done.

A denoiser that sees a few hundred volumes again and again memorises them; one that seldom sees the same volume twice
cannot. Volumes are augmented before they are encoded, since a rotated latent is not the latent of a rotated volume,
and the vector is a condition of the network, so that no sample comes out augmented (Karras et al. 2022, appendix F.2).
"""

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from meddiff_core.contract import Spacing
from meddiff_core.models.randomness import derive_seed, generator_for
from meddiff_core.study import Augmentation
from meddiff_core.types import Images

AugmentVectors = Float[Tensor, "rows 10"]
"""Mirrored left to right (0 or 1); then, each as a share of its furthest and 0 for none: shift along i, j, k, rotation
about i, j, k, scaling, warp, contrast."""
SHIFT, ROTATION, SCALE, WARP, CONTRAST = slice(1, 4), slice(4, 7), 7, 8, 9
FURTHEST = 2
"""Largest shift in voxels of the finest axis; along coarser axes the same length in mm."""
LARGEST_ANGLE = 0.14
"""Largest rotation about an axis in radians: 8 degrees."""
LARGEST_SCALE = 0.08
"""Largest logarithm of the scaling of lengths."""
STRONGEST_WARP = 0.03
"""Largest standard deviation of the displacement of a control point, as a share of the volume's extent."""
STRONGEST_CONTRAST = 0.25
"""Largest logarithm of the exponent that is applied to intensities in [0, 1]."""
CONTROL_POINTS = 5
"""Of the warp along each axis: so few that the displacement does not fold."""
APPLIED = 0.5
"""Probability that a kind is applied to a volume."""


def random_augmentations(
    count: int, variants: int, kinds: Collection[Augmentation], seed: int
) -> AugmentVectors | None:
    """Augmentations of `variants` variants of `count` volumes, from the kinds of the plan; None without any."""
    if not kinds:
        return None
    rows, generator = variants * count, generator_for(seed, "moves")
    mirrored = torch.randint(2, (rows, 1), generator=generator)
    shifts = torch.randint(-FURTHEST, FURTHEST + 1, (rows, 3), generator=generator) / FURTHEST
    found = [mirrored * ("mirror" in kinds), shifts * ("shift" in kinds)]
    for kind, width in (("rotate", 3), ("scale", 1), ("warp", 1), ("contrast", 1)):
        amounts = 2 * torch.rand(rows, width, generator=generator) - 1
        applied = torch.rand(rows, 1, generator=generator) < APPLIED
        found.append(amounts * applied * (kind in kinds))
    vectors = torch.cat(found, dim=1)
    vectors[:, WARP].abs_()
    return vectors


def augment(images: Images, vector: Float[Tensor, "10"], spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> Images:
    """Augmented images, label channels by nearest neighbour; what moves in from outside repeats the border."""
    if vector[0]:
        images = images.flip(2)
    if vector[CONTRAST]:
        images = _with_contrast(images, float(vector[CONTRAST]))
    if vector[ROTATION].any() or vector[SCALE] or vector[WARP]:
        images = _resampled(images, vector, spacing_mm)
    return _shifted(images, vector[SHIFT].tolist(), spacing_mm)


def _with_contrast(images: Images, amount: float) -> Images:
    exponent = torch.tensor(STRONGEST_CONTRAST * amount).exp()
    image = ((images[:, :1] + 1) / 2).clamp(0, 1) ** exponent
    return torch.cat([image * 2 - 1, images[:, 1:]], dim=1)


def _shifted(images: Images, shares: list[float], spacing_mm: Spacing) -> Images:
    finest = min(spacing_mm)
    for axis, (share, spacing) in enumerate(zip(shares, spacing_mm, strict=True), start=2):
        places = torch.arange(images.shape[axis]) - round(share * FURTHEST * finest / spacing)
        images = images.index_select(axis, places.clamp(0, images.shape[axis] - 1))
    return images


def _resampled(images: Images, vector: Float[Tensor, "10"], spacing_mm: Spacing) -> Images:
    """Rotated about the centre, scaled and warped, in one interpolation."""
    sides = images.shape[2:]
    spacing = torch.tensor(spacing_mm)
    half_mm = (torch.tensor(sides) - 1).clamp_min(1) / 2 * spacing
    axes = [torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1) for side in sides]
    target = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) * half_mm
    source = target @ _rotation(vector[ROTATION] * LARGEST_ANGLE) / (LARGEST_SCALE * vector[SCALE]).exp()
    if vector[WARP]:
        source = source + _displacement(vector, sides) * half_mm
    grid = (
        (source / half_mm).flip(-1)[None].expand(len(images), -1, -1, -1, -1)
    )  # grid_sample counts from the last axis
    image, labels = images[:, :1], images[:, 1:]
    parts = [functional.grid_sample(image, grid, "bilinear", "border", align_corners=True)]
    if labels.shape[1]:
        parts.append(functional.grid_sample(labels, grid, "nearest", "border", align_corners=True))
    return torch.cat(parts, dim=1)


def _rotation(angles: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """Rotation about i, j and k in turn: the exponential of a skew-symmetric matrix would mix them."""
    turned = torch.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (other for other in range(3) if other != axis)
        about = torch.eye(3)
        about[first, first] = about[second, second] = angle.cos()
        about[first, second], about[second, first] = -angle.sin(), angle.sin()
        turned = turned @ about
    return turned


def _displacement(vector: Float[Tensor, "10"], sides: tuple[int, ...]) -> Float[Tensor, "i j k 3"]:
    """A smooth random displacement in half extents, which follows from the vector itself, so that no other seed has to
    be kept.
    """
    generator = generator_for("warp", derive_seed(*vector.tolist()))
    points = torch.randn(1, 3, *(CONTROL_POINTS,) * 3, generator=generator)
    field = functional.interpolate(points, tuple(sides), mode="trilinear", align_corners=True)
    return field[0].movedim(0, -1) * (2 * STRONGEST_WARP * vector[WARP])
