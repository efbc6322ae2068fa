"""Whatever looks at volumes also looks at thick slices, and knows how thick they are."""

from typing import Any

import numpy as np
import pytest
import torch

from meddiff_core.evidence.features.contrastive import fit_contrastive
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.pooling import cell_sides, pooled_image
from meddiff_core.evidence.features.radiomics import RadiomicsFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.spectrum import SpectrumFeatures
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.privacy.voxel_search import fit_search
from meddiff_core.evidence.quality.shapes import shape
from meddiff_core.evidence.quality.similarity import ms_ssim_pairs
from meddiff_core.evidence.sample_scoring import _views
from meddiff_core.evidence.surfaces import direction_shares, surface_areas
from meddiff_core.evidence.utility.segmentation import Recipe, build_network, train_segmenter
from meddiff_core.evidence.voxel_keys import key_grid, keys_of, voxel_keys
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from tests.evidence.conftest import ArrayVolumes

GRIDS = [((48, 48, 12), (1.0, 1.0, 6.0)), ((12, 40, 48), (5.0, 0.8, 0.8)), ((8, 16, 16), (2.0, 2.0, 2.0))]


def ball(size: tuple[int, ...], spacing: tuple[float, ...], radius_mm: float) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2 + 0.1) * step for n, step in zip(size, spacing, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    return (distance < radius_mm).astype(np.uint8)


@pytest.fixture(params=GRIDS)
def scans(request: pytest.FixtureRequest, contract: Any) -> tuple[ArrayVolumes, Any]:
    size, spacing = request.param
    own = contract.model_copy(update={"size": size, "spacing_mm": spacing})
    rng = np.random.default_rng(0)
    radius = 0.45 * min(n * step for n, step in zip(size, spacing, strict=True))
    labels = np.stack([ball(size, spacing, radius) + ball(size, spacing, part * radius) for part in (0.5, 0.6, 0.7)])
    images = (labels * 90 + rng.integers(0, 40, labels.shape) * (labels > 0)).astype(np.uint8)
    return ArrayVolumes(images, labels), own


def test_every_extractor_sees_them(scans: tuple[ArrayVolumes, Any], finish: Any) -> None:
    volumes, own = scans
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderShape(in_channels=own.channels, channels=(8, 8), latent_channels=2)).eval()
    contrastive = finish(fit_contrastive(volumes, own, 0, steps=1))
    latents = LatentFeatures(lambda images: network.encode(images)[0], "x", own)
    for extractor in (RandomConvFeatures(own), RadiomicsFeatures(own), SpectrumFeatures(own), contrastive, latents):
        found = extractor(volumes, [0, 1, 2])
        assert len(found) == 3
        assert np.isfinite(found).all()
        assert not np.allclose(found[0], found[2])


def test_every_measure_is_finite(scans: tuple[ArrayVolumes, Any], finish: Any) -> None:
    volumes, own = scans
    for figures in (measure(volumes.image(0), volumes.label(0), own), shape(volumes.image(0), volumes.label(0), own)):
        assert np.isfinite(list(figures.values())).all()
    assert np.isfinite(finish(ms_ssim_pairs(volumes, 3, 0, own)).values).all()


def test_a_copy_is_found_whole_and_by_halves(scans: tuple[ArrayVolumes, Any]) -> None:
    volumes, own = scans
    found = fit_search(keys_of(volumes, own), own)(voxel_keys(volumes.image(1)[::-1], own)[None])
    assert min(key_grid(own)) >= 2
    assert all(neighbours.index[0] == 1 for neighbours in found.values())


def test_a_segmentation_network_learns_and_answers_on_their_grid(scans: tuple[ArrayVolumes, Any], finish: Any) -> None:
    volumes, own = scans
    segmenter = finish(train_segmenter("any", volumes, own, Recipe(steps=1), 0))
    assert segmenter(volumes.image(0)).shape == own.size


def test_scores_of_latents_take_short_axes() -> None:
    features, keys = _views(torch.randn(2, 3, 12, 12, 4))
    assert np.isfinite(features).all()
    assert np.isfinite(keys).all()


def test_networks_halve_thick_slices_last(contract: Any) -> None:
    own = contract.model_copy(update={"size": (48, 48, 12), "spacing_mm": (1.0, 1.0, 6.0)})
    strides = [m.stride for m in build_network(own, 0).modules() if isinstance(m, torch.nn.Conv3d)]
    assert (2, 2, 1) in strides
    assert (2, 2, 2) in strides


def test_cells_are_as_alike_as_the_spacing_allows(contract: Any) -> None:
    assert cell_sides((48, 48, 12), (1.0, 1.0, 6.0), 24) == (2, 2, 1)
    assert cell_sides((48, 48, 48), (1.0, 1.0, 1.0), 24) == (2, 2, 2)
    assert cell_sides((256, 256, 64), (1.0, 1.0, 3.0), 24) == (11, 11, 4)
    assert cell_sides((192, 192, 8), (1.0, 1.0, 1.0), 12) == (16, 16, 4)
    own = contract.model_copy(update={"size": (48, 48, 12), "spacing_mm": (1.0, 1.0, 6.0)})
    assert pooled_image(np.zeros((48, 48, 12), np.uint8), own, 24).shape == (24, 24, 12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (6.0, 1.0, 1.0), (1.0, 1.0, 6.0), (1.0, 1.3, 1.0)])
def test_a_ball_of_thick_slices_has_the_surface_of_a_sphere(spacing: tuple[float, float, float]) -> None:
    i, j, k = (int(50 / step) for step in spacing)
    area = surface_areas(ball((i, j, k), spacing, 20), 1, spacing)[0]
    assert area == pytest.approx(4 * np.pi * 20**2, rel=0.15)


def test_shares_of_directions_sum_to_one_and_approach_those_of_cubes() -> None:
    assert sum(direction_shares(1.0, 1.0, 6.0)) == pytest.approx(1)
    nearly, cubes = direction_shares(1.0, 1.0, 1.0 + 1e-9), direction_shares(1.0, 1.0, 1.0)
    assert nearly == pytest.approx(cubes, abs=5e-4)


def test_volumes_and_steepness_are_per_millimetre(contract: Any) -> None:
    own = contract.model_copy(update={"size": (20, 20, 10), "spacing_mm": (1.0, 1.0, 5.0)})
    ramp = np.broadcast_to(np.linspace(0.1, 1, 10, dtype=np.float32), (20, 20, 10))
    figures = measure(np.ascontiguousarray(ramp), np.ones((20, 20, 10), np.uint8), own)
    assert figures["sharpness"] == pytest.approx(0.1 / 5, rel=1e-3)
    assert figures["volume_mm3:shell"] == 20 * 20 * 10 * 5
