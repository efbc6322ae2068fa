"""Stored voxels survive the way to network channels and back."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.models.images import label_values, load_images, to_images, to_stored, unit_image


@pytest.mark.parametrize("storage", ["uint8", "uint16"])
def test_every_stored_value_comes_back(make_contract: Callable[..., Contract], storage: str) -> None:
    mapping = IntensityMapping.model_validate({"modality": "MR", "low": 0, "high": 1, "storage": storage})
    contract = make_contract(intensity=mapping, labels={})
    values = np.arange(mapping.levels + 1).astype(storage).reshape(1, -1, 16, 16)
    stored, label = to_stored(to_images(values, None, contract), contract)
    assert label is None
    np.testing.assert_array_equal(stored, values)


def test_label_values_come_back(make_volumes: Callable, contract: Contract) -> None:
    volumes = make_volumes(3)
    stored, labels = to_stored(load_images(volumes, [2, 0], contract), contract)
    np.testing.assert_array_equal(labels, volumes.labels[[2, 0]])
    np.testing.assert_array_equal(stored, volumes.images[[2, 0]])


def test_the_image_spans_minus_one_to_one_and_labels_are_one_hot(contract: Contract) -> None:
    image = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1)
    label = np.array([0, 2], np.uint8).reshape(1, 2, 1, 1)
    channels = to_images(image, label, contract)
    assert_close(channels[0, :, :, 0, 0].T, torch.tensor([[-1.0, 1, 0, 0], [1.0, 0, 0, 1]]))


def test_what_a_network_overshoots_is_clipped() -> None:
    channels = torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 1, 3, 1, 1)
    assert unit_image(channels).flatten().tolist() == [0, 0.5, 1]


def test_the_most_likely_label_wins() -> None:
    channels = torch.tensor([9.0, 0.2, 0.5, 0.3]).reshape(1, 4, 1, 1, 1)
    assert label_values(channels).item() == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_are_refused_exactly_where_the_contract_has_none(
    make_contract: Callable[..., Contract], make_volumes: Callable, labelled: bool
) -> None:
    contract = make_contract(labels={} if labelled else {"left": (1,)})
    with pytest.raises(ValueError, match="label maps must be given"):
        load_images(make_volumes(1, labels=labelled), [0], contract)
