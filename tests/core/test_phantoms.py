"""Phantoms stand in for patients in every other test, so their anatomy has to obey the laws they are used for."""

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from meddiff_core.artefacts import digest_tree
from meddiff_core.errors import ConfigurationError
from meddiff_core.phantoms.cohort import write_phantoms
from meddiff_core.phantoms.scan import LABEL_GROUPS, Phantom, make_phantom

COARSE_MM = 6.0
SUBJECTS = 5


@pytest.fixture(scope="module")
def cohort() -> list[tuple[float, Phantom]]:
    """Twelve people from 20 to 86 years, in an order that has nothing to do with their seeds."""
    ages = [20.0 + 6 * ((5 * seed) % 12) for seed in range(12)]
    return [(age, make_phantom(seed, age, "FM"[seed % 2])) for seed, age in enumerate(ages)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("phantoms")
    assert [progress.done for progress in write_phantoms(target, SUBJECTS, spacing_mm=COARSE_MM)] == [1, 2, 3, 4, 5]
    return target


def volume_ml(phantom: Phantom, group: str) -> float:
    voxel_ml = abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
    return float(np.isin(phantom.label, LABEL_GROUPS[group]).sum() * voxel_ml)


def centroid_mm(phantom: Phantom, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(phantom.affine[:3, :3] @ np.argwhere(chosen).mean(0) + phantom.affine[:3, 3])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**53), st.floats(1, 119), st.sampled_from("MF"))
def test_any_person_is_whole(seed: int, age: float, sex: str) -> None:
    phantom = make_phantom(seed, age, sex, COARSE_MM)
    assert phantom.image.dtype == np.float32
    assert phantom.label.dtype == np.uint8
    assert np.isfinite(phantom.image).all()
    assert set(np.unique(phantom.label)) == {0, *(value for group in LABEL_GROUPS.values() for value in group)}
    for axis in range(3):  # the field of view cuts nothing off
        assert not np.take(phantom.image, [0, -1], axis).any()


def test_the_same_seed_is_the_same_person() -> None:
    first, second = make_phantom(3, 50.0, "F"), make_phantom(3, 50.0, "F")
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)


def test_people_differ_in_anatomy_and_not_only_in_noise(cohort: list[tuple[float, Phantom]]) -> None:
    labels = [phantom.label for _, phantom in cohort]
    agreement = [np.mean(a[a + b > 0] == b[a + b > 0]) for a in labels for b in labels if a is not b]
    assert max(agreement) < 0.9
    assert min(agreement) > 0.3  # and still are alike enough to be learned


def test_grid_follows_the_spacing() -> None:
    four, six = make_phantom(1, 40.0, "M", 4.0), make_phantom(1, 40.0, "M", COARSE_MM)
    assert four.image.shape == four.label.shape == (40, 48, 40)
    assert six.image.shape == (28, 32, 28)
    assert np.array_equal(np.diag(four.affine), [4, 4, 4, 1])
    for phantom in (four, six):
        middle = phantom.affine[:3, :3] @ ((np.array(phantom.image.shape) - 1) / 2) + phantom.affine[:3, 3]
        np.testing.assert_allclose(middle, [0, -17, 6], atol=1e-9)
    np.testing.assert_allclose(
        centroid_mm(four, four.image > 0), centroid_mm(six, six.image > 0), atol=1
    )  # same place in the world


def test_axes_point_right_anterior_superior(cohort: list[tuple[float, Phantom]]) -> None:
    _, phantom = cohort[0]
    assert nibabel.aff2axcodes(phantom.affine) == ("R", "A", "S")
    whole = centroid_mm(phantom, phantom.label > 0)
    hindbrain = centroid_mm(phantom, phantom.label == LABEL_GROUPS["cerebellum_brainstem"][0])
    assert hindbrain[1] < whole[1] - 15  # behind
    assert hindbrain[2] < whole[2] - 30  # below
    assert abs(hindbrain[0] - whole[0]) < 4


def test_left_and_right_are_alike_but_not_equal(cohort: list[tuple[float, Phantom]]) -> None:
    for _, phantom in cohort:
        left, right = phantom.label, phantom.label[::-1]
        either = (left > 0) | (right > 0)
        assert 0.4 < np.mean(left[either] == right[either]) < 0.95


