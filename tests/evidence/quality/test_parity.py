"""Distances against independent implementations, on one pair of sets."""

import warnings

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric, MMDMetric
from scipy import ndimage
from sklearn.neighbors import NearestNeighbors

from meddiff_core.evidence.quality.anatomy import correlations
from meddiff_core.evidence.quality.distances import frechet_distance, kernel_distance
from meddiff_core.evidence.quality.neighbourhoods import neighbourhoods
from meddiff_core.evidence.quality.similarity import _random_pairs, _scale_weights, ms_ssim_pairs


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 4)), 1.3 * rng.standard_normal((40, 4)) + 0.4


def test_frechet_distance_is_that_of_monai(sets):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MONAI calls an old form of scipy's root
        expected = float(FIDMetric()(*map(torch.from_numpy, sets)))
    assert frechet_distance(*sets) == pytest.approx(expected, abs=1e-4)


def test_kernel_distance_is_that_of_monai_in_the_space_of_the_kernel(sets):
    def cubes(rows):
        z = torch.cat([rows / rows.shape[1] ** 0.5, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
        return torch.einsum("ni,nj,nk->nijk", z, z, z).flatten(1)

    expected = float(MMDMetric(y_mapping=cubes)(*map(torch.from_numpy, sets)))
    assert kernel_distance(*sets) == pytest.approx(expected, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_and_coverage_are_those_of_neighbour_search(sets, k):
    query, reference = sets

    def radius(rows):
        return NearestNeighbors(n_neighbors=k + 1).fit(rows).kneighbors(rows)[0][:, k]

    real, fake = radius(reference), radius(query)
    inside_real = [[np.linalg.norm(q - r) <= real[j] for j, r in enumerate(reference)] for q in query]
    inside_fake = [[np.linalg.norm(q - r) <= fake[i] for i, q in enumerate(query)] for r in reference]
    found = neighbourhoods(query, reference, k)
    assert found.precision == pytest.approx(np.mean([any(row) for row in inside_real]))
    assert found.recall == pytest.approx(np.mean([any(row) for row in inside_fake]))
    assert found.density == pytest.approx(np.sum(inside_real) / (k * len(query)))
    assert found.coverage == pytest.approx(np.mean(np.any(inside_real, axis=0)))


def ms_ssim(x, y, weights):
    """Wang et al. 2003, with a Gaussian of 5 voxels and averages over 2 x 2 x 2."""
    window = np.exp(-0.5 * (np.arange(-2, 3) / 1.5) ** 2)

    def smooth(volume):
        for axis in range(3):
            volume = ndimage.correlate1d(volume, window / window.sum(), axis)
        return volume[2:-2, 2:-2, 2:-2]

    product = 1.0
    for scale, weight in enumerate(weights):
        mean_x, mean_y = smooth(x), smooth(y)
        var_x, var_y, cov = (
            smooth(a * b) - m * n
            for a, b, m, n in ((x, x, mean_x, mean_x), (y, y, mean_y, mean_y), (x, y, mean_x, mean_y))
        )
        contrast = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
        if scale == len(weights) - 1:
            contrast = contrast * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        product *= max(0.0, contrast.mean()) ** weight
        x, y = (v.reshape(*(n for side in v.shape for n in (side // 2, 2))).mean((1, 3, 5)) for v in (x, y))
    return product


def test_ms_ssim_is_that_of_the_textbook(make_heads, contract, finish):
    heads = make_heads(4, 0)
    found = finish(ms_ssim_pairs(heads, 3, 0, contract))
    unit = heads.images / 255.0
    expected = [ms_ssim(unit[i], unit[j], _scale_weights(24)) for i, j in zip(found.first, found.second, strict=True)]
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    assert len(set(zip(*_random_pairs(4, 3, 0), strict=True))) == 3


def test_a_weight_is_how_often_a_row_counts_in_a_correlation(sets):
    rows, often = sets[0], np.arange(40) % 3.0
    np.testing.assert_allclose(correlations(rows, often), correlations(np.repeat(rows, often.astype(int), axis=0)))


def test_a_constant_is_correlated_with_nothing(sets):
    assert np.all(correlations(np.column_stack([sets[0][:, 0], np.ones(40)])) == 0)
