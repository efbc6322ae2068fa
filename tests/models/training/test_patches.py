"""Crops lie inside, on the latents' grid, and mostly on the subject."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddiff_core.contract import Contract
from meddiff_core.models.images import load_images
from meddiff_core.models.training.patches import load_patches, place_patch, random_places

IMAGE = np.zeros((24, 32, 16), np.uint8)
SIZE = (8, 16, 16)
numbers = st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5)


@given(numbers=numbers, corner=st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 3)))
def test_every_crop_is_whole_and_on_the_grid(numbers: list[float], corner: tuple[int, int, int]) -> None:
    label = np.zeros_like(IMAGE)
    label[tuple(4 * place for place in corner)] = 1
    box = place_patch(IMAGE, label, SIZE, (4, 4, 4), numbers)
    assert IMAGE[box].shape == SIZE
    assert all(part.start % 4 == 0 for part in box)
    if numbers[0] < 0.5:
        assert label[box].any()


def test_a_crop_starts_on_any_slice_of_an_axis_that_is_not_halved() -> None:
    numbers = random_places(200, torch.Generator().manual_seed(0)).tolist()
    boxes = [place_patch(IMAGE, IMAGE, (8, 16, 8), (4, 4, 1), row) for row in numbers]
    assert {box[0].start % 4 for box in boxes} == {0}
    assert {box[2].start for box in boxes} == set(range(IMAGE.shape[2] - 8 + 1))


def test_without_a_subject_a_crop_lies_anywhere() -> None:
    numbers = random_places(200, torch.Generator().manual_seed(0)).tolist()
    starts = {tuple(part.start for part in place_patch(IMAGE, IMAGE, SIZE, (4, 4, 4), row)) for row in numbers}
    assert starts == {(i, j, 0) for i in (0, 4, 8, 12, 16) for j in (0, 4, 8, 12, 16)}


def test_without_labels_the_subject_is_what_is_bright() -> None:
    image = IMAGE.copy()
    image[20:, 28:, :] = 200
    box = place_patch(image, None, SIZE, (4, 4, 4), [0.0, 0.5, 0.0, 0.0, 0.0])
    assert image[box].any()


def test_a_crop_of_the_whole_is_the_volume(make_volumes: Callable, contract: Contract) -> None:
    volumes = make_volumes(3)
    numbers = random_places(2, torch.Generator().manual_seed(0))
    found = load_patches(volumes, [2, 0], contract, (16, 16, 16), (4, 4, 4), numbers)
    assert torch.equal(found, load_images(volumes, [2, 0], contract))


def test_image_and_label_map_are_cut_alike(make_volumes: Callable, contract: Contract) -> None:
    volumes = make_volumes(1)
    numbers = random_places(1, torch.Generator().manual_seed(3))
    found = load_patches(volumes, [0], contract, (8, 8, 8), (4, 4, 4), numbers)
    box = place_patch(volumes.image(0), volumes.label(0), (8, 8, 8), (4, 4, 4), numbers[0].tolist())
    assert torch.equal(found, load_images(volumes, [0], contract)[(slice(None), slice(None), *box)])
