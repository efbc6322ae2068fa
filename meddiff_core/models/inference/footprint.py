"""How much memory decoding takes, estimated from the network's widths before anything is decoded.

A worker that finds out by trying is killed by the system without a message.
"""

import math

import torch

from meddiff_core.models.autoencoder import Autoencoder

AMPLE_BYTES = 2**30
"""Memory that any machine can spare to decode one volume, beside its other workers."""


def needs_tiles(autoencoder: Autoencoder, size: tuple[int, int, int], batch: int, device: str) -> bool:
    """Whether volumes of a size are to be decoded in tiles.

    It depends on nothing that changes while a cohort is sampled, such as free memory: a sample is computed in the same
    way at any time and beside any other work.
    """
    cpu = device == "cpu"
    limit = AMPLE_BYTES if cpu else torch.cuda.get_device_properties(device).total_memory // 2
    return untiled_bytes(autoencoder, size, 1 if cpu else batch) > limit


def untiled_bytes(autoencoder: Autoencoder, size: tuple[int, int, int], batch: int = 1) -> int:
    """Largest sum of activations that `autoencoder.decode` holds at one time, for float32 volumes (i, j, k)."""
    shape, voxels = autoencoder.shape, math.prod(size)
    most = 3 * shape.in_channels * voxels  # logits, probabilities, and both together with the image
    given, strides = shape.channels[-1], [(1, 1, 1), *shape.level_strides]
    for level, channels in reversed(list(enumerate(shape.channels))):
        here = voxels // math.prod(map(math.prod, strides[: level + 1]))
        most = max(most, here * _residual_values(given, channels), here * _residual_values(channels, channels))
        if level:
            most = max(
                most, here * channels * (1 + 2 * math.prod(strides[level]))
            )  # input, upsampled, and before interleaving
        given = channels
    return 4 * batch * most


def _residual_values(given: int, channels: int) -> int:
    """Per voxel: input, normed and activated; later input, inner result, shortcut and their sum."""
    return max(3 * given, given + 3 * channels)
