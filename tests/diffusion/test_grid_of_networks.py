"""Whatever grid the data room chooses, the networks can halve it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.contract import Contract
from meddiff_core.data.fingerprint import CaseFingerprint
from meddiff_core.data.grid import choose_grid, level_strides
from meddiff_core.diffusion import sizing
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.training.autoencoder import _discriminator
from meddiff_core.study import Study

FINE, THICK = st.floats(0.2, 4.0), st.floats(3.0, 20.0)
EXTENTS = st.tuples(*[st.floats(2.0, 600.0)] * 3)


def study_of(plan: dict[str, Any], train: dict[str, Any]) -> Study:
    return Study.model_validate({"name": "any", "data": {"images": "scans"}, "plan": plan, "train": train})


def scans_of(extent: tuple[float, ...], spacing: tuple[float, ...], count: int = 5) -> Any:
    return [CaseFingerprint.model_construct(extent_mm=extent, spacing_mm=spacing)] * count


@settings(max_examples=50)
@given(
    extent=EXTENTS,
    fine=FINE,
    ratio=THICK | st.just(1.0),
    axis=st.integers(0, 2),
    factor=st.sampled_from([None, 2, 4, 8]),
    spacing=st.none() | st.sampled_from([1, 4, [1, 1, 6], [6.5, 0.5, 0.5]]),
    levels=st.sampled_from([None, 1, 2, 3, 4]),
    device=st.sampled_from(["cpu", "cuda:0"]),
)
def test_every_grid_that_is_chosen_fits_both_networks(
    make_contract: Callable[..., Contract],
    extent: Any,
    fine: float,
    ratio: float,
    axis: int,
    factor: Any,
    spacing: Any,
    levels: Any,
    device: str,
) -> None:
    lengths = [fine] * 3
    lengths[axis] *= ratio
    denoiser = {"channels": [32] * levels} if levels else {}
    study = study_of({"latent_factor": factor, "spacing_mm": spacing}, {"denoiser": denoiser})
    chosen, size, _ = choose_grid(scans_of(extent, tuple(lengths)), study, device)
    shape = sizing._autoencoder_shape(make_contract(size=size, spacing_mm=chosen), study, device)
    sizing.require_halvable(size, chosen, study)
    latents = shape.latent_size(size)
    sizing._denoiser_shape(shape.latent_channels, latents, study, device)
    assert min(latents) >= 4
    assert tuple(a * b for a, b in zip(latents, shape.downsampling, strict=True)) == size


def test_networks_too_deep_for_the_voxels_allowed_get_the_fewest_that_they_can_halve() -> None:
    study = study_of({"latent_factor": 8}, {"denoiser": {"channels": [32] * 4}})
    _, size, _ = choose_grid(scans_of((155.0, 190.0, 170.0), (1.0, 1.0, 1.0)), study, "cpu")
    assert size == (64, 64, 64)


def test_a_head_at_one_millimetre_has_a_grid() -> None:
    study = study_of({"spacing_mm": 1}, {})
    spacing, size, _ = choose_grid(scans_of((155.0, 190.0, 170.0), (1.0, 1.0, 1.0)), study, "cuda:0")
    sizing.require_halvable(size, spacing, study)
    assert spacing == (1.0, 1.0, 1.0)


@given(sides=st.tuples(*[st.integers(8, 24)] * 3), thick=st.integers(0, 2), ratio=st.sampled_from([1.0, 6.0]))
def test_a_discriminator_takes_every_size(sides: tuple[int, int, int], thick: int, ratio: float) -> None:
    spacing = [1.0] * 3
    spacing[thick] = ratio
    i, j, k = spacing
    with torch.inference_mode():
        assert all(side > 0 for side in _discriminator(sides, (i, j, k))(torch.zeros(1, 1, *sides))[-1].shape)


def test_thick_slices_are_halved_last() -> None:
    assert level_strides((256, 256, 24), (1.0, 1.0, 6.5), 2, 4) == ((2, 2, 1), (2, 2, 1))
    assert level_strides((256, 256, 24), (1.0, 1.0, 6.5), 3, 4) == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert level_strides((256, 256, 24), (1.0, 1.0, 3.0), 2, 4) == ((2, 2, 1), (2, 2, 2))
    assert level_strides((64, 64, 64), (1.0, 1.0, 1.9), 2, 4) == ((2, 2, 2), (2, 2, 2))


def test_a_plan_of_thick_slices_has_its_strides(make_contract: Callable[..., Contract]) -> None:
    study = study_of({"size": [48, 48, 12], "spacing_mm": [1, 1, 6]}, {"autoencoder": {"channels": [8, 8, 8]}})
    contract = make_contract(size=(48, 48, 12), spacing_mm=(1, 1, 6))
    shape: AutoencoderShape = sizing._autoencoder_shape(contract, study, "cpu")
    assert shape.latent_size((48, 48, 12)) == (12, 12, 12)


@pytest.mark.parametrize("given_mm", [0, -1, "fine", [1, 2], [1, 2, 0], [1, 2, "x"]])
def test_a_spacing_is_one_number_or_three(given_mm: Any) -> None:
    with pytest.raises(ValueError, match="must be one number above 0, or three"):
        study_of({"spacing_mm": given_mm}, {})
