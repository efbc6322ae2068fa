"""What one volume measures."""

import numpy as np
import pytest

from meddiff_core.evidence.measurements import measure


def ball(side: int = 24, radius: float = 6.0) -> np.ndarray:
    grid = np.indices((side,) * 3) - side // 2
    return (grid**2).sum(0) <= radius**2


def test_volume_of_a_structure_is_its_voxels_times_their_size(contract):
    label = ball().astype(np.uint8) * 2
    figures = measure(label * 100, label, contract)
    assert figures["volume_mm3:core"] == ball().sum() * 8.0
    assert figures["volume_mm3:shell"] == 0


def test_absent_structure_is_not_whole(contract):
    label = ball().astype(np.uint8)
    figures = measure(label * 100, label, contract)
    assert figures["components:core"] == 0
    assert figures["pieces:core"] == 0
    assert figures["components:shell"] == 1
    assert figures["pieces:shell"] == 1


def test_a_second_piece_is_counted_and_a_speck_is_not(contract):
    label = ball(radius=4).astype(np.uint8)
    label[0, 0, 0] = 1
    assert measure(label, label, contract)["pieces:shell"] == 1
    label[:2, :2, :2] = 1
    figures = measure(label, label, contract)
    assert figures["pieces:shell"] == 2
    assert figures["components:shell"] == pytest.approx(ball(radius=4).sum() / (ball(radius=4).sum() + 8))


def test_sharpness_falls_when_blurred_and_is_the_slope_of_a_ramp(contract):
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, 24, dtype=np.float32)[:, None, None], (24, 24, 24))
    assert measure(ramp, None, contract)["sharpness"] == pytest.approx(0.8 / 23 / 2.0, rel=1e-4)


def test_every_figure_of_a_broken_volume_is_finite(contract):
    image = np.full((24, 24, 24), np.nan, np.float32)
    image[0] = np.inf
    figures = measure(image, np.zeros((24, 24, 24), np.uint8), contract)
    assert figures["finite"] == 0
    assert all(np.isfinite(value) for value in figures.values())


def test_stored_and_unit_intensities_measure_the_same(contract, make_heads):
    heads = make_heads(1, 0)
    stored = measure(heads.image(0), heads.label(0), contract)
    unit = measure(contract.intensity.unit(heads.image(0)), heads.label(0), contract)
    assert stored == unit
    assert stored["p05"] < stored["p50"] < stored["p95"]
