"""Networks that are trained for one task alone, as baselines: the segmenter of the audit, and one that fills holes.

Both see the train side and nothing else. They are kept with the calibration of the models, so that a second run does
not train them again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.measured.planted import random_hole
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan, Mask
from meddiff_core.applications.tasks.volumes import segmenter_of_weights, trained_weights
from meddiff_core.contract import Contract
from meddiff_core.data.grid import level_strides
from meddiff_core.evidence.utility.arms import steps_for
from meddiff_core.evidence.utility.segmentation import (
    CHANNELS,
    COARSEST_SIDE,
    LARGEST_PATCH,
    Segmenter,
)
from meddiff_core.models.inference.packed import one_thread
from meddiff_core.models.randomness import batch_indices, derive_seed
from meddiff_core.models.training.loop import deterministic, learning_rate_factor, set_learning_rate
from meddiff_core.types import FloatArray, LabelArray, Progress, Volumes, Work

FILL_STEPS, FILL_BATCH, FILL_RATE = 600, 4, 4e-3
"""Of the network that fills holes."""
SCALE = 10.0
"""By which its input and output differ from intensities: people differ by a tenth of the range."""


def segmenter_of(calibration: Calibration, pairs: Volumes, seed: int) -> Work[Segmenter]:
    """The segmentation network of the audit, trained on the same pairs."""
    contract, steps = calibration.models.contract, steps_for(len(pairs), "full")
    weights = yield from calibration.kept(
        "measured-segmenter", lambda own, scans: trained_weights(pairs, contract, steps, seed)
    )
    return segmenter_of_weights(weights, contract, seed)


@dataclass(frozen=True)
class Filler:
    """A trained network that fills holes: what it adds to the training mean."""

    network: nn.Module
    mean: FloatArray

    @torch.no_grad()
    def __call__(self, image: FloatArray, hole: Mask) -> FloatArray:
        """The image with the hole filled, elsewhere as it is."""
        with one_thread():
            found = _fill(self.network.eval(), _shown([image], [hole], self.mean))[0].numpy()
        return np.where(hole, np.clip(found, 0, 1), image).astype(np.float32)


def filler_of(
    calibration: Calibration, images: Sequence[FloatArray], bodies: Sequence[Mask], seed: int
) -> Work[Filler]:
    """A regression U-Net, trained by squared error in holes of the same kind on scans of the train side."""
    contract = calibration.models.contract
    mean = np.asarray(np.mean(images, axis=0, dtype=np.float64), dtype=np.float32)

    def train(models: Models, _: list[GridScan]) -> Work[Tensors]:
        network = _filling_network(contract, seed)
        optimizer = torch.optim.AdamW(network.parameters())
        with deterministic(True), one_thread():
            for step in range(FILL_STEPS):
                set_learning_rate(optimizer, FILL_RATE * learning_rate_factor(step, FILL_STEPS))
                rows = batch_indices(len(images), FILL_BATCH, step, seed, "fill").tolist()
                holes = [random_hole(bodies[row], derive_seed(seed, "fill", step, row)) for row in rows]
                loss = _hole_error(network, [images[row] for row in rows], holes, mean)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if (step + 1) % 20 == 0:
                    yield Progress("train the network that fills holes", step + 1, FILL_STEPS)
        return _state(network)

    kept = yield from calibration.kept("measured-hole-filler", train)
    network = _filling_network(contract, seed)
    network.load_state_dict(dict(kept))
    return Filler(network, mean)


def _hole_error(network: nn.Module, images: Sequence[FloatArray], holes: Sequence[Mask], mean: FloatArray) -> Tensor:
    """Mean squared error, each hole alike."""
    filled = _fill(network, _shown(images, holes, mean))
    truth, inside = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(holes))
    each = ((filled - truth).square() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1)
    return each.mean()


def _shown(images: Sequence[FloatArray], holes: Sequence[Mask], mean: FloatArray) -> Tensor:
    """(b, 3, i, j, k): how the image differs from the mean outside the hole, the hole, and the mean."""
    shown = [
        np.stack([np.where(hole, 0, image - mean) * SCALE, hole, mean])
        for image, hole in zip(images, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(shown).astype(np.float32))


def _fill(network: nn.Module, shown: Tensor) -> Tensor:
    """(b, i, j, k) the mean and what the network adds; padded to what it can halve, and cropped again."""
    sides = shown.shape[2:]
    wanted = [-(-side // 8) * 8 for side in sides]
    ends = [end for side, whole in zip(sides, wanted, strict=True) for end in (whole - side, 0)]
    padded = torch.nn.functional.pad(shown, ends[::-1])
    answer: Tensor = network(padded.contiguous(memory_format=torch.channels_last_3d))
    return shown[:, 2] + answer[:, 0, : sides[0], : sides[1], : sides[2]] / SCALE


def _filling_network(contract: Contract, seed: int) -> nn.Module:
    from monai.networks.nets.unet import UNet

    strides = level_strides((LARGEST_PATCH,) * 3, contract.spacing_mm, len(CHANNELS) - 1, COARSEST_SIDE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "fill", "weights"))
        network: nn.Module = UNet(
            spatial_dims=3,
            in_channels=3,
            out_channels=1,
            channels=CHANNELS,
            strides=strides,  # type: ignore[arg-type]  # one for each axis is fine
            norm="INSTANCE",
        )
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}


Segment = Callable[[FloatArray], LabelArray]
"""Intensities 0 to 1 to label values."""
