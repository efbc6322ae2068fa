"""Shapes with known answers."""

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.evidence.quality.shapes import noise_level, shape
from meddiff_core.evidence.surfaces import surface_areas

CUBES = (1.0, 1.0, 1.0)


def ball(radius, side=24, centre=(11.3, 11.8, 12.1)):
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"))
    offset = grid - np.reshape(centre, (3, 1, 1, 1))
    return (np.sqrt((offset**2).sum(0)) < radius).astype(np.uint8)


@pytest.mark.parametrize("radius", [4, 6, 9])
def test_surface_of_a_ball_is_that_of_the_formula(radius):
    area = surface_areas(ball(radius), 1, (2.0, 2.0, 2.0))[0]
    assert area == pytest.approx(4 * np.pi * (2 * radius) ** 2, rel=0.04)


def test_surface_of_a_box_is_near_that_of_its_faces():
    box = np.zeros((20, 20, 20), np.uint8)
    box[4:14, 5:13, 3:17] = 1
    assert surface_areas(box, 1, CUBES)[0] == pytest.approx(2 * (10 * 8 + 10 * 14 + 8 * 14), rel=0.15)


def test_a_structure_at_the_edge_of_the_grid_is_closed_there():
    full = np.ones((12, 12, 12), np.uint8)
    assert surface_areas(full, 1, CUBES)[0] == pytest.approx(surface_areas(np.pad(full, 3), 1, CUBES)[0])


def test_surfaces_of_touching_structures_are_those_of_each_alone():
    label = ball(9)
    label[ball(4) == 1] = 2
    apart = [surface_areas((label == value).astype(np.uint8), 1, CUBES)[0] for value in (1, 2)]
    np.testing.assert_allclose(surface_areas(label, 2, CUBES), apart)


def test_a_frayed_structure_has_more_surface_for_its_volume(contract):
    smooth = 2 * ball(8)
    rng = np.random.default_rng(0)
    frayed = (smooth * (rng.random(smooth.shape) > 0.2)).astype(np.uint8)
    figures = [shape(np.zeros_like(label), label, contract) for label in (smooth, frayed)]
    ratio = figures[0]["surface_to_volume:core"]
    assert ratio == pytest.approx(3 / (8 * contract.spacing_mm[0]), rel=0.05)
    assert figures[1]["surface_to_volume:core"] > 2 * ratio


def test_centroids_are_from_the_middle_of_all_structures_in_mm(contract):
    label = np.zeros((24, 24, 24), np.uint8)
    label[4, 10, 10], label[8, 10, 10] = 1, 2
    figures = shape(np.zeros_like(label), label, contract)
    assert [figures[f"centroid_mm:{group}:{axis}"] for group in ("shell", "core") for axis in "ijk"] == [
        -2 * contract.spacing_mm[0], 0, 0, 2 * contract.spacing_mm[0], 0, 0,
    ]  # fmt: skip


def test_a_mirror_symmetric_volume_has_symmetry_one_wherever_it_lies(contract):
    label = np.zeros((24, 24, 24), np.uint8)
    label[3:13, 5:20, 5:20] = 1
    label[6:10, 8:12, 8:12] = 2
    for moved in (label, np.roll(label, 5, 0), np.roll(label, 1, 1)):
        figures = shape(100 * moved, moved, contract)
        assert (figures["symmetry"], figures["asymmetry"]) == (1, 0)


def test_a_lopsided_volume_is_less_symmetric_by_hand(contract):
    label = np.zeros((24, 24, 24), np.uint8)
    label[4:20, 4:20, 4:20] = 1
    label[4:8, 4:20, 4:20] = 2  # one quarter, on one side only
    image = np.where(label == 2, 200, np.where(label == 1, 100, 0)).astype(np.uint8)
    figures = shape(image, label, contract)
    assert figures["symmetry"] == pytest.approx((8 / 12 + 0) / 2)
    assert figures["asymmetry"] == pytest.approx((4 + 4) * 100 / (4 * 300 + 4 * 300 + 8 * 200))


def test_noise_level_is_that_of_the_noise_and_blur_lowers_it():
    rng = np.random.default_rng(0)
    noisy = (0.5 + 0.05 * rng.standard_normal((24, 24, 24))).astype(np.float32)
    assert noise_level(noisy) == pytest.approx(0.05, rel=0.05)
    assert noise_level(ndimage.gaussian_filter(noisy, 1)) < 0.01


def test_edges_and_shading_are_no_noise():
    slope = np.broadcast_to(np.linspace(0.1, 0.9, 24, dtype=np.float32)[:, None, None] ** 2, (24, 24, 24))
    step = np.where(np.arange(24)[:, None] < 12, np.float32(0.3), np.float32(0.8))[..., None] * np.ones(24, np.float32)
    assert noise_level(np.ascontiguousarray(slope)) < 1e-6
    assert noise_level(step) < 1e-6


def test_an_empty_volume_has_finite_figures(contract):
    empty = np.zeros((24, 24, 24), np.uint8)
    assert all(np.isfinite(value) for value in shape(empty, empty, contract).values())
    assert set(shape(empty, None, contract)) == {"noise", "asymmetry"}
