"""What the autoencoder cannot keep, measured once on validation scans: it is part of every observation's tolerance.

Latents that met a scan better than the autoencoder can keep it would be no latents of training any more. Squared
errors are averaged over scans and over neighbours, so that a few dozen scans tell a value everywhere.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter
from torch import Tensor

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.models import Decoded, Models
from meddiff_core.applications.posterior.observation import along_axes, spectrum
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.encoding import encode_scan, label_channels, mean_labels
from meddiff_core.models.inference.packed import one_thread
from meddiff_core.types import Images, Latents, Progress, Work

NAME = "tolerance"
SMOOTHING = 1.0
"""Standard deviation of the average over neighbours, in voxels."""
LEAST_IMAGE, LEAST_LABEL, LEAST_VARIANCE = 0.01, 0.05, 0.05
"""Added to standard deviations of the image and of label probabilities; least prior variance of a latent."""


def as_images(image: Float[Tensor, "b i j k"], labels: Float[Tensor, "b l i j k"]) -> Images:
    """Intensities 0 to 1 and label probabilities, as the autoencoder sees them."""
    return torch.cat([image[:, None] * 2 - 1, labels], dim=1)


def tolerance(calibration: Calibration) -> Work[Tensors]:
    """By voxel or latent, without a batch axis.

    `image` (i, j, k) and `labels` (l, i, j, k): standard deviation of the autoencoder; `spectrum` (i, j, k): of the
    image's frequencies, real or imaginary part; `residual` (s, i, j, k): what it lost of each scan; `variance`
    (z, u, v, w): of latents; `texture`: mean energy that `noise_energy` finds in scans themselves.
    """
    first = yield from mean_labels(calibration.models, calibration)
    return (yield from calibration.kept(NAME, partial(_measure, first=first)))


def _measure(models: Models, scans: list[GridScan], first: Tensor) -> Work[Tensors]:
    lost_image, lost_labels, latents = list[Tensor](), list[Tensor](), list[Tensor]()
    for number, (scan, encoded, decoded) in enumerate(_kept(models, scans, first)):
        lost_image.append(torch.from_numpy(scan.image) - decoded.image[0])
        if scan.labels is not None and models.contract.labels:
            lost_labels.append((label_channels(scan.labels, models.contract) - decoded.labels)[0].square())
        latents.append(encoded)
        yield Progress("measure what the autoencoder keeps", number + 1, len(scans))
    residual = torch.stack(lost_image)
    empty = torch.zeros(models.contract.channels - 1, *models.contract.size)
    labels = torch.stack(lost_labels).mean(dim=0) if lost_labels else empty
    power = spectrum(residual).abs().square().mean(dim=0) / 2
    return {
        "image": _std(residual.square().mean(dim=0), LEAST_IMAGE),
        "labels": torch.stack([_std(one, LEAST_LABEL) for one in labels]) if len(labels) else labels,
        "spectrum": _std(power, LEAST_IMAGE, mode="wrap"),
        "residual": residual,
        "variance": _latent_variance(torch.cat(latents)),
        "texture": torch.tensor([np.mean([noise_energy(scan) for scan in scans])], dtype=torch.float32),
    }


def _kept(models: Models, scans: Sequence[GridScan], first: Tensor) -> Iterator[tuple[GridScan, Latents, Decoded]]:
    for scan in scans:
        with one_thread(), torch.no_grad():
            latents = encode_scan(models, scan, first)
            decoded = models.decode(latents)
        yield scan, latents.cpu(), Decoded(decoded.image.cpu(), decoded.labels.cpu())


def _std(square: Tensor, least: float, mode: str = "nearest") -> Tensor:
    smooth = gaussian_filter(square.double().numpy(), SMOOTHING, mode=mode)
    return torch.from_numpy(np.sqrt(smooth + least**2)).float()


def _latent_variance(latents: Latents) -> Tensor:
    """By channel and place, averaged over neighbours; few scans cannot tell less than that."""
    count = len(latents)
    found = latents.var(dim=0, correction=1) if count > 1 else torch.ones_like(latents[0])
    smooth = np.stack([gaussian_filter(one.double().numpy(), SMOOTHING) for one in found])
    return torch.from_numpy(smooth).float().clamp_min(LEAST_VARIANCE)


def noise_energy(scan: GridScan) -> float:
    """Square of the noise's standard deviation if a scan were nothing else at its highest frequencies.

    The median magnitude of Haar coefficients that are differences along all three axes (Donoho & Johnstone 1994),
    over blocks of 2x2x2 voxels that are all above 0: below that a scan was masked or clipped.
    """
    image = scan.image[tuple(slice(0, side // 2 * 2) for side in scan.image.shape)].astype(np.float64)
    i, j, k = (side // 2 for side in image.shape)
    blocks = image.reshape(i, 2, j, 2, k, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    blocks = blocks[(blocks > 0).all(axis=1)]
    signs = np.array([1, -1, -1, 1, -1, 1, 1, -1]) / np.sqrt(8)
    return float((np.median(np.abs(blocks @ signs)) / 0.6745) ** 2) if len(blocks) else 0.0


def coarse_std(residual: Float[Tensor, "s i j k"], rows: Sequence[Tensor]) -> Float[Tensor, "p q r"]:
    """Standard deviation of the autoencoder as thick voxels see it, where errors of neighbours partly cancel."""
    coarse = along_axes(residual, rows).square().mean(dim=0)
    smooth = gaussian_filter(coarse.double().numpy(), [SMOOTHING * min(1.0, len(row) / row.shape[1]) for row in rows])
    return torch.from_numpy(np.sqrt(smooth + LEAST_IMAGE**2)).float()