def test_ventricles_grow_and_cortex_shrinks_with_age(cohort: list[tuple[float, Phantom]]) -> None:
    ages = [age for age, _ in cohort]
    brains = np.array([np.count_nonzero(phantom.image) for _, phantom in cohort])
    ventricles = np.array([volume_ml(phantom, "ventricles") for _, phantom in cohort]) / brains
    cortex = np.array([volume_ml(phantom, "cortex") for _, phantom in cohort]) / brains
    assert np.corrcoef(ages, ventricles)[0, 1] > 0.7
    assert np.corrcoef(ages, cortex)[0, 1] < -0.7


def test_the_same_person_only_ages() -> None:
    young, old = make_phantom(9, 25.0, "F"), make_phantom(9, 80.0, "F")
    assert volume_ml(old, "ventricles") > 1.5 * volume_ml(young, "ventricles")
    assert np.count_nonzero(old.image) == pytest.approx(np.count_nonzero(young.image), rel=0.01)


def test_a_man_is_larger_than_the_same_person_as_a_woman() -> None:
    man, woman = make_phantom(4, 50.0, "M"), make_phantom(4, 50.0, "F")
    assert np.count_nonzero(man.image) / np.count_nonzero(woman.image) == pytest.approx(1.08, abs=0.02)


def test_volumes_are_those_of_human_brains(cohort: list[tuple[float, Phantom]]) -> None:
    ranges = {"ventricles": (8, 80), "cortex": (350, 750), "white_matter": (350, 650), "deep_grey": (15, 45)}
    for _, phantom in cohort:
        for group, (low, high) in ranges.items():
            assert low < volume_ml(phantom, group) < high, group


def test_contrast_is_that_of_t1(cohort: list[tuple[float, Phantom]]) -> None:
    for _, phantom in cohort:
        fluid, cortex, white = (
            np.median(phantom.image[phantom.label == LABEL_GROUPS[group][0]])
            for group in ("ventricles", "cortex", "white_matter")
        )
        assert fluid < 0.75 * cortex
        assert cortex < 0.9 * white


@pytest.mark.parametrize(
    ("age", "sex", "spacing_mm"), [(float("nan"), "F", 4.0), (40.0, "X", 4.0), (40.0, "F", 0.0), (40.0, "F", 40.0)]
)
def test_what_cannot_be_drawn_is_refused(age: float, sex: str, spacing_mm: float) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        make_phantom(0, age, sex, spacing_mm)


def test_written_volumes_open_on_their_grid(folder: Path) -> None:
    for index in range(1, SUBJECTS + 1):
        image = nibabel.load(folder / "images" / f"phantom-{index:04d}.nii.gz")
        label = nibabel.load(folder / "labels" / f"phantom-{index:04d}.nii.gz")
        assert image.shape == label.shape
        assert np.array_equal(image.affine, label.affine)
        assert image.header.get_zooms() == pytest.approx((COARSE_MM,) * 3)
        assert np.asarray(image.dataobj)[np.asarray(label.dataobj) > 0].min() > 0


def test_the_table_has_the_gaps_of_practice(folder: Path) -> None:
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert list(table.columns) == ["participant_id", "age", "sex"]
    images = {path.name.removesuffix(".nii.gz") for path in (folder / "images").iterdir()}
    assert images - set(table.participant_id) == {"phantom-0004"}
    assert table.age.isna().sum() == 1
    assert table.sex.isin(["F", "M"]).all()


def volumes_of(folder: Path) -> dict[str, str]:
    """Digest of every image and label map, by its path."""
    return {name: digest for name, digest in digest_tree(folder).items() if name.endswith(".nii.gz")}


def test_same_seed_same_bytes_and_a_subject_does_not_depend_on_the_others(folder: Path, tmp_path: Path) -> None:
    list(write_phantoms(tmp_path, 2, spacing_mm=COARSE_MM))
    again = volumes_of(tmp_path)
    assert len(again) == 4
    assert again.items() <= volumes_of(folder).items()


def test_another_seed_is_another_cohort(folder: Path, tmp_path: Path) -> None:
    list(write_phantoms(tmp_path, 1, seed=1, spacing_mm=COARSE_MM))
    assert not set(volumes_of(tmp_path).values()) & set(volumes_of(folder).values())


def test_an_empty_cohort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="subjects must be >= 1"):
        next(write_phantoms(tmp_path, 0))
