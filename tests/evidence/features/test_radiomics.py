"""Named figures, held against the published benchmark of the IBSI and against closed forms."""

import math
import time

import numpy as np
import pytest

from meddiff_core.evidence.features.radiomics import (
    LEVELS,
    RadiomicsFeatures,
    co_occurrence,
    radiomics,
    shape,
    texture,
)
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.surfaces import surface_areas

OUT = 0
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [OUT, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, OUT, OUT], [1, 1, 1, 1, 1], [1, 1, OUT, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, OUT, OUT], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)
"""The digital phantom of the IBSI, slice by slice: grey levels 1 to 6, and 0 outside of the region."""
TEXTURE_OF_PHANTOM = {
    "joint_maximum": 0.509, "joint_average": 2.15, "joint_variance": 3.13, "joint_entropy": 2.57,
    "difference_average": 1.38, "difference_variance": 3.21, "difference_entropy": 1.64, "sum_entropy": 2.11,
    "angular_second_moment": 0.291, "contrast": 5.12, "inverse_difference": 0.688, "inverse_difference_moment": 0.631,
    "correlation": 0.183, "autocorrelation": 5.19, "cluster_shade": 17.4, "cluster_prominence": 147,
    "information_correlation_1": -0.0288, "information_correlation_2": 0.269,
}  # fmt: skip
"""Its benchmark values, 3D merged (Zwanenburg et al. 2020, reference manual 3.6)."""
INTENSITY_OF_PHANTOM = {
    "mean": 2.15, "variance": 3.05, "skewness": 1.08, "kurtosis": -0.355, "median": 1, "minimum": 1, "p10": 1, "p90": 4,
    "maximum": 6, "interquartile_range": 3, "mean_absolute_deviation": 1.55, "robust_mean_absolute_deviation": 1.11,
    "root_mean_square": 2.77, "entropy": 1.27, "uniformity": 0.512,
}  # fmt: skip
"""Likewise, 3.3 and 3.4; of the grey levels themselves."""
POWER = {"variance": 2, "skewness": 0, "kurtosis": 0, "entropy": 0, "uniformity": 0}
"""Of the unit of intensity that a figure has, where it is not 1."""


def balls(radius: float, side: int = 30) -> np.ndarray:
    grid = np.indices((side,) * 3) - (side - 1) / 2
    return (grid**2).sum(0) < radius**2


def test_texture_agrees_with_the_published_benchmark():
    counts = co_occurrence(PHANTOM - 1, PHANTOM > OUT)
    found = texture(counts / counts.sum())
    assert found == pytest.approx(TEXTURE_OF_PHANTOM, rel=4e-3)


def test_intensities_agree_with_the_published_benchmark(contract):
    level = 1 / LEVELS
    found = radiomics(((PHANTOM + 0.0) * level).astype(np.float32), None, contract)
    for name, expected in INTENSITY_OF_PHANTOM.items():
        assert found[name] / level ** POWER.get(name, 1) == pytest.approx(expected, rel=4e-3), name


def test_two_voxels_co_occur_once_in_each_order():
    counts = co_occurrence(np.array([[[3, 5]]]), np.ones((1, 1, 2), bool))
    assert counts[3, 5] == counts[5, 3] == 1
    assert counts.sum() == 2
    assert texture(counts / 2)["contrast"] == 4
    assert texture(counts / 2)["correlation"] == pytest.approx(-1)


@pytest.mark.parametrize("radius", [8.0, 10.0, 13.0])
def test_ball_has_the_surface_of_a_sphere(radius):
    assert surface_areas(balls(radius).astype(np.uint8), 1, (2.0, 2.0, 2.0))[0] == pytest.approx(
        4 * math.pi * (2 * radius) ** 2, rel=0.02
    )
    assert shape(balls(radius), (2.0, 2.0, 2.0))["sphericity"] == pytest.approx(1, abs=0.02)


def test_axes_of_a_box_are_those_of_its_sides():
    box = np.zeros((24, 14, 9), bool)
    box[2:22, 2:12, 2:7] = True
    found = shape(box, (3.0, 3.0, 3.0))
    assert found["volume_mm3"] == 20 * 10 * 5 * 27
    assert found["elongation"] == pytest.approx(10 / 20)
    assert found["flatness"] == pytest.approx(5 / 20)
    assert found["surface_to_volume"] * found["volume_mm3"] == pytest.approx(700 * 9, rel=0.15)


def test_broken_volumes_have_finite_figures(contract):
    size = (8, 8, 8)
    for unit in (np.zeros(size, np.float32), np.full(size, 0.5, np.float32)):
        figures = radiomics(unit, np.zeros(size, np.uint8), contract)
        assert np.isfinite(list(figures.values())).all()
    assert figures["volume_mm3:core"] == 0


def test_columns_are_named_and_tell_a_shift_of_intensity(contract, make_heads, finish):
    heads, extractor = make_heads(6, 0), RadiomicsFeatures(contract)
    darker = type(heads)(np.rint(heads.images * 0.8).astype(np.uint8), heads.labels)
    bright, dark = (finish(extract(extractor, volumes)).values for volumes in (heads, darker))
    assert bright.shape == (6, len(extractor.feature_names)) == (6, 15 + 18 + 5 * 3)
    mean = extractor.feature_names.index("mean")
    np.testing.assert_allclose(dark[:, mean] / bright[:, mean], 0.8, rtol=0.01)


@pytest.mark.slow
def test_volume_takes_less_than_50_ms(contract, make_heads):
    heads, extractor = make_heads(4, 0), RadiomicsFeatures(contract)
    larger = np.pad(heads.images, [(0, 0), (8, 8), (12, 12), (8, 8)], mode="reflect")
    labels = np.pad(heads.labels, [(0, 0), (8, 8), (12, 12), (8, 8)], mode="reflect")
    volumes = type(heads)(larger, labels)
    started = time.process_time()
    extractor(volumes, range(4))
    assert (time.process_time() - started) / 4 < 0.1  # twice the aim: other work may share the core
