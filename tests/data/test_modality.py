"""CT or MR, by all voxels and never by one."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.data.modality import is_shifted, modality_of

SHAPE = (40, 44, 36)


def _inside() -> Any:
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in SHAPE), indexing="ij")
    return sum(axis**2 for axis in grid) < 0.6


def _ct() -> Any:
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    return np.rint(np.where(_inside(), 40 + noise, -1000 + noise)).astype(np.float32)


def _soft_tissue() -> Any:
    """A crop of an abdomen: fat and organs, no air."""
    rng = np.random.default_rng(0)
    fat = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3) > 0.02
    return np.rint(np.where(fat, -100, 50) + rng.normal(0, 15, SHAPE)).astype(np.float32)


def _mr() -> Any:
    return np.where(_inside(), 4000, 0).astype(np.float32) + np.random.default_rng(0).random(SHAPE).astype(np.float32)


@pytest.mark.parametrize("window", [(-3024, 3071), (-1000, 1000), (-160, 240), (-1024, 600), (-450, 1050)])
def test_ct_is_known_by_its_air_or_by_the_end_of_its_window(window: tuple[int, int]) -> None:
    assert modality_of(np.clip(_ct(), *window)) == "CT"


def test_a_padded_ct_is_ct() -> None:
    assert modality_of(np.pad(_ct(), 8, constant_values=-3024)) == "CT"


def test_a_crop_of_a_lung_is_ct() -> None:
    assert modality_of(np.random.default_rng(0).normal(-850, 60, SHAPE).astype(np.float32)) == "CT"


@pytest.mark.parametrize("factor", [0.1, 1.0, 3.0])
def test_undershoot_after_resampling_leaves_an_mr_an_mr(factor: float) -> None:
    resampled = ndimage.zoom(_mr() * factor, 1.3, order=3)
    assert resampled.min() < -0.03 * resampled.max()
    assert modality_of(resampled) == "MR"


def test_a_standardised_mr_is_an_mr() -> None:
    mr = _mr()
    assert modality_of((mr - mr.mean()) / mr.std()) == "MR"
    assert modality_of(np.where(_inside(), mr - 3000, -3.0)) == "MR"


def test_one_voxel_decides_nothing() -> None:
    mr, ct = _mr(), _ct()
    mr[3, 3, 3], ct[3, 3, 3] = -1000, 32_000
    assert (modality_of(mr), modality_of(ct)) == ("MR", "CT")


def test_soft_tissue_without_air_is_left_open() -> None:
    assert modality_of(_soft_tissue()) is None


def test_ct_as_a_scanner_stores_it_is_known_for_that() -> None:
    assert is_shifted(_ct() + 1024)
    assert not is_shifted(_ct())
    assert not is_shifted(np.where(_inside(), _ct() + 800, _ct()))  # bone


@pytest.mark.parametrize("padding", [0, -2000])
def test_ct_as_a_scanner_stores_it_is_asked_about(padding: int) -> None:
    stored = np.clip(_ct() + 1024, 0, None)
    stored[:2] = padding
    assert modality_of(stored) is None


@pytest.mark.parametrize("spread", [250, 400])
def test_an_mr_with_tissue_about_1000_is_no_stored_ct(spread: float) -> None:
    rng = np.random.default_rng(0)
    tissue = 1000 + spread * ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) * 19
    assert modality_of(np.rint(np.where(_inside(), np.maximum(tissue, 0), 5)).astype(np.float32)) == "MR"
