"""Features of an ImageNet network that a package carries, so that none is downloaded when a study runs."""

from collections.abc import Sequence

import torch

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.contract import Contract
from meddiff_core.evidence.features.slices import PLACES, slice_features
from meddiff_core.models.imagenet import NAME, SCALING, SLICE_SIDE, imagenet_network, imagenet_weights
from meddiff_core.models.images import load_images, unit_image
from meddiff_core.types import FloatArray, Volumes


class ImageNetFeatures:
    """Globally averaged last level of EfficientNet-Lite0, over five slices along each axis.

    It has seen photographs and no scan: its distances rank cohorts of one study, and are no scale between studies.
    """

    name = NAME

    def __init__(self, contract: Contract, device: str = "cpu") -> None:
        """Raises ConfigurationError: the packages are not installed."""
        self.contract, self._device = contract, device
        self.digest = digest_of({"imagenet": 1, "weights": digest_file(imagenet_weights()), "at": [PLACES, SLICE_SIDE]})

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 1280)."""
        network = imagenet_network(self._device)
        images = unit_image(load_images(volumes, indices, self.contract)).to(self._device)
        spacing = self.contract.spacing_mm
        found = slice_features(lambda slices: network.extract_features(slices).mean((2, 3)), images, SCALING, spacing)
        return found.float().cpu().numpy()
