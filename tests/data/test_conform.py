"""A scan on the study's grid, and back."""

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.data.conform import Conformed, conform_case, grid_step, nearest, resample, restore
from meddiff_core.data.fingerprint import CaseFingerprint, fingerprint_case
from meddiff_core.data.ingest import load_image, load_label
from meddiff_core.errors import CaseRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, Volume

Made = Callable[..., Any]
ORIENTATIONS = [
    np.column_stack([axes, flips]) for axes in permutations(range(3)) for flips in product((1.0, -1.0), repeat=3)
]


@pytest.fixture
def conform(
    tmp_path: Path, save: Made, head: Made, data: Made, contract: Made
) -> Callable[..., tuple[Conformed, CaseRef]]:
    """(contract changes, affine, image) -> a conformed head and its case."""

    def _conform(
        changes: dict[str, Any] | None = None, affine: Any = None, image: Any = None, **config: Any
    ) -> tuple[Conformed, CaseRef]:
        usual, label = head(5)
        array = usual if image is None else image
        case = CaseRef("a", "a", save(tmp_path / "a.nii", array, affine), save(tmp_path / "b.nii", label, affine))
        return _conformed(case, contract(**(changes or {})), data(**config)), case

    return _conform


def _conformed(case: CaseRef, contract: Contract, config: DataConfig) -> Conformed:
    found = fingerprint_case(case, config)
    assert isinstance(found, CaseFingerprint)
    return conform_case(case, found, contract, config)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS), st.sampled_from([(2.0, 2.0, 2.0), (1.0, 1.3, 2.1)]), st.sampled_from([2.0, 3.0, 4.0])
)
def test_every_orientation_of_a_scan_gives_the_same_voxels(
    tmp_path_factory: pytest.TempPathFactory,
    head: Made,
    contract: Made,
    data: Made,
    turn: Any,
    spacing: tuple[float, float, float],
    target: float,
) -> None:
    folder = tmp_path_factory.mktemp("turned")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-11.3, 5.7, 29.9)
    conformed = []
    for number, axes in enumerate((ORIENTATIONS[0], turn)):
        paths = [folder / f"{number}{kind}.nii" for kind in "il"]
        for path, array in zip(paths, head(5), strict=True):
            turned = np.ascontiguousarray(apply_orientation(array, axes))
            nib.save(nib.Nifti1Image(turned, affine @ inv_ornt_aff(axes, array.shape)), path)
        conformed.append(_conformed(CaseRef("a", "a", paths[0], paths[1]), contract(spacing_mm=target), data()))
    np.testing.assert_array_equal(conformed[1].image, conformed[0].image)
    np.testing.assert_array_equal(conformed[1].label, conformed[0].label)
    np.testing.assert_allclose(conformed[1].affine, conformed[0].affine, atol=1e-4)


def test_there_are_48_orientations() -> None:
    assert len({axes.tobytes() for axes in ORIENTATIONS}) == 48


def test_at_its_own_spacing_a_scan_is_cropped_and_not_blurred(conform: Made) -> None:
    conformed, case = conform({"spacing_mm": 2.0, "size": (12, 16, 16)})
    volume = load_image(case)
    label = load_label(case, volume)
    start = np.rint(np.linalg.solve(volume.affine, conformed.affine[:, 3])[:3]).astype(int)
    i, j, k = (slice(first, first + length) for first, length in zip(start, conformed.image.shape, strict=True))
    np.testing.assert_array_equal(conformed.label, label[i, j, k])
    low, high = np.percentile(volume.array[label > 0], (0.5, 99.5))
    expected = np.clip((volume.array - low) / (high - low), 0, 1) * (label > 0)
    assert np.abs(conformed.image / 65535 - expected[i, j, k]).max() < 1e-3


@pytest.mark.parametrize("box", [((2, 9), (1, 10), (3, 14)), ((2, 8), (1, 9), (3, 13))])
def test_at_its_own_spacing_no_box_is_half_a_voxel_aside(box: Any) -> None:
    noise = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    step = grid_step(np.diag([2.0, 2, 2, 1]), (2.0,) * 3, box, (8, 8, 16))
    moved = resample(noise, step, (8, 8, 16))
    start = step[:3, 3].astype(int)
    assert (start == step[:3, 3]).all()
    inner = tuple(slice(max(0, -first), 6) for first in start)
    there = tuple(slice(max(0, first), 6 + first) for first in start)
    np.testing.assert_array_equal(moved[inner], noise[there])


def test_the_box_lies_in_the_middle_and_the_front_in_front(conform: Made, data: Made) -> None:
    conformed, case = conform()
    found = fingerprint_case(case, data())
    assert isinstance(found, CaseFingerprint)
    middle = conformed.affine[:3] @ [*((np.array(conformed.image.shape) - 1) / 2), 1]
    np.testing.assert_allclose(middle, found.centre_mm)
    unit = conformed.image.astype(float)
    assert unit[:, 4:].sum() > unit[:, :4].sum()  # the head is brighter in front and above
    assert set(np.unique(conformed.label[:4])) == {0, 1}
    assert set(np.unique(conformed.label[4:])) == {0, 2}


