"""Features by the user's own pretrained network: MedicalNet, RadImageNet, or ImageNet, from a file of weights.

The architecture is declared here and the file holds tensors alone: a scripted model would run whatever its author
liked. Intensities are scaled alike for all volumes; scaling each by itself would hide a shift of intensity.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.contract import Contract, Spacing
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.features.slices import PLACES, slice_features
from meddiff_core.models.checkpoint import Tensors
from meddiff_core.models.imagenet import SLICE_SIDE
from meddiff_core.models.images import load_images, unit_image
from meddiff_core.models.imported.weights import read_weights
from meddiff_core.study import OwnNetwork
from meddiff_core.types import FloatArray, Volumes

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per channel that networks of photographs expect, and RadImageNet's too."""
_HEADS = re.compile(r"(module\.)?(fc|conv_seg|classifier)\.")
_PARTS = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
"""What RadImageNet's files call `backbone.N`, by its name in the network."""


class ExternalFeatures:
    """Globally averaged last level of a network whose weights the user brings.

    `resnet10` and `resnet18` are 3D (MedicalNet); `resnet50` is 2D and sees five slices along each axis.
    """

    def __init__(self, weights: Path, architecture: OwnNetwork, contract: Contract, device: str = "cpu") -> None:
        """Weights are read when they are first needed, so that this travels to other processes as a path.

        Raises:
            ConfigurationError: there is no such file, or no such architecture.
        """
        if architecture not in _DECLARED:
            raise ConfigurationError(f"audit.extractor must be one of {', '.join(_DECLARED)}, is {architecture!r}")
        if not weights.is_file():
            raise ConfigurationError(f"audit.extractor_weights must be a file of weights, {weights} is none")
        self.name = architecture
        self.contract = contract
        self._source = (weights, digest_file(weights), architecture, device)
        settings = [PLACES, SLICE_SIDE, IMAGENET] if architecture == "resnet50" else []
        self.digest = digest_of(
            {"external": 1, "architecture": architecture, "weights": self._source[1], "at": settings}
        )

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 512), or (n, 2048) of `resnet50`."""
        network = _opened(*self._source)
        images = unit_image(load_images(volumes, indices, self.contract)).to(self._source[-1])
        return _DECLARED[self.name].features(network, images, self.contract.spacing_mm).float().cpu().numpy()


@lru_cache(maxsize=2)
def _opened(path: Path, digest: str, architecture: OwnNetwork, device: str) -> nn.Module:
    """One network per process and file; the digest tells an altered file from the one before."""
    return load_network(path, architecture).to(device)


def load_network(path: Path, architecture: OwnNetwork) -> nn.Module:
    """A network with the weights of a safetensors or torch file, without its classifier.

    Raises:
        ConfigurationError: the file holds code, or weights of another network.
    """
    given = named_as_here(read_weights(path))
    network = _DECLARED[architecture].build(given)
    expected = network.state_dict()
    counters = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    _refuse_others(counters | given, expected, f"{path.name}: must be the weights of a {architecture}")
    network.load_state_dict(counters | given)
    return network.eval()


def _refuse_others(given: Tensors, expected: Tensors, what: str) -> None:
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    misfits = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    if problems := [*missing, *unknown, *misfits]:
        counts = f"lacks {len(missing)}, holds {len(unknown)} unknown and {len(misfits)} of another shape"
        raise ConfigurationError(f"{what}; {counts}: {', '.join(problems[:3])}")


def named_as_here(tensors: Mapping[str, Tensor]) -> Tensors:
    """Weights under the names of the network: without classifier, and RadImageNet's numbers as names."""
    return {_named(name): tensor for name, tensor in tensors.items() if not _HEADS.match(name)}


def _named(name: str) -> str:
    found = re.match(r"backbone\.(\d)\.(.+)", name)
    return f"{_PARTS.get(int(found[1]), found[1])}.{found[2]}" if found else name


@dataclass(frozen=True)
class _Declared:
    """A network of MONAI's."""

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, int, int, int]
    dimensions: Literal[2, 3]

    def build(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Untrained; of the weights only the kind of its shortcuts is read."""
        from monai.networks.nets.resnet import ResNet

        projected = [name for name in weights if ".downsample." in name]
        return ResNet(
            self.block,
            list(self.layers),
            [64, 128, 256, 512],
            spatial_dims=self.dimensions,
            n_input_channels=1 if self.dimensions == 3 else 3,
            conv1_t_size=7,
            conv1_t_stride=2,
            shortcut_type="B" if projected else "A",
            bias_downsample=any(name.endswith(".downsample.0.bias") for name in projected),
            feed_forward=False,
        )

    def features(self, network: nn.Module, images: Tensor, spacing_mm: Spacing) -> Tensor:
        """(b, d) of volumes (b, i, j, k) in [0, 1]; in 3D seen with about mean 0 and standard deviation 1."""
        if self.dimensions == 2:
            return slice_features(network, images, IMAGENET, spacing_mm)
        found: Tensor = network(((images - 0.5) / 0.25)[:, None])
        return found


_DECLARED = {
    "resnet10": _Declared("basic", (1, 1, 1, 1), 3),
    "resnet18": _Declared("basic", (2, 2, 2, 2), 3),
    "resnet50": _Declared("bottleneck", (3, 4, 6, 3), 2),
}
