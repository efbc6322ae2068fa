"""Volumes as networks of photographs see them: slices along three axes, their features averaged."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PLACES = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Of the slices along each axis, as shares of its length."""
SLICE_SIDE = 128
"""Pixels to which the longer side of a slice is brought."""
Scaling = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation of red, green and blue that a network was trained with, of values in [0, 1]."""


def slice_features(network: Callable[[Tensor], Tensor], images: Tensor, scaling: Scaling) -> Tensor:
    """(b, d): mean over five slices along each of the three axes of volumes (b, i, j, k) in [0, 1].

    `network` takes (n, 3, height, width) to (n, d).
    """
    planes = [network(photographs(images, axis, scaling)).unflatten(0, (len(images), -1)) for axis in (1, 2, 3)]
    return torch.stack(planes).mean((0, 2))


def photographs(images: Tensor, axis: int, scaling: Scaling) -> Tensor:
    """(b * 5, 3, height, width): grey slices along an axis of (b, i, j, k), scaled as the network expects."""
    at = [int(place * images.shape[axis]) for place in PLACES]
    slices = images.index_select(axis, torch.tensor(at, device=images.device)).movedim(axis, 1).flatten(0, 1)
    scale = SLICE_SIDE / max(slices.shape[1:])
    grown = functional.interpolate(slices[:, None], scale_factor=scale, mode="bilinear", align_corners=False)
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in scaling)
    return (grown - mean) / deviation
