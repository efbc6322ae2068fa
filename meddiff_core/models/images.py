"""Stored voxels to network channels and back.

The autoencoder sees the image in [-1, 1] and one channel per label value; this is the only place that
knows it, so that training, latents, decoding and features can never disagree.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.types import Images, LabelArray, StoredArray, Volumes


def load_images(volumes: Volumes, indices: Sequence[int], contract: Contract) -> Images:
    """Some volumes as channels."""
    labels = [label for index in indices if (label := volumes.label(index)) is not None]
    images = np.stack([volumes.image(index) for index in indices])
    return to_images(images, np.stack(labels) if labels else None, contract)


def to_images(images: StoredArray, labels: LabelArray | None, contract: Contract) -> Images:
    """Stored images (b, i, j, k) and label values (b, i, j, k) as channels, in float32.

    Raises:
        ValueError: the contract has labels and none came, or the other way round.
    """
    if (labels is None) == bool(contract.labels):
        raise ValueError(f"label maps must be given for groups {list(contract.labels)}, got {labels is not None}")
    channels = [torch.from_numpy(contract.intensity.unit(images) * 2 - 1).unsqueeze(1)]
    if labels is not None:
        one_hot = functional.one_hot(torch.from_numpy(labels).long(), contract.channels - 1)
        channels.append(one_hot.movedim(-1, 1).float())
    return torch.cat(channels, dim=1)


def unit_image(images: Images) -> Float[Tensor, "b i j k"]:
    """Channel 0 from [-1, 1] to [0, 1], clipped."""
    return ((images[:, 0].float() + 1) / 2).clamp(0, 1)


def label_values(images: Images) -> UInt8[Tensor, "b i j k"]:
    """The most likely label value of each voxel."""
    return images[:, 1:].argmax(dim=1).to(torch.uint8)


def to_stored(images: Images, contract: Contract) -> tuple[StoredArray, LabelArray | None]:
    """Channels back to stored integers, and to label values where the study has labels."""
    stored = contract.intensity.store(unit_image(images).cpu().numpy())
    if not contract.labels:
        return stored, None
    return stored, label_values(images).cpu().numpy()
