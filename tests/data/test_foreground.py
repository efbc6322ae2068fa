"""What counts as the subject, whatever kind of scan it is: no tissue is taken for air, no air for tissue."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.data import foreground
from meddiff_core.data.foreground import body_of, box_of, split_values
from meddiff_core.types import FloatArray, Volume

Made = Callable[..., Any]
SHAPE = (40, 44, 36)


def _body(array: Any, modality: str = "MR") -> Any:
    return body_of(Volume(np.asarray(array, np.float32), np.eye(4)), modality)


def _share_alike(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())


def _ball(radius: float = 0.75) -> Any:
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in SHAPE), indexing="ij")
    return grid[0] ** 2 + grid[1] ** 2 + grid[2] ** 2 < radius**2


def _tissue(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> FloatArray:
    """Fluid, grey and white matter in smooth patches, as a crop from within a brain."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    levels = np.array([250.0, 800.0, 1100.0])[np.searchsorted(np.quantile(field, (0.12, 0.6)), field)]
    return np.asarray(ndimage.gaussian_filter(levels, 0.7) + rng.normal(0, 40, shape), np.float32)


def _head(air: float = 20.0, offset: float = 0.0) -> FloatArray:
    rng = np.random.default_rng(1)
    noise = np.hypot(rng.normal(0, air, SHAPE), rng.normal(0, air, SHAPE))
    return np.asarray(np.where(_ball(), _tissue(), noise) + offset, np.float32)


@pytest.mark.parametrize("shape", [(35, 50, 35), (20, 29, 23), SHAPE])
def test_a_crop_without_air_is_foreground_throughout_and_keeps_its_dark_tissue(shape: tuple[int, ...]) -> None:
    crop = _tissue(shape)
    body = _body(crop)
    assert body.all()
    low, high = np.percentile(crop[body], (0.5, 99.5))
    assert (crop <= low).mean() < 0.01
    assert (crop >= high).mean() < 0.01


@pytest.mark.parametrize("array", [_tissue() - 5000, -_tissue(), np.indices(SHAPE)[0], np.indices(SHAPE).sum(0)])
def test_neither_a_shift_nor_an_inversion_nor_a_ramp_makes_air(array: Any) -> None:
    assert _body(array).all()


@pytest.mark.parametrize(("air", "offset"), [(5.0, 0.0), (20.0, 0.0), (100.0, 0.0), (20.0, 500.0), (20.0, -700.0)])
def test_air_is_found_at_any_level_of_noise_and_above_any_offset(air: float, offset: float) -> None:
    assert _share_alike(_body(_head(air, offset)), _ball()) > 0.93


def test_dark_tissue_within_the_body_belongs_to_it() -> None:
    head = _head()
    head[18:22, 20:24, 16:20] = 15.0  # as dark as air: a sinus, or bone
    assert _body(head)[18:22, 20:24, 16:20].all()


@pytest.mark.parametrize("value", [0.0, -1000.0, 5000.0])
def test_a_stripped_scan_is_what_is_left_of_it(value: float) -> None:
    np.testing.assert_array_equal(_body(np.where(_ball(), _tissue(), value)), _ball())


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_padding_does_not_count(modality: str) -> None:
    padded = np.pad(_tissue((20, 24, 22)) * 0.05, 6, constant_values=-2000)
    assert box_of(_body(padded, modality)) == ((6, 26), (6, 30), (6, 28))


def test_padding_around_a_scan_with_air_hides_no_air() -> None:
    padded = np.pad(_head(), 5)
    assert _share_alike(_body(padded), np.pad(_ball(), 5)) > 0.93


@pytest.mark.parametrize("window", [(-1024, 3000), (-160, 240), (-1350, 150)])
def test_ct_is_a_body_in_any_window(window: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    ct = np.where(_ball(), 40.0, -1000.0) + rng.normal(0, 15, SHAPE)
    assert _share_alike(_body(np.clip(np.rint(ct), *window), "CT"), _ball()) > 0.95


def test_a_crop_from_within_a_lung_is_no_air() -> None:
    lung = np.random.default_rng(0).normal(-850, 60, SHAPE)
    lung[10:14] = 40  # a vessel
    assert _body(lung, "CT").all()


def test_a_few_hot_voxels_change_nothing() -> None:
    head = _head()
    hot = head.copy()
    hot[[1, 10, 20, 38], [2, 20, 22, 40], [3, 15, 18, 30]] = 30_000
    assert box_of(_body(hot)) == box_of(_body(head))
    before, after = (np.percentile(scan[_body(scan)], (0.5, 99.5)) for scan in (head, hot))
    np.testing.assert_allclose(after, before, rtol=0.02, atol=5)


def test_a_speck_in_the_air_is_left_out_and_a_second_leg_is_not() -> None:
    i, j, _ = np.indices(SHAPE)
    legs = ((i - 10) ** 2 + (j - 20) ** 2 < 64) | ((i - 29) ** 2 + (j - 20) ** 2 < 36)
    scan = np.where(legs, 600.0, np.random.default_rng(0).rayleigh(10, SHAPE))
    scan[1, 42, 3:5] = 900
    body = _body(scan)
    assert body[29, 20].all()
    assert not body[1, 42].any()


def test_a_body_that_lies_against_the_border_is_not_cut() -> None:
    scan = _head()[:, :, 18:]
    assert _share_alike(_body(scan), _ball()[:, :, 18:]) > 0.93


def test_two_heaps_of_values_are_distinguished() -> None:
    split = split_values(np.concatenate([np.full(50, 10.0), np.full(20, 90.0)]).astype(np.float32))
    assert (split.dark, split.bright, split.spread) == pytest.approx((10, 90, 0), abs=0.5)


def test_a_scan_of_many_voxels_is_looked_at_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _body(_head())
    monkeypatch.setattr(foreground, "MOST_VOXELS", 9000)
    assert _share_alike(_body(_head()), whole) > 0.85


def test_without_a_mask_the_foreground_is_the_body_and_not_the_air(head: Made) -> None:
    image, label = head(1)
    image[0, 0, 0] = 500  # a bright speck in the air does not widen the box
    body = _body(image)
    assert _share_alike(body, label > 0) > 0.95
    assert not body[0, 0, 0]


def test_even_tissue_around_bright_fluid_in_a_cut_out_brain_is_no_air() -> None:
    """As in a map of diffusion: tissue at 0.8, fluid at 3, black where the brain was cut out."""
    rng = np.random.default_rng(0)
    brain = _ball()
    array = np.where(brain, np.where(_ball(0.25), 3.0, 0.8) + rng.normal(0, 0.05, SHAPE), 0)
    assert _share_alike(_body(array), brain) > 0.99
