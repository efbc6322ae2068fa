"""Features of volumes by networks of photographs: of slices along three axes, averaged."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from meddiff_core.models.imagenet import Scaling, photographs

PLACES = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Of the slices along each axis, as shares of its length."""


def slice_features(
    network: Callable[[Tensor], Tensor], images: Tensor, scaling: Scaling, spacing_mm: Sequence[float]
) -> Tensor:
    """(b, d): mean over five slices along each of the three axes of volumes (b, i, j, k) in [0, 1].

    `network` takes (n, 3, height, width) to (n, d).
    """
    planes = [
        network(photographs(images, axis, PLACES, scaling, spacing_mm)).unflatten(0, (len(images), -1))
        for axis in (1, 2, 3)
    ]
    return torch.stack(planes).mean((0, 2))
