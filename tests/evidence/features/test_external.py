"""Weights that the user brings."""

import pytest
import torch
from safetensors.torch import save_file

from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.features.external import _DECLARED, ExternalFeatures, load_network, named_as_here
from meddiff_core.evidence.features.records import extract
from meddiff_core.study import AuditConfig

PROJECTIONS = {"layer2.0.downsample.0.weight": torch.zeros(1)}
"""A name that tells networks with projected shortcuts."""


@pytest.fixture(scope="module")
def resnet10():
    torch.manual_seed(0)
    return _DECLARED["resnet10"].build(PROJECTIONS).state_dict()


def test_weights_come_from_both_formats_under_any_wrapper(resnet10, tmp_path, contract, make_heads, finish):
    heads = make_heads(2, 0)
    save_file(resnet10, tmp_path / "plain.safetensors")
    wrapped = {f"module.{name}": tensor for name, tensor in resnet10.items()}
    torch.save({"state_dict": wrapped | {"module.conv_seg.0.weight": torch.ones(2)}}, tmp_path / "medicalnet.pth")
    one, other = (
        finish(extract(ExternalFeatures(tmp_path / name, "resnet10", contract), heads))
        for name in ("plain.safetensors", "medicalnet.pth")
    )
    assert one.values.shape == (2, 512)
    torch.testing.assert_close(torch.from_numpy(one.values), torch.from_numpy(other.values))
    assert one.digest != other.digest  # of the file, which is what a reader can check


def test_weights_of_another_network_are_refused_with_what_differs(resnet10, tmp_path):
    save_file(resnet10, tmp_path / "ten.safetensors")
    with pytest.raises(ConfigurationError, match=r"ten.safetensors: must be the weights of a resnet18; lacks \d+"):
        load_network(tmp_path / "ten.safetensors", "resnet18")


def test_file_that_holds_code_is_refused(tmp_path):
    torch.save({"network": torch.nn.Linear(1, 1)}, tmp_path / "model.pt")
    with pytest.raises(ConfigurationError, match="which reading would run"):
        load_network(tmp_path / "model.pt", "resnet10")


def test_missing_file_and_unknown_network_are_refused(tmp_path, contract):
    with pytest.raises(ConfigurationError, match="must be a file of weights"):
        ExternalFeatures(tmp_path / "none.pth", "resnet10", contract)


def test_numbered_names_of_radimagenet_are_those_of_a_resnet50():
    with torch.device("meta"):
        expected = _DECLARED["resnet50"].build(PROJECTIONS).state_dict()
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    numbered = {
        f"backbone.{numbers[name.split('.')[0]]}.{name.split('.', 1)[1]}": tensor for name, tensor in expected.items()
    }
    found = named_as_here(numbered | {"fc.weight": torch.zeros(1)})
    assert found.keys() == expected.keys()
    assert expected["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert expected["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)


def test_weights_are_named_for_networks_of_ones_own_alone():
    with pytest.raises(ValueError, match="extractor_weights must be given for resnet10"):
        AuditConfig(extractor="resnet10")
    for extractor in ("efficientnet-lite0", None):
        with pytest.raises(ValueError, match="for an extractor of resnet10, resnet18, resnet50 alone"):
            AuditConfig(extractor=extractor, extractor_weights="a.pth")
    assert AuditConfig(extractor="resnet10", extractor_weights="a.pth").extractor == "resnet10"