def test_outside_of_the_mask_all_is_zero(conform: Made, head: Made) -> None:
    loud = (head(5)[0].astype(np.int32) + 3000 * (head(5)[1] == 0)).astype(np.int16)
    conformed, _ = conform({"spacing_mm": 3.0, "size": (16, 16, 24)}, image=loud)
    assert (conformed.image[conformed.label == 0] == 0).all()
    assert np.median(conformed.image[conformed.label > 0]) > 10_000


def test_a_linear_ramp_stays_one_on_a_coarser_grid() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 40, 40)).copy()
    step = grid_step(np.eye(4), (2.5,) * 3, ((0, 40), (0, 40), (0, 40)), (8, 8, 8))
    expected = 19.5 + 2.5 * (np.arange(8) - 3.5)
    np.testing.assert_allclose(resample(ramp, step, (8, 8, 8))[:, 4, 4], expected, rtol=1e-5)


def test_fine_noise_is_averaged_away_and_not_picked_up() -> None:
    board = (np.indices((32, 32, 32)).sum(0) % 2).astype(np.float32)
    step = grid_step(np.eye(4), (4.0,) * 3, ((0, 32), (0, 32), (0, 32)), (4, 4, 4))
    assert np.abs(resample(board, step, (4, 4, 4)) - 0.5).max() < 0.01
    assert np.ptp(nearest(board, grid_step(np.eye(4), (3.0,) * 3, ((0, 32),) * 3, (4, 4, 4)), (4, 4, 4))) == 1


def test_beyond_the_scan_there_is_background(conform: Made) -> None:
    conformed, _ = conform({"size": (24, 24, 24)}, mask="none")
    assert conformed.image[0].max() == 0
    assert conformed.label[-1].max() == 0


def test_a_sheared_scan_lands_on_a_straight_grid(conform: Made) -> None:
    sheared = np.array([[2, 0, 0.3, 0], [0, 2, 0.4, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    conformed, _ = conform(affine=sheared)
    axes = conformed.affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, 16 * np.eye(3), atol=1e-4)


def test_ct_is_mapped_by_the_window_whatever_the_scan_holds(conform: Made, head: Made) -> None:
    window = IntensityMapping(modality="CT", low=-100, high=300, storage="uint16")
    changes = {"intensity": window, "spacing_mm": 2.0, "size": (12, 16, 16)}
    image = np.array([-1000, 100, 300], np.int16)[head(5)[1]]
    image[8, 10, 11] = 3000
    conformed, _ = conform(changes, image=image)
    assert set(np.unique(conformed.image)) == {0, 32768, 65535}


@pytest.mark.parametrize("spacing", [2.0, 3.0])
def test_restored_to_its_own_grid_a_scan_is_nearly_what_it_was(conform: Made, contract: Made, spacing: float) -> None:
    conformed, case = conform({"spacing_mm": spacing, "size": (16, 16, 24)}, image=_smooth())
    volume = load_image(case)
    label = load_label(case, volume)
    back, groups = restore(conformed.image, conformed.label, contract(), conformed.affine, volume)
    low, high = np.percentile(volume.array[label > 0], (0.5, 99.5))
    unit = np.clip((volume.array - low) / (high - low), 0, 1)
    inner = _eroded(label > 0)
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert np.abs(back.array / 400 - unit)[inner].mean() < 0.02
    assert groups is not None
    assert (groups == label)[inner].mean() > 0.93
    assert (back.array[0] == 0).all()


def _smooth() -> "np.ndarray[Any, np.dtype[np.float32]]":
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, length) for length in (16, 20, 24)), indexing="ij")
    return (100 + 40 * i + 30 * j + 20 * np.sin(2 * k)).astype(np.float32)


def _eroded(mask: "np.ndarray[Any, np.dtype[np.bool_]]") -> "np.ndarray[Any, np.dtype[np.bool_]]":
    from scipy import ndimage

    return np.asarray(ndimage.binary_erosion(mask, iterations=2))


def test_a_scan_that_changed_since_its_fingerprint_is_refused(
    conform: Made, contract: Made, data: Made, save: Made
) -> None:
    _, case = conform()
    found = fingerprint_case(case, data())
    assert isinstance(found, CaseFingerprint)
    save(case.image, load_image(case).array + 1)
    with pytest.raises(CaseRefused, match="changed since the fingerprint"):
        conform_case(case, found, contract(), data())


def test_restoring_keeps_the_meaning_of_zero(contract: Made) -> None:
    window = IntensityMapping(modality="CT", low=-1000, high=1000, storage="uint8")
    like = Volume(np.zeros((6, 6, 6), np.float32), np.diag([2.0, 2, 2, 1]))
    stored = np.full((4, 4, 4), 255, np.uint8)
    back, groups = restore(stored, None, contract(intensity=window, size=(4, 4, 4)), np.eye(4), like)
    assert groups is None
    assert back.array[0, 0, 0] == pytest.approx(1000, abs=400)  # smoothed over the rim
    assert back.array[5, 5, 5] == -1000
