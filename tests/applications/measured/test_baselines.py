"""Baselines are at their best: each is held to a closed form, so that no task wins against a broken one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.measured.figures import psnr, ssim
from meddiff_core.applications.measured.linear import fit_linear
from meddiff_core.applications.measured.restoring import (
    coarsened,
    harmonic_fill,
    interpolated,
    non_local_means,
    total_variation,
    without_rician_bias,
    zero_filled,
)
from meddiff_core.contract import CategoricalCondition, Condition, ContinuousCondition

SPECS = (
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=10),
    CategoricalCondition(name="sex", categories=("F", "M")),
)


@pytest.fixture(scope="module")
def blocks() -> NDArray[np.float32]:
    """Flat regions with sharp borders."""
    image = np.full((16, 20, 12), 0.2, np.float32)
    image[3:13, 4:16, 2:10] = 0.6
    image[6:10, 8:12, 4:8] = 0.9
    return image


def test_lines_find_what_made_the_arrays_and_leave_the_noise() -> None:
    random = np.random.default_rng(0)
    conditions: list[Condition] = [
        {"age": float(random.uniform(20, 80)), "sex": str(random.choice(["F", "M"]))} for _ in range(400)
    ]
    truth = [0.5 + 0.02 * (float(one["age"] or 0) - 50) / 10 + 0.1 * (one["sex"] == "M") for one in conditions]
    arrays = [np.full((2, 3), value) + random.normal(0, 0.05, (2, 3)) for value in truth]
    model = fit_linear([array.astype(np.float32) for array in arrays], conditions, SPECS)
    assert np.abs(model.expected({"age": 70.0, "sex": "M"}) - 0.64).max() < 0.02
    assert np.abs(model.std - 0.05).max() < 0.006
    step = model.changed(np.zeros((2, 3), np.float32), {"age": 30.0, "sex": "F"}, {"age": 60.0})
    assert np.abs(step - 0.06).max() < 0.02
    assert np.abs(model.away(np.full((2, 3), 0.64 + 0.1, np.float32), {"age": 70.0, "sex": "M"}) - 2).max() < 0.6
    assert np.allclose(model.expected({}), model.mean)


def test_a_harmonic_hole_is_a_straight_ramp_between_its_sides() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 12)[:, None, None], (12, 8, 8)).astype(np.float32)
    hole = np.zeros(ramp.shape, bool)
    hole[4:8, 2:6, 2:6] = True
    filled = harmonic_fill(np.where(hole, 0, ramp).astype(np.float32), hole)
    assert np.abs(filled - ramp).max() < 1e-4


def test_a_hole_at_the_edge_of_the_grid_is_filled_too() -> None:
    flat = np.full((8, 8, 8), 0.5, np.float32)
    hole = np.zeros(flat.shape, bool)
    hole[:3, :3, :3] = True
    assert np.abs(harmonic_fill(np.where(hole, 0, flat).astype(np.float32), hole) - 0.5).max() < 1e-3


def test_thick_voxels_are_means_and_cubic_beats_linear_on_smooth_images() -> None:
    smooth = ndimage.gaussian_filter(np.random.default_rng(1).uniform(size=(24, 24, 24)), 3, mode="wrap")
    image = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    coarse = coarsened(image, (2, 2, 1))
    assert coarse.image.shape == (12, 12, 24)
    assert coarse.image[0, 0, 0] == pytest.approx(image[:2, :2, 0].mean(), rel=1e-5)
    assert (coarse.factors, coarse.offsets) == ((2, 2, 1), (0.5, 0.5, 0))
    inner = np.zeros(image.shape, bool)
    inner[4:-4, 4:-4, 4:-4] = True
    linear, cubic = (psnr(interpolated(coarse, image.shape, order), image, inner) for order in (1, 3))
    assert cubic > linear > 20


def test_a_rest_that_fills_no_thick_voxel_is_left_out() -> None:
    assert coarsened(np.zeros((9, 8, 7), np.float32), (2, 2, 2)).image.shape == (4, 4, 3)


def test_non_local_means_beats_a_gaussian_where_borders_are_sharp(blocks: NDArray[np.float32]) -> None:
    noisy = (blocks + np.random.default_rng(2).normal(0, 0.1, blocks.shape)).astype(np.float32)
    everywhere = np.ones(blocks.shape, bool)
    averaged = psnr(non_local_means(noisy, 0.1, 0.6), blocks, everywhere)
    smoothed = max(psnr(ndimage.gaussian_filter(noisy, width), blocks, everywhere) for width in (0.5, 0.8, 1.2))
    assert averaged > smoothed > psnr(noisy, blocks, everywhere)


def test_the_rician_bias_is_taken_away_where_there_is_signal() -> None:
    random = np.random.default_rng(3)
    magnitude = np.hypot(0.5 + random.normal(0, 0.05, 100_000), random.normal(0, 0.05, 100_000))
    mean = np.full((1, 1, 1), magnitude.mean(), np.float32)
    assert float(without_rician_bias(mean, 0.05)[0, 0, 0]) == pytest.approx(0.5, abs=2e-4)
    assert abs(float(magnitude.mean()) - 0.5) > 2e-3


def test_total_variation_reconstructs_blocks_better_than_zeros_do(blocks: NDArray[np.float32]) -> None:
    random, everywhere = np.random.default_rng(4), np.ones(blocks.shape, bool)
    lines = (random.uniform(size=(1, 20, 12)) < 0.35) | (np.abs(np.fft.fftfreq(20))[None, :, None] < 0.1)
    measured = np.broadcast_to(lines, blocks.shape)
    kspace = np.fft.fftn(blocks, norm="ortho") * measured
    zeros, varied = zero_filled(kspace), total_variation(kspace, measured, 0.003)
    assert psnr(varied, blocks, everywhere) > psnr(zeros, blocks, everywhere) + 3
    whole = total_variation(np.fft.fftn(blocks, norm="ortho"), everywhere, 1e-6)
    assert np.abs(whole - blocks).max() < 1e-3


def test_ssim_is_one_for_equals_and_that_of_monai_within_its_window(blocks: NDArray[np.float32]) -> None:
    from monai.metrics import SSIMMetric

    everywhere = np.ones(blocks.shape, bool)
    noisy = (blocks + np.random.default_rng(5).normal(0, 0.05, blocks.shape)).astype(np.float32)
    assert ssim(blocks, blocks, everywhere) == pytest.approx(1)
    theirs = SSIMMetric(spatial_dims=3, win_size=7, data_range=1.0)(
        *(torch.from_numpy(one)[None, None] for one in (noisy, blocks))
    )
    inner = np.zeros(blocks.shape, bool)
    inner[3:-3, 3:-3, 3:-3] = True
    assert ssim(noisy, blocks, inner) == pytest.approx(float(theirs.mean()), abs=0.03)
