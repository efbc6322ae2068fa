"""Verdicts, their rejections, and the reference that they rest on."""

from dataclasses import replace

import numpy as np
import pytest

from meddiff_core.errors import IntegrityError
from meddiff_core.evidence.duplicates import near_duplicates, smallest_distance
from meddiff_core.evidence.rejections import CONTRAST, COPY_SCORE, FINITE, FINITE_FEATURES, Rejection
from meddiff_core.evidence.screening.bounds import fit_reference, load_reference, save_reference, screen_volume
from meddiff_core.evidence.voxel_keys import voxel_key
from meddiff_core.study import ScreenConfig


@pytest.fixture(scope="module")
def fitted(make_heads, fit):
    train = make_heads(60, 0)
    return train, *fit(train, make_heads(20, 1), ScreenConfig())


@pytest.fixture(scope="module")
def verdicts(fitted, inspect):
    """Volumes to the verdict on each."""
    _, reference, arrays = fitted

    def screen(volumes):
        figures, features, keys = inspect(volumes)
        rows = zip(figures, features.values, keys, strict=True)
        return [screen_volume(*row, reference, arrays) for row in rows]

    return screen


def test_fresh_volumes_are_mostly_accepted(fitted, verdicts, make_heads, inspect):
    found = verdicts(make_heads(30, 5))
    assert sum(verdict.accepted for verdict in found) >= 24
    assert fitted[1].expected_rejections <= 0.2


def test_training_volume_is_a_suspected_copy_also_when_flipped(fitted, verdicts):
    train = fitted[0].take(slice(0, 4))
    mirrored = type(train)(train.images[:, ::-1], train.labels[:, ::-1])
    for verdict in [*verdicts(train), *verdicts(mirrored)]:
        assert not verdict.accepted
        assert (COPY_SCORE, "below") in [found.kind for found in verdict.rejections]


def test_a_rejection_names_measurement_value_bound_and_side(fitted, verdicts, make_heads, inspect):
    heads = make_heads(1, 7)
    missing = type(heads)(heads.images, np.minimum(heads.labels, 1))
    verdict = verdicts(missing)[0]
    name, low = "volume_mm3:core", fitted[1].bounds["volume_mm3:core"].low
    assert Rejection(measurement=name, value=0, bound=low, side="below") in verdict.rejections


def test_noise_blur_and_darkness_are_rejected(fitted, verdicts, make_heads, inspect):
    heads = make_heads(3, 8)
    noise = np.random.default_rng(0).integers(0, 255, heads.images.shape).astype(np.uint8)
    dark = np.rint(heads.images * 0.4).astype(np.uint8)
    for images in (noise, dark):
        found = verdicts(type(heads)(images, heads.labels))
        assert not any(verdict.accepted for verdict in found)


def test_broken_volumes_are_rejected_before_anything_is_compared(fitted, verdicts, make_heads, inspect):
    _, reference, arrays = fitted
    figures, features, keys = inspect(make_heads(1, 9))
    unknown, known = np.full_like(features.values[0], np.nan), features.values[0]
    cases = {
        FINITE: (figures[0] | {"finite": 0.0}, known),
        CONTRAST: (figures[0] | {"std": 0.0}, known),
        FINITE_FEATURES: (figures[0], unknown),
    }
    for name, (measured, values) in cases.items():
        verdict = screen_volume(measured, values, keys[0], reference, arrays)
        assert not verdict.accepted
        assert [found.measurement for found in verdict.rejections] == [name]


def test_a_measurement_that_is_missing_is_a_rejection(fitted, verdicts, make_heads, inspect):
    _, reference, arrays = fitted
    figures, features, keys = inspect(make_heads(1, 9))
    del figures[0]["p50"]
    verdict = screen_volume(figures[0], features.values[0], keys[0], reference, arrays)
    assert Rejection(measurement="p50", side="missing") in verdict.rejections


def test_reconstructions_widen_the_bounds(make_heads, inspect):
    train, validation = make_heads(30, 0), make_heads(10, 1)
    figures, features, keys = inspect(train)
    v = inspect(validation)
    smooth = [one | {"sharpness": one["sharpness"] * 0.5} for one in figures]
    far = replace(features, values=features.values * 1.5)
    narrow, _ = fit_reference(figures, v[0], features, v[1], keys[:, 0], v[2], ScreenConfig())
    wide, _ = fit_reference(figures + smooth, v[0], features, v[1], keys[:, 0], v[2], ScreenConfig(), far)
    assert wide.bounds["sharpness"].low < narrow.bounds["sharpness"].low
    assert wide.bounds["mean"].high == pytest.approx(narrow.bounds["mean"].high, rel=0.05)
    assert wide.largest_mahalanobis > narrow.largest_mahalanobis


def test_reference_comes_back_and_the_same_bytes_twice(fitted, tmp_path, make_heads):
    _, reference, arrays = fitted
    for name in ("one", "two"):
        save_reference(tmp_path / name, reference, arrays)
    loaded, loaded_arrays = load_reference(tmp_path / "one")
    assert loaded == reference
    for name in vars(arrays):
        np.testing.assert_array_equal(getattr(loaded_arrays, name), getattr(arrays, name))
    for file in ("reference.json", "arrays.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    (tmp_path / "one" / "arrays.safetensors").write_bytes(b"no tensors")
    with pytest.raises(IntegrityError):
        load_reference(tmp_path / "one")
    with pytest.raises(IntegrityError):
        load_reference(tmp_path / "absent")


def test_duplicates_are_dropped_but_the_first(make_heads, contract):
    train, cohort = make_heads(20, 0), make_heads(12, 1)
    images = cohort.images.copy()
    images[5], images[9], images[11] = images[2], images[2], images[7]
    keys = np.stack([voxel_key(image, contract) for image in images])
    train_keys = np.stack([voxel_key(image, contract) for image in train.images])
    threshold = smallest_distance(train_keys, train_keys.mean(0))
    for block in (1024, 4):
        dropped = near_duplicates(keys, train_keys.mean(0), threshold, block)
        assert {5, 9, 11} <= dropped
        assert 2 not in dropped
        assert 7 not in dropped
        assert len(dropped) <= 4


def test_two_scans_of_one_subject_do_not_set_the_distance_of_duplicates(make_heads, contract):
    train = make_heads(8, 0)
    images = np.concatenate([train.images, train.images[:1]])
    keys = np.stack([voxel_key(image, contract) for image in images])
    subjects = [f"s{i}" for i in range(8)] + ["s0"]
    assert smallest_distance(keys, keys.mean(0)) == pytest.approx(0, abs=1e-5)
    assert smallest_distance(keys, keys.mean(0), subjects) > 0.01
