"""Operators against their adjoints and closed forms."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from meddiff_core.applications.models import Decoded
from meddiff_core.applications.posterior.observation import (
    Operator,
    blurred,
    downsampled,
    identity,
    image_alone,
    kspace,
    labels_in,
    magnitudes,
    spectrum,
    thick_voxels,
    volume_of,
    voxels,
)

SIZE = (4, 6, 8)
MASK = torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) > 0.5


def volume(seed: int = 0, count: int = 2) -> Decoded:
    random = torch.Generator().manual_seed(seed)
    labels = torch.rand((count, 3, *SIZE), generator=random)
    return Decoded(torch.rand((count, *SIZE), generator=random), labels / labels.sum(dim=1, keepdim=True))


LINEAR: dict[str, Operator] = {
    "image": image_alone,
    "voxels": voxels(MASK),
    "downsampled": downsampled(SIZE, (4, 3, 2), (1, 2, 4), (0, 0.5, 1.5)),
    "bell": downsampled(SIZE, (4, 3, 2), (1, 2, 4), (0, 0.5, 1.5), "gaussian"),
    "blurred": blurred(torch.rand((3, 1, 5), generator=torch.Generator().manual_seed(1))),
    "kspace": kspace(MASK),
}


@pytest.mark.parametrize("operator", LINEAR.values(), ids=LINEAR)
def test_an_image_operator_is_linear_and_its_gradient_the_adjoint(operator: Operator) -> None:
    one, other = volume(1), volume(2)
    image = one.image.clone().requires_grad_()
    measured = operator(Decoded(image, one.labels))
    assert_close(
        operator(Decoded(2 * one.image - 3 * other.image, one.labels)),
        2 * measured - 3 * operator(other),
        atol=1e-4,
        rtol=0,
    )
    weights = torch.rand(measured.shape, generator=torch.Generator().manual_seed(3))
    adjoint = torch.autograd.grad(measured, image, weights)[0]
    assert_close((adjoint * other.image).sum(), (weights * operator(other)).sum(), rtol=1e-4, atol=1e-4)


def test_identity_holds_image_and_labels() -> None:
    given = volume()
    assert torch.equal(identity(given), torch.cat([given.image[:, None], given.labels], dim=1))


def test_thick_voxels_that_fit_are_means_of_blocks() -> None:
    given = volume()
    blocks = given.image.reshape(2, 4, 3, 2, 2, 4).mean(dim=(3, 5))
    assert_close(LINEAR["downsampled"](given), blocks)


@given(
    size=st.integers(1, 12),
    count=st.integers(1, 6),
    factor=st.floats(1, 5),
    offset=st.floats(-3, 15),
    profile=st.sampled_from(["box", "gaussian"]),
)
def test_a_thick_voxel_is_an_average_wherever_it_lies(
    size: int, count: int, factor: float, offset: float, profile: str
) -> None:
    weights = thick_voxels(size, count, factor, offset, profile)  # type: ignore[arg-type]
    assert weights.shape == (count, size)
    assert bool((weights >= 0).all())
    assert_close(weights.sum(dim=1), torch.ones(count))


def test_a_partly_covered_voxel_counts_by_its_share() -> None:
    assert_close(thick_voxels(4, 1, 2.0, 1.0)[0], torch.tensor([0.25, 0.5, 0.25, 0.0]))


def test_a_blur_is_a_convolution() -> None:
    psf = torch.zeros(3, 3, 3)
    psf[2, 1, 1] = 1  # by one voxel forward along i
    moved = blurred(psf)(volume())
    assert_close(moved[:, 1:], volume().image[:, :-1])
    assert not moved[:, 0].any()


def test_all_of_k_space_has_the_energy_of_the_image() -> None:
    given = volume()
    everything = kspace(torch.ones(SIZE, dtype=torch.bool))(given)
    assert_close(everything.square().sum(), given.image.square().sum())
    assert_close(
        torch.from_numpy(np.fft.fftn(given.image[0].numpy(), norm="ortho")).to(torch.complex64),
        spectrum(given.image[0]),
        rtol=0,
        atol=1e-5,
    )


def test_magnitudes_are_the_mean_of_rician_noise_where_the_signal_is_stronger() -> None:
    noise, image = 0.05, torch.full((1, *SIZE), 0.4)
    random = torch.Generator().manual_seed(0)
    real, imaginary = torch.randn((2, 1_000_000), generator=random) * noise
    expected = (0.4 + real).square().add(imaginary.square()).sqrt().mean()
    found = magnitudes(torch.ones(SIZE, dtype=torch.bool), noise)(Decoded(image, torch.zeros(1, 0, *SIZE)))
    assert_close(found[0, 0], expected, rtol=0, atol=2e-4)


def test_a_volume_is_its_probabilities_times_that_of_a_voxel() -> None:
    labels = torch.zeros(1, 3, *SIZE)
    labels[0, 0], labels[0, 1, :2] = 1, 0.5
    given = Decoded(torch.zeros(1, *SIZE), labels)
    assert_close(volume_of(1, 8.0)(given), torch.tensor([2 * 6 * 8 * 0.5 * 8.0]))


def test_labels_and_voxels_are_those_of_the_mask() -> None:
    given = volume()
    where: Sequence[Tensor] = MASK.nonzero(as_tuple=True)
    assert torch.equal(voxels(MASK)(given), given.image[(slice(None), *where)])
    assert torch.equal(labels_in(MASK)(given), given.labels[(slice(None), slice(None), *where)])
