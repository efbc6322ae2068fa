"""Augmentation: each kind does what its number says, and the vector alone decides the volume."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from meddiff_core.models.augmentation import (
    CONTRAST,
    LARGEST_ANGLE,
    LARGEST_SCALE,
    ROTATION,
    SCALE,
    WARP,
    augment,
    random_augmentations,
)
from meddiff_core.models.conditions import AUGMENT_DIM


def vector(**amounts: object) -> Tensor:
    places = {"mirror": 0, "shift": slice(1, 4), "rotate": ROTATION, "scale": SCALE, "warp": WARP, "contrast": CONTRAST}
    found = torch.zeros(AUGMENT_DIM)
    for name, amount in amounts.items():
        found[places[name]] = torch.tensor(amount, dtype=torch.float32)
    return found


def ball(radius: float, centre: tuple[float, float, float] = (0, 0, 0), side: int = 33) -> Tensor:
    """An image channel in [-1, 1] and one of its label, of a ball about a point off the middle."""
    axes = torch.meshgrid(*[torch.arange(side) - side // 2 - offset for offset in centre], indexing="ij")
    inside = (torch.stack(axes).square().sum(0) <= radius**2).float()
    return torch.stack([inside * 2 - 1, inside])[None]


def middle(image: Tensor) -> Tensor:
    """Centre of mass of a channel in [-1, 1], in voxels from the middle."""
    weights = (image.double() + 1) / 2
    axes = torch.meshgrid(*[torch.arange(side) - side // 2 for side in image.shape], indexing="ij")
    return torch.stack([(axis * weights).sum() for axis in axes]) / weights.sum()


def test_augmentations_are_of_the_declared_kinds() -> None:
    assert random_augmentations(5, 4, (), 0) is None
    mirrored, shifted = (random_augmentations(50, 4, (kind,), 0) for kind in ("mirror", "shift"))
    assert mirrored is not None
    assert shifted is not None
    assert mirrored.shape == (200, AUGMENT_DIM)
    assert mirrored[:, 0].unique().tolist() == [0, 1]
    assert not mirrored[:, 1:].any()
    assert shifted[:, 1:4].unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert not shifted[:, 0].any()
    assert not shifted[:, 4:].any()


@pytest.mark.parametrize(("kind", "columns"), [("rotate", [4, 5, 6]), ("scale", [7]), ("warp", [8]), ("contrast", [9])])
def test_a_kind_is_applied_to_half_of_the_volumes_within_its_limits(kind: str, columns: list[int]) -> None:
    vectors = random_augmentations(500, 4, (kind,), 0)
    assert vectors is not None
    assert vectors.any(0).nonzero().flatten().tolist() == columns
    assert vectors.abs().max() <= 1
    assert vectors.any(1).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_no_augmentation_changes_nothing() -> None:
    images = torch.rand(1, 3, 6, 7, 8)
    assert torch.equal(augment(images, torch.zeros(AUGMENT_DIM)), images)


def test_a_mirrored_volume_is_mirrored_along_i_and_a_shifted_one_moves_to_higher_indices() -> None:
    images = torch.zeros(1, 1, 6, 6, 6)
    images[0, 0, 1, 2, 3] = 1
    assert augment(images, vector(shift=[0.5, 1.0, -1.0]))[0, 0].nonzero().tolist() == [[2, 4, 1]]
    assert augment(images, vector(mirror=1.0))[0, 0].nonzero().tolist() == [[4, 2, 3]]


def test_what_a_shift_uncovers_repeats_the_border() -> None:
    images = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    assert augment(images, vector(shift=[1.0, 0, 0])).flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_a_rotation_is_one_in_millimetres(spacing: tuple[float, float, float]) -> None:
    images = ball(4, (10, 0, 0))
    found = augment(images, vector(rotate=[0.0, 1.0, 0.0]), spacing)
    moved = middle(found[0, 0]) * torch.tensor(spacing)
    assert moved.norm().item() == pytest.approx(10, abs=0.3)
    assert abs(math.atan2(float(moved[2]), float(moved[0]))) == pytest.approx(LARGEST_ANGLE, abs=0.03)


def test_a_scaled_structure_has_the_scaled_volume() -> None:
    images = ball(10)
    volumes = [(found[0, 0].double() + 1).sum() for found in (images, augment(images, vector(scale=1.0)))]
    grown = volumes[1] / volumes[0]
    assert grown.log().item() == pytest.approx(3 * LARGEST_SCALE, abs=0.03)


def test_a_warp_follows_from_its_vector_and_keeps_image_and_labels_together() -> None:
    images, bent = ball(10), vector(warp=1.0)
    one, other = augment(images, bent), augment(images, vector(warp=1.0, scale=1e-6))
    assert torch.equal(one, augment(images, bent))
    assert not torch.equal(one[:, 1], images[:, 1])
    assert not torch.allclose(one, other)
    assert ((one[:, 0] > 0) == (one[:, 1] > 0.5)).float().mean() > 0.99


def test_a_warp_does_not_fold() -> None:
    """Positions along each axis, given as the intensities of a ramp, keep their order."""
    side = 40
    ramp = torch.linspace(-1, 1, side)
    for seed in range(20):
        bent = vector(warp=1.0, shift=[0, 0, 0]) + torch.tensor([0.0] * 7 + [seed * 1e-6] + [0.0] * 2)
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = side
            image = ramp.reshape(1, 1, *shape).expand(1, 1, side, side, side)
            inner = augment(image, bent)[0, 0][(slice(6, -6),) * 3]
            assert (inner.diff(dim=axis) > 0).all()


def test_contrast_keeps_black_and_white_and_order() -> None:
    images = torch.linspace(-1, 1, 27).reshape(1, 1, 3, 3, 3)
    found = augment(images, vector(contrast=1.0)).flatten()
    assert found[[0, -1]].tolist() == [-1, 1]
    assert (found.diff() > 0).all()
    assert (found[1:-1] < images.flatten()[1:-1]).all()


@given(st.integers(0, 10_000))
def test_labels_stay_one_hot(row: int) -> None:
    vectors = random_augmentations(4, 4, ("mirror", "shift", "rotate", "scale", "warp", "contrast"), row)
    assert vectors is not None
    labels = torch.nn.functional.one_hot(torch.arange(120).reshape(4, 5, 6) % 3, 3).movedim(-1, 0).float()
    images = torch.cat([torch.rand(1, 4, 5, 6) * 2 - 1, labels])[None]
    found = augment(images, vectors[row % 16], (1.0, 1.5, 3.0))
    assert found[:, 1:].unique().tolist() == [0, 1]
    assert (found[:, 1:].sum(1) == 1).all()
    assert found[:, 0].abs().max() <= 1
