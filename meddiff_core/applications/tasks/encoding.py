"""Latents of a scan whose label map is not known, although the encoder was trained with one.

Where an encoder gets no label maps at all, its latents are those of no scan. So it first gets the mean label map of the
validation scans, then twice what the decoder reads from the latents. On held-out brain scans this costs 0.3 dB of the
reconstruction's PSNR and 0.02 of its mean Dice, where true label maps are the alternative.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Decoded, Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.contract import Contract
from meddiff_core.types import FloatArray, LabelArray, Latents, Work

READINGS = 2
"""Times that the decoder's label map is given back to the encoder; more moves structures away from the image."""
MEAN_LABELS = "mean-labels"
Probabilities = Float[Tensor, "b l i j k"]


def mean_labels(models: Models, calibration: Calibration) -> Work[Probabilities]:
    """Mean label map of the validation scans, (1, l, i, j, k); `l` is 0 for a model without labels."""
    if not models.contract.labels:
        return torch.zeros(1, 0, *models.contract.size)
    found = yield from calibration.kept(MEAN_LABELS, _measure_mean_labels)
    return found["mean"]


def _measure_mean_labels(models: Models, scans: list[GridScan]) -> Work[Tensors]:
    yield from ()
    known = [label_channels(scan.labels, models.contract) for scan in scans if scan.labels is not None]
    values = models.contract.channels - 1
    size = models.contract.size
    return {"mean": sum(known, torch.zeros(1, values, *size)) / len(known) if known else _even(values, size)}


def _even(values: int, size: tuple[int, int, int]) -> Probabilities:
    return torch.full((1, values, *size), 1 / values)


def encode_image(models: Models, image: FloatArray, first: Probabilities) -> Latents:
    """Latents (1, z, u, v, w) of an image (i, j, k) alone, from the mean label map on."""
    labels = first
    for _ in range(READINGS if models.contract.labels else 0):
        labels = models.decode(_encoded(models, image, labels)).labels.cpu()
    return _encoded(models, image, labels)


def encode_scan(models: Models, scan: GridScan, first: Probabilities) -> Latents:
    """Latents (1, z, u, v, w) of a scan, with its own label map where it is known."""
    if scan.labels is None or not models.contract.labels:
        return encode_image(models, scan.image, first)
    return _encoded(models, scan.image, label_channels(scan.labels, models.contract))


def label_channels(labels: LabelArray, contract: Contract) -> Probabilities:
    """Label values (i, j, k) as certain probabilities."""
    one_hot = functional.one_hot(torch.from_numpy(labels).long(), contract.channels - 1)
    return one_hot.movedim(-1, 0)[None].float()


def image_of(decoded: Decoded) -> FloatArray:
    """(i, j, k) of a batch of one; not clipped."""
    image: FloatArray = decoded.image[0].cpu().numpy()
    return image


def _encoded(models: Models, image: FloatArray, labels: Probabilities) -> Latents:
    channels = [torch.from_numpy(image).float()[None, None] * 2 - 1, labels]
    return models.encode(torch.cat(channels, 1))
