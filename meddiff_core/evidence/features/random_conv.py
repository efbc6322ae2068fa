"""Features of a fixed, random, strided 3D network: they need no download and no training.

Naeem et al. 2020 find such features usable away from photographs.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.models.images import load_images
from meddiff_core.types import FloatArray, Volumes


class RandomConvFeatures:
    """Mean and standard deviation over space of every layer of a fixed, random, strided 3D CNN.

    There is no normalisation per volume: it would hide a shift of intensity.
    """

    name = "random-conv"

    def __init__(self, contract: Contract, seed: int = 0, width: int = 16, device: str = "cpu") -> None:
        self.contract = contract
        self._made_from = (contract, seed, width, device)
        self.weights = [weight.to(device) for weight in _random_weights(contract.channels, width, seed)]
        self.digest = _digest_of_weights(self.weights)

    def __reduce__(self) -> tuple[type["RandomConvFeatures"], tuple[Contract, int, int, str]]:
        """To other processes it travels as its seed."""
        return RandomConvFeatures, self._made_from

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 30 width): mean and standard deviation per channel, layer after layer."""
        hidden = load_images(volumes, indices, self.contract).to(self.weights[0].device)
        pooled = []
        for weight in self.weights:
            hidden = functional.leaky_relu(functional.conv3d(hidden, weight, stride=2, padding=1), 0.2)
            space = hidden.flatten(2)
            pooled += [space.mean(2), space.std(2, correction=0)]
        return torch.cat(pooled, 1).float().cpu().numpy()


def _random_weights(channels: int, width: int, seed: int) -> list[Tensor]:
    """He-initialised kernels (out, in, 3, 3, 3) of four layers, each twice as wide as the one before."""
    generator = torch.Generator().manual_seed(seed)
    widths = [channels, width, 2 * width, 4 * width, 8 * width]
    shapes = [(wide, narrow, 3, 3, 3) for narrow, wide in pairwise(widths)]
    return [torch.randn(shape, generator=generator) * (2 / (27 * shape[1])) ** 0.5 for shape in shapes]


def _digest_of_weights(weights: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(b"random-conv 1")
    for weight in weights:
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()
