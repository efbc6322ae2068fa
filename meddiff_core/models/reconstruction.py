"""How well an autoencoder gives back what it was given: PSNR, SSIM, and Dice per label."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from meddiff_core.contract import Contract
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.dice import dice
from meddiff_core.models.images import label_values, load_images, unit_image
from meddiff_core.types import Images, Volumes


def reconstruction_metrics(
    network: Autoencoder, volumes: Volumes, indices: Sequence[int], contract: Contract, device: str = "cpu"
) -> dict[str, float]:
    """Means over volumes: `psnr` (dB, over the range of the intensity mapping), `ssim`, `dice/GROUP`."""
    pairs = reconstructions(network, volumes, indices, contract, device)
    rows = [_compare(real, copy, contract) for real, copy in pairs]
    names = dict.fromkeys(name for row in rows for name in row)
    return {f"validation/{name}": _mean([row[name] for row in rows if name in row]) for name in names}


def reconstructions(
    network: Autoencoder, volumes: Volumes, indices: Sequence[int], contract: Contract, device: str = "cpu"
) -> Iterator[tuple[Images, Images]]:
    """Each volume as channels (1, c, i, j, k), and as the network gives it back."""
    for index in indices:
        images = load_images(volumes, [index], contract)
        yield images, _reconstruct(network, images.to(device))


@torch.inference_mode()
def _reconstruct(network: Autoencoder, images: Images) -> Images:
    return network.reconstruct(images).float().cpu()


def _compare(real: Images, copy: Images, contract: Contract) -> dict[str, float]:
    from monai.metrics import SSIMMetric  # type: ignore[attr-defined]

    target, found, groups = unit_image(real), unit_image(copy), list(contract.labels)
    error = (target - found).square().mean().clamp_min(1e-12)
    ssim = SSIMMetric(spatial_dims=3, win_size=7, data_range=1.0)(found[:, None], target[:, None])
    row = {"psnr": float(-10 * error.log10()), "ssim": float(torch.as_tensor(ssim).mean())}
    if groups:
        scores = dice(label_values(real)[0].numpy(), label_values(copy)[0].numpy(), len(groups))
        row |= {f"dice/{group}": float(one) for group, one in zip(groups, scores, strict=True) if np.isfinite(one)}
    return row


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
