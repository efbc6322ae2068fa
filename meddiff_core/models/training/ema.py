"""A moving average of weights whose length grows with training.

An average of fixed length is either too short at the end or still holds the first random weights after a short
training; one whose width is a share of the steps done is neither.
"""

import copy
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class PowerAverage(Generic[Network]):
    """Average of weights with a power function profile of relative standard deviation `std` (Karras et al. 2024)."""

    def __init__(self, network: Network, std: float) -> None:
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)
        self.exponent = _exponent(std)

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Take in the weights after step `step`, counted from 1."""
        keep = (1 - 1 / step) ** (self.exponent + 1)
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - keep)
        for kept, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)


def _exponent(std: float) -> float:
    """The power g whose profile t^g has a relative standard deviation of `std`, at most 0.28.

    std^2 = (g + 1) / ((g + 2)^2 (g + 3)), whose largest root is the one that falls with g (Karras et al. 2024).
    """
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
