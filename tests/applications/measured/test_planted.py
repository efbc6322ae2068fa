"""What is planted is where it is said to be, of the size and strength that were asked for, and nowhere else."""

import numpy as np
import pytest
from numpy.typing import NDArray

from meddiff_core.applications.measured.planted import (
    FAULTS,
    HOLE_SHARES,
    LESION_RADII,
    Kind,
    lines_measured,
    plant_lesion,
    random_hole,
    rician,
)
from meddiff_core.errors import ConfigurationError

SHAPE = (20, 24, 18)


@pytest.fixture(scope="module")
def body() -> NDArray[np.bool_]:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    return np.asarray((grid**2).sum(0) < 0.8)


@pytest.fixture(scope="module")
def image(body: NDArray[np.bool_]) -> NDArray[np.float32]:
    texture = np.random.default_rng(0).uniform(0.3, 0.7, SHAPE)
    texture[: SHAPE[0] // 3] += 0.2
    return (texture * body).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_a_hole_is_two_to_ten_percent_of_the_body_and_in_it(body: NDArray[np.bool_], seed: int) -> None:
    hole = random_hole(body, seed)
    assert not (hole & ~body).any()
    assert HOLE_SHARES[0] - 0.002 <= hole.sum() / body.sum() <= HOLE_SHARES[1] + 0.002
    assert (hole == random_hole(body, seed)).all()
    assert (hole != random_hole(body, seed + 1)).any()


def test_a_scan_without_a_body_has_no_place_for_a_hole() -> None:
    with pytest.raises(ConfigurationError, match="no voxel above 0"):
        random_hole(np.zeros(SHAPE, bool), 0)


@pytest.mark.parametrize(("kind", "contrast"), [("brighter", 1.0), ("darker", 1.5), ("blurred", 0.0), ("warped", 0.0)])
def test_a_lesion_changes_its_own_voxels_alone(
    image: NDArray[np.float32], body: NDArray[np.bool_], kind: Kind, contrast: float
) -> None:
    lesion = plant_lesion(image, body, kind, contrast, 3)
    near = np.asarray(np.abs(lesion.image - image) > 0)
    radius = LESION_RADII[1] * 1.6
    assert 4 <= lesion.mask.sum() <= 4 / 3 * np.pi * radius**3
    assert (near & lesion.mask).sum() >= 0.5 * lesion.mask.sum()
    assert not (near & ~body).any()
    assert (near & ~lesion.mask).sum() <= 2.5 * lesion.mask.sum()  # a rim of partial volume


@pytest.mark.parametrize(("kind", "sign"), [("brighter", 1), ("darker", -1)])
def test_contrast_is_in_standard_deviations_of_the_body(
    image: NDArray[np.float32], body: NDArray[np.bool_], kind: Kind, sign: int
) -> None:
    step = (plant_lesion(image, body, kind, 1.0, 3).image - image) * sign
    assert step.max() == pytest.approx(image[body].std(), rel=1e-4)


def test_a_lesion_without_brightness_has_none(image: NDArray[np.float32], body: NDArray[np.bool_]) -> None:
    for kind in ("blurred", "warped"):
        lesion = plant_lesion(image, body, kind, 0.0, 5)  # type: ignore[arg-type]
        assert abs(float((lesion.image - image)[lesion.mask].mean())) < 0.25 * image[body].std()


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_changes_the_scan_and_follows_from_its_seed(
    image: NDArray[np.float32], body: NDArray[np.bool_], name: str
) -> None:
    faulty = FAULTS[name].plant(image, body, 7)
    assert faulty.shape == image.shape
    assert faulty.dtype == np.float32
    assert np.abs(faulty - image).mean() > 0.005
    assert (faulty.min() >= 0) & (faulty.max() <= 1)
    assert (faulty == FAULTS[name].plant(image, body, 7)).all()


def test_rician_noise_has_its_closed_moments() -> None:
    """E[m^2] = signal^2 + 2 std^2, and outside a masked body there is nothing."""
    signal = np.full((40, 40, 40), 0.4, np.float32)
    everywhere = np.ones(signal.shape, bool)
    noisy = rician(signal, everywhere, 0.05, 0, masked=False)
    assert float((noisy.astype(np.float64) ** 2).mean()) == pytest.approx(0.4**2 + 2 * 0.05**2, rel=0.005)
    half = everywhere.copy()
    half[20:] = False
    assert rician(signal, half, 0.05, 0, masked=True)[20:].max() == 0


@pytest.mark.parametrize("times", [4, 8])
def test_one_line_in_so_many_is_measured_with_the_centre_among_them(times: int) -> None:
    mask = lines_measured((10, 48, 12), times, 0)
    assert mask.mean() == pytest.approx(1 / times)
    assert mask[:, 0].all()  # the zero frequency
    assert (mask == mask[:1, :, :1]).all()
