"""The network and its figure."""

import numpy as np
import pytest
import torch

from meddiff_core.evidence.selection import Selection
from meddiff_core.evidence.utility.segmentation import (
    LARGEST_PATCH,
    Recipe,
    build_network,
    dice_scores,
    most_common_labels,
    train_segmenter,
)


def test_dice_agrees_with_monai():
    from monai.metrics.meandice import compute_dice

    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 3, (2, 6, 6, 6)).astype(np.uint8)
    channels = [
        torch.nn.functional.one_hot(torch.from_numpy(one).long(), 3).movedim(-1, 0)[None] for one in (predicted, truth)
    ]
    expected = compute_dice(*channels, include_background=False)[0].numpy()
    np.testing.assert_allclose(dice_scores(predicted, truth, 2), expected, atol=1e-6)


def test_dice_of_equal_maps_is_one_and_of_what_is_not_there_is_undefined():
    label = np.array([[[0, 1, 1]]], np.uint8)
    np.testing.assert_array_equal(dice_scores(label, label, 2), [1, np.nan])
    np.testing.assert_array_equal(dice_scores(np.zeros_like(label), label, 2), [0, np.nan])


@pytest.mark.parametrize("size", [(16, 16, 16), (9, 21, 18), (LARGEST_PATCH + 3, 8, 8)])
def test_any_grid_can_be_learned_and_segmented(make_scans, scan_contract, finish, size):
    rng = np.random.default_rng(0)
    scans = make_scans(2, 0)
    scans = type(scans)(
        rng.integers(0, 255, (2, *size)).astype(np.uint8), rng.integers(0, 3, (2, *size)).astype(np.uint8), []
    )
    segmenter = finish(train_segmenter("x", scans, scan_contract, Recipe(2, mirror=True), 0))
    found = segmenter(scans.images[0])
    assert found.shape == size
    assert found.max() <= 2


def test_network_has_the_stated_size_and_another_seed_gives_another(scan_contract):
    six = scan_contract.model_copy(update={"labels": {str(value): (value,) for value in range(1, 6)}})
    assert sum(weight.numel() for weight in build_network(six, 0).parameters()) == 323_804
    first, again, other = (next(build_network(six, seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_a_network_leaves_the_random_state_alone(scan_contract):
    before = torch.random.get_rng_state()
    build_network(scan_contract, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_most_common_label_of_each_voxel(make_scans):
    scans = make_scans(3, 0)
    labels = np.array([[[[0, 1, 2]]], [[[0, 1, 1]]], [[[2, 2, 2]]]], np.uint8)
    scans = type(scans)(labels, labels, [])
    np.testing.assert_array_equal(most_common_labels(scans, 2), [[[0, 1, 2]]])


def test_pairs_without_label_maps_are_refused(make_scans, scan_contract, finish):
    scans = make_scans(2, 0)
    bare = type(scans)(scans.images, None, [])
    with pytest.raises(ValueError, match="needs label maps"):
        finish(train_segmenter("x", bare, scan_contract, Recipe(1), 0))


def test_selection_keeps_order_and_sources(make_scans):
    one, two = make_scans(3, 0), make_scans(3, 1)
    chosen = Selection([(two, 1), (one, 2)])
    np.testing.assert_array_equal(chosen.image(0), two.images[1])
    np.testing.assert_array_equal(chosen.label(1), one.labels[2])
