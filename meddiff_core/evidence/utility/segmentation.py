"""A small U-Net from images to label maps, trained for a fixed number of steps.

It is the yardstick of usefulness, not a product: the same network, steps and seeds for every set of volumes, so
that a difference between two trainings can only come from what they were shown.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.contract import Contract
from meddiff_core.data.grid import Stride, level_strides
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.dice import dice
from meddiff_core.models.images import to_images
from meddiff_core.models.randomness import batch_indices, derive_seed, generator_for
from meddiff_core.models.training.loop import deterministic, learning_rate_factor, set_learning_rate
from meddiff_core.types import Images, LabelArray, Progress, StoredArray, Volumes

CHANNELS = (16, 32, 64, 64)
"""Widths of the U-Net; 324,000 weights with 6 label values. Its first layer halves the grid, which keeps it fast."""
COARSEST_SIDE = 2
"""Voxels along each axis at the coarsest level, of fewer of which instance norm might see a single one."""
LARGEST_PATCH = 48
"""Voxels along each axis of a training item; larger volumes are cropped at random, so that a step costs no more."""
WEIGHT_DECAY = 1e-4
GAMMA, CONTRAST, NOISE = 0.15, 0.1, 0.02
"""Standard deviations of the intensity jitter: ln of the exponent, factor, additive noise, intensities in [0, 1]."""
REPORT_EVERY = 20
"""Steps."""

Targets = Float[Tensor, "b n i j k"]
"""One channel per label value."""


@dataclass(frozen=True)
class Recipe:
    """How every segmentation network of an audit is trained."""

    steps: int
    batch: int = 2
    learning_rate: float = 2e-2
    """Peak of AdamW."""
    mirror: bool = False
    """Whether training items may be mirrored left to right."""


class Segmenter:
    """A trained network: volumes to label maps."""

    def __init__(self, network: nn.Module, contract: Contract, device: str) -> None:
        self.network, self.contract, self.device = network.eval(), contract, device

    @torch.no_grad()
    def __call__(self, image: StoredArray) -> LabelArray:
        """Most likely label values (i, j, k) of one stored image (i, j, k)."""
        unit = torch.from_numpy(self.contract.intensity.unit(image))[None, None]
        logits = _logits(self.network, (2 * unit - 1).to(self.device), self.contract)
        return logits[0].argmax(0).to(torch.uint8).cpu().numpy()


def train_segmenter(
    label: str, pairs: Volumes, contract: Contract, recipe: Recipe, seed: int, device: str = "cpu"
) -> Generator[Progress, None, Segmenter]:
    """Train on images and label maps with Dice and cross-entropy loss; `label` says which training on the way.

    A pure function of its arguments: weights, order, crops and jitter are all derived from `seed`.
    """
    keep_freed_memory()
    network = build_network(contract, seed).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    loss = _dice_and_cross_entropy()
    with deterministic(True):
        for step in range(recipe.steps):
            set_learning_rate(optimizer, recipe.learning_rate * learning_rate_factor(step, recipe.steps))
            images, target = (part.to(device) for part in _batch(pairs, contract, recipe, seed, step))
            value = loss(_logits(network, images, contract), target)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == recipe.steps:
                yield Progress(label, step + 1, recipe.steps)
    return Segmenter(network, contract, device)


def build_network(contract: Contract, seed: int) -> nn.Module:
    """One channel for the image in, one per label value out."""
    from monai.networks.nets.unet import UNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "segmentation", "weights"))
        return UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=contract.channels - 1,
            channels=CHANNELS,
            strides=_strides(contract),  # type: ignore[arg-type]  # one for each axis is fine
            norm="INSTANCE",
        )


def _strides(contract: Contract) -> tuple[Stride, ...]:
    """Of each level along i, j, k: axes of thick slices are halved less often."""
    return level_strides((LARGEST_PATCH,) * 3, contract.spacing_mm, len(CHANNELS) - 1, COARSEST_SIDE)


def _dice_and_cross_entropy() -> Callable[[Tensor, Tensor], Tensor]:
    """Of the whole batch, so that a structure that one patch lacks does not count as missed."""
    from monai.losses.dice import DiceCELoss

    return DiceCELoss(softmax=True, batch=True, include_background=False)


def _logits(network: nn.Module, images: Float[Tensor, "b 1 i j k"], contract: Contract) -> Float[Tensor, "b n i j k"]:
    """Of images in [-1, 1] on any grid: padded by background to what the network can halve, and cropped again."""
    sides, multiples = images.shape[2:], np.prod(_strides(contract), axis=0).tolist()
    wanted = [
        multiple * max(COARSEST_SIDE, -(-side // multiple)) for side, multiple in zip(sides, multiples, strict=True)
    ]
    ends = [end for side, whole in zip(sides, wanted, strict=True) for end in (whole - side, 0)]
    padded = functional.pad(images, ends[::-1], value=-1.0)
    logits: Tensor = network(padded.contiguous(memory_format=torch.channels_last_3d))
    return logits[:, :, : sides[0], : sides[1], : sides[2]]


def _batch(pairs: Volumes, contract: Contract, recipe: Recipe, seed: int, step: int) -> tuple[Images, Targets]:
    """Images in [-1, 1] (b, 1, i, j, k) and label values as channels (b, n, i, j, k) of one step, augmented."""
    rows = batch_indices(len(pairs), recipe.batch, step, seed, "segmentation").tolist()
    generator = generator_for(seed, "segmentation", "augmentation", step)
    items = [_item(pairs, row, contract, recipe, generator) for row in rows]
    whole = torch.cat(items)
    return whole[:, :1], whole[:, 1:]


def _item(pairs: Volumes, row: int, contract: Contract, recipe: Recipe, generator: torch.Generator) -> Images:
    label = pairs.label(row)
    if label is None:
        raise ValueError(f"a segmentation needs label maps, volume {row} has none")
    item = _crop(to_images(pairs.image(row)[None], label[None], contract), generator)
    if recipe.mirror and torch.rand((), generator=generator) < 0.5:
        item = item.flip(2)
    return torch.cat([_jitter(item[:, :1], generator), item[:, 1:]], dim=1)


def _crop(item: Images, generator: torch.Generator) -> Float[Tensor, "b c x y z"]:
    for axis in (2, 3, 4):
        spare = item.shape[axis] - LARGEST_PATCH
        if spare > 0:
            start = int(torch.randint(spare + 1, (), generator=generator))
            item = item.narrow(axis, start, LARGEST_PATCH)
    return item


def _jitter(images: Images, generator: torch.Generator) -> Images:
    """Another gamma, contrast and noise; background stays background but for the noise."""
    gamma, contrast = torch.randn(2, generator=generator).tolist()
    noise = torch.randn(images.shape, generator=generator)
    unit: Tensor = ((images + 1) / 2).clamp(0, 1) ** math.exp(GAMMA * gamma) * (1 + CONTRAST * contrast)
    return 2 * (unit + NOISE * noise) - 1


def dice_scores(prediction: LabelArray, truth: LabelArray, groups: int) -> Matrix:
    """(groups,) Dice coefficient of each label value from 1 on; NaN where the truth has none of it."""
    return np.where(np.isin(np.arange(1, groups + 1), truth), dice(prediction, truth, groups), np.nan)


def most_common_labels(pairs: Volumes, groups: int) -> LabelArray:
    """(i, j, k) the most frequent label value of each voxel: what can be said without looking at an image."""
    counts = np.zeros((groups + 1, *pairs.image(0).shape), dtype=np.uint16)
    for row in range(len(pairs)):
        label = pairs.label(row)
        for value in range(groups + 1):
            counts[value] += label == value
    return np.asarray(counts.argmax(axis=0), dtype=np.uint8)
