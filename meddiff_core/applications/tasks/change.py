"""A change of a scan: what two walks from one start differ in, laid over the scan itself.

The autoencoder blurs. A decoded volume in place of the scan would have lost its texture everywhere; the difference of
two decoded volumes has none, so that `scan + after - before` keeps what nobody asked to change.
"""

from dataclasses import dataclass

import numpy as np
import torch

from meddiff_core.applications.models import Decoded, Models
from meddiff_core.applications.outcome import GridMap
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.encoding import Probabilities, encode_image, image_of
from meddiff_core.contract import Condition, Contract
from meddiff_core.diffusion.solvers import DenoisedAt
from meddiff_core.generation.best_of import structure_volumes
from meddiff_core.types import FloatArray, LabelArray, Latents, Sigma


def contrasted(own: DenoisedAt, asked: DenoisedAt, weight: float) -> DenoisedAt:
    """`own + weight * (asked - own)`: guidance from what a scan is towards what it shall be; 0 changes nothing."""

    def denoised(noisy: Latents, sigma: Sigma) -> Latents:
        before = own(noisy, sigma)
        return before + weight * (asked(noisy, sigma) - before) if weight else before

    return denoised


@dataclass(frozen=True)
class Changed:
    """A scan and what became of it."""

    image: FloatArray
    """(i, j, k), 0 to 1."""
    difference: FloatArray
    """To the scan."""
    labels: LabelArray | None
    """Of the changed scan; None for models without labels."""


def laid_over(
    scan: GridScan, labels: LabelArray | None, before: Decoded, after: Decoded, share: FloatArray | None = None
) -> Changed:
    """`scan + after - before` of batches of one; a label changes where the two decoded label maps differ.

    `share` (i, j, k) is how much of the change each voxel takes, all of it without.
    """
    change = image_of(after) - image_of(before)
    image = np.clip(scan.image + (change if share is None else share * change), 0, 1).astype(np.float32)
    if labels is not None:
        old, new = decoded_labels(before), decoded_labels(after)
        kept = (new == old) if share is None else (new == old) | (share < 0.5)
        labels = np.where(kept, labels, new).astype(np.uint8)
    return Changed(image, (image - scan.image).astype(np.float32), labels)


def decoded_labels(decoded: Decoded) -> LabelArray:
    """Most likely label values (i, j, k) of a batch of one."""
    found: LabelArray = decoded.labels[0].argmax(0).to(torch.uint8).cpu().numpy()
    return found


def read_labels(models: Models, image: FloatArray, first: Probabilities) -> LabelArray | None:
    """Label map (i, j, k) of an image alone, as the autoencoder reads it; None for models without labels."""
    if not models.contract.labels:
        return None
    return decoded_labels(models.decode(encode_image(models, image, first)))


def volumes_of(labels: LabelArray | None, contract: Contract) -> dict[str, float]:
    """Volume in mm3 by label group; empty without labels."""
    return {} if labels is None else structure_volumes(labels, contract)


def changed_maps(changed: Changed) -> dict[str, GridMap]:
    """Image, difference and, where there is one, label map."""
    maps = {
        "image": GridMap("intensity", changed.image, "the scan with what was asked for changed"),
        "difference": GridMap("difference", changed.difference, "what was added to the scan"),
    }
    if changed.labels is not None:
        maps["labels"] = GridMap("labels", changed.labels, "label map of the changed scan")
    return maps


def numbers(condition: Condition) -> dict[str, float]:
    """The conditions that are numbers."""
    return {name: float(value) for name, value in condition.items() if isinstance(value, int | float)}


def rms(difference: FloatArray) -> float:
    """Root mean square of a difference."""
    return float(np.sqrt(np.square(difference, dtype=np.float64).mean()))


def psnr(image: FloatArray, real: FloatArray) -> float:
    """Peak signal-to-noise ratio in dB of an image, clipped to its range of 0 to 1."""
    return float(-20 * np.log10(max(rms(np.clip(image, 0, 1) - real), 1e-6)))
