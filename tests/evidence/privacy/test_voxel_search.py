"""Looking for copies in voxels: whole, and by halves."""

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.evidence.neighbours import nearest_voxels
from meddiff_core.evidence.privacy.voxel_search import HALVES, STRONG_SMOOTHING, WHOLE, fit_search, match_voxels
from meddiff_core.evidence.voxel_keys import (
    key_grid,
    keys_of,
    lifted_keys_of,
    smoothed_keys_of,
    voxel_key,
    voxel_keys,
)


@pytest.fixture(scope="module")
def train(make_heads):
    return make_heads(30, 0)


@pytest.fixture(scope="module")
def search(train, contract):
    return fit_search(np.stack([voxel_key(image, contract) for image in train.images]), contract)


@pytest.mark.parametrize("size", [(24, 24, 24), (16, 16, 16), (40, 48, 40), (130, 96, 70), (9, 20, 33)])
def test_grid_of_a_key_is_what_the_key_holds(contract, size):
    case = contract.model_copy(update={"size": size})
    image = np.random.default_rng(0).integers(0, 255, size).astype(np.uint8)
    assert np.prod(key_grid(case)) == len(voxel_key(image, case))


def test_whole_volumes_are_compared_as_by_keys(train, search, contract, make_heads):
    keys = np.stack([voxel_keys(image, contract) for image in make_heads(6, 1).images])
    reference = np.stack([voxel_key(image, contract) for image in train.images])
    expected = nearest_voxels(keys, reference, reference.mean(0))
    found = search(keys)[WHOLE]
    np.testing.assert_allclose(found.distance, expected.distance, atol=1e-5)
    np.testing.assert_array_equal(found.index, expected.index)


@pytest.mark.parametrize(("axis", "names"), [(0, ("left", "right")), (1, ("back", "front")), (2, ("lower", "upper"))])
def test_each_half_finds_what_was_copied_there_and_the_whole_does_not(search, train, contract, make_heads, axis, names):
    fresh = make_heads(4, 1).images
    for side, name in enumerate(names):
        mixed = fresh.copy()
        half = [slice(None)] * 4
        half[axis + 1] = slice(0, 12) if side == 0 else slice(12, None)
        mixed[tuple(half)] = train.images[7:11][tuple(half)]
        found = search(np.stack([voxel_keys(image, contract) for image in mixed]))
        np.testing.assert_array_equal(found[name].index, [7, 8, 9, 10])
        assert found[name].score.max() < 0.2
        assert (found[WHOLE].score > 2 * found[name].score + 0.2).all()


def test_flipped_half_is_found_on_the_other_side(search, train, contract, make_heads):
    mixed = make_heads(1, 1).images[0].copy()
    mixed[:12] = train.images[5][::-1][:12]
    found = search(voxel_keys(mixed, contract)[None])
    assert found["right"].index == 5
    assert found["right"].score < 0.2


def test_training_volumes_do_not_meet_their_own_subject(contract, train):
    keys = np.stack([voxel_key(image, contract) for image in train.images])
    subjects = [f"s{row // 2}" for row in range(30)]
    found = fit_search(keys, contract, subjects).among_themselves(keys, block=7)
    assert set(found) == {WHOLE, *HALVES}
    for view in found.values():
        assert all(row // 2 != other // 2 for row, other in enumerate(view.index))


def test_matching_does_not_depend_on_the_batch(search, contract, make_heads, finish):
    heads = make_heads(7, 3)
    one, other = (finish(match_voxels(heads, contract, search, batch)) for batch in (2, 7))
    for name in one:
        np.testing.assert_allclose(one[name].score, other[name].score, rtol=1e-4, atol=1e-5)


def test_smoothing_does_not_hide_a_copy_where_heads_differ_little(train, contract):
    heads = train.images.astype(np.float32)
    alike = heads.mean(0) + (heads - heads.mean(0)) / 8
    originals, copies = (
        type(train)(np.rint(images).astype(np.uint8), train.labels)
        for images in (alike, ndimage.gaussian_filter(alike, (0, 0.7, 0.7, 0.7)))
    )
    keys, queries = keys_of(originals, contract), keys_of(copies, contract)[:, None]
    blind = fit_search(keys, contract)(queries)
    found = fit_search(keys, contract, changed=[smoothed_keys_of(originals, contract)])(queries)
    for name in (WHOLE, *HALVES):
        np.testing.assert_array_equal(found[name].index, np.arange(30))
        assert found[name].score.max() < 0.4 < np.median(blind[name].score)


def test_a_copy_whose_foreground_was_lifted_off_the_background_is_found(train, contract):
    """Percentiles of a blurred scan include its soft edge, so that the same head comes out brighter and flatter."""
    heads = train.images.astype(np.float32)
    alike = np.where(heads > 0, heads.mean(0) + (heads - heads.mean(0)) / 8, 0)
    originals, copies = (
        type(train)(np.rint(images).astype(np.uint8), train.labels)
        for images in (alike, np.where(alike > 0.5, 110 + alike / 2.4, 0))
    )
    keys, queries = keys_of(originals, contract), keys_of(copies, contract)[:, None]
    blind = fit_search(keys, contract)(queries)[WHOLE]
    found = fit_search(keys, contract, changed=[lifted_keys_of(originals, contract)])(queries)[WHOLE]
    np.testing.assert_array_equal(found.index, np.arange(30))
    assert np.median(found.score) < 0.5 * np.median(blind.score)


def test_a_strongly_blurred_copy_is_nearer_in_smoothed_voxels_than_a_fresh_head(train, contract, make_heads):
    def scores(volumes, smoothing):
        keys = smoothed_keys_of(train, contract, smoothing)
        found = fit_search(keys, contract).find_whole(smoothed_keys_of(volumes, contract, smoothing)[:, None])
        return float(np.median(found.score))

    blurred = ndimage.gaussian_filter(train.images.astype(np.float32), (0, 1.5, 1.5, 1.5))
    copies, fresh = type(train)(np.rint(blurred).astype(np.uint8), train.labels), make_heads(12, 1)
    ratios = [scores(copies, smoothing) / scores(fresh, smoothing) for smoothing in (STRONG_SMOOTHING, 0.0)]
    assert ratios[0] < 0.8 * ratios[1]
