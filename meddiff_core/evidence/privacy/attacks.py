"""What the models say of a volume that would give away its place in the training set: one score per volume and attack.

Scores rise with likeness to a member, and are logarithms, so that difficulty can be subtracted. All volumes meet the
same noises: with fresh ones for each, chance would hide what is looked for.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from meddiff_core.contract import Contract
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.models.augmentation import AugmentVectors, augment
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.images import load_images
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import Images, Latents, Progress, Sigma, Volumes

Denoise = Callable[[Latents, Sigma, ConditionVectors], Latents]
"""As `Denoiser` does it: standardised latents with noise of standard deviation sigma to their expectation without."""
Scores = dict[str, Matrix]
"""(n,) per attack."""

LOSS_SIGMAS = (0.1, 0.3, 1.0, 3.0)
"""Noise levels of the loss, two shared noises each: eight in all."""
QUIET_SIGMAS = (0.1, 0.3)
"""Noise levels at which the network is asked for noise where there is none."""
VARIANT_SIGMA = 0.3
"""Noise level at which it is asked about augmented variants, where memory shows most."""
BATCH = 16
MIDDLE = (0.15, 0.5)
"""Frequencies, in cycles per two voxels, that a reconstruction loses or keeps according to what was learned."""
TINY = 1e-12


def denoiser_scores(
    denoise: Denoise,
    latents: Latents,
    conditions: ConditionVectors,
    seed: int,
    device: str = "cpu",
    early: Denoise | None = None,
) -> Generator[Progress, None, Scores]:
    """Attacks on a denoiser, on standardised latents: 14 evaluations per volume, and 4 of its `early` weights.

    What weights from early in the training make of a volume tells how difficult it is: they remember little yet
    (Watson et al. 2022).
    """
    parts: list[dict[str, Tensor]] = []
    for clean, own in zip(latents.split(BATCH), conditions.split(BATCH), strict=True):
        found = _asked(denoise, clean.to(device), own.to(device), seed)
        parts.append(found if early is None else found | _since(early, found, clean.to(device), own.to(device), seed))
        yield Progress("attack denoiser", sum(len(part["PIA"]) for part in parts), len(latents))
    return _scores(parts)


def augmented_scores(
    denoise: Denoise,
    variants: Sequence[tuple[Latents, ConditionVectors]],
    seed: int,
    device: str = "cpu",
    early: Denoise | None = None,
) -> Generator[Progress, None, Scores]:
    """Attacks that ask about augmented variants of the volumes, each with its augmentation among the conditions.

    A denoiser that saw a volume mostly augmented remembers those variants and not the volume (2 evaluations a variant,
    and as many of the `early` weights). Both the mean over the variants and the strongest are attacks.
    """
    found = list[Scores]()
    for latents, conditions in variants:
        parts = []
        for clean, own in zip(latents.split(BATCH), conditions.split(BATCH), strict=True):
            parts.append(_asked_about_variant(denoise, clean.to(device), own.to(device), seed, early))
        found.append(_scores(parts))
        yield Progress("attack augmented variants", len(found), len(variants))
    each = {name: np.stack([scores[name] for scores in found]) for name in found[0]} if found else {}
    means = {f"{name}, mean of augmented variants": scores.mean(0) for name, scores in each.items()}
    return means | {f"{name}, strongest of augmented variants": scores.max(0) for name, scores in each.items()}


@torch.inference_mode()
def _asked_about_variant(
    denoise: Denoise, clean: Latents, conditions: ConditionVectors, seed: int, early: Denoise | None
) -> dict[str, Tensor]:
    """Errors of one batch at one noise level."""
    found = {f"loss, sigma {VARIANT_SIGMA:g}": _loss(denoise, clean, VARIANT_SIGMA, conditions, seed)}
    return found if early is None else found | _since(early, found, clean, conditions, seed, (VARIANT_SIGMA,))


@torch.inference_mode()
def _asked(denoise: Denoise, clean: Latents, conditions: ConditionVectors, seed: int) -> dict[str, Tensor]:
    """Errors and norms of one batch, all smaller for members."""
    dropped = torch.full_like(conditions, torch.nan)
    quiet = {sigma: _predicted_noise(denoise, clean, sigma, conditions) for sigma in QUIET_SIGMAS}
    return {
        **{f"loss, sigma {sigma:g}": _loss(denoise, clean, sigma, conditions, seed) for sigma in LOSS_SIGMAS},
        "loss, sigma 0.3, conditions dropped": _loss(denoise, clean, 0.3, dropped, seed),
        **{f"predicted noise, sigma {sigma:g}": _norm(noise) for sigma, noise in quiet.items()},
        "predicted noise, sigma 0.1, conditions dropped": _norm(_predicted_noise(denoise, clean, 0.1, dropped)),
        "PIA": _norm(quiet[0.1] - _predicted_noise(denoise, clean + 0.3 * quiet[0.1], 0.3, conditions)),
    }


@torch.inference_mode()
def _since(
    early: Denoise,
    found: Mapping[str, Tensor],
    clean: Latents,
    conditions: ConditionVectors,
    seed: int,
    sigmas: Sequence[float] = QUIET_SIGMAS,
) -> dict[str, Tensor]:
    """Loss over that of early weights on the same noise."""
    return {
        f"loss since early training, sigma {sigma:g}": found[f"loss, sigma {sigma:g}"]
        / _loss(early, clean, sigma, conditions, seed).clamp_min(TINY)
        for sigma in sigmas
    }


def _loss(denoise: Denoise, clean: Latents, sigma: float, conditions: ConditionVectors, seed: int) -> Tensor:
    """(b,) squared error of the denoised latents, over one noise and its opposite, the same for all volumes."""
    noise = torch.randn(clean.shape[1:], generator=generator_for(seed, "membership", sigma)).to(clean.device)
    errors = [_denoised(denoise, clean + sign * sigma * noise, sigma, conditions) - clean for sign in (1, -1)]
    return torch.stack([error.square().flatten(1).mean(1) for error in errors]).mean(0)


def _predicted_noise(denoise: Denoise, noisy: Latents, sigma: float, conditions: ConditionVectors) -> Latents:
    """`(noisy - denoised) / sigma`: near 0 for a clean member, of which the network takes nothing away (SimA, Rao
    et al. 2025, arXiv 2509.25003)."""
    predicted: Latents = (noisy - _denoised(denoise, noisy, sigma, conditions)) / sigma
    return predicted


def _denoised(denoise: Denoise, noisy: Latents, sigma: float, conditions: ConditionVectors) -> Latents:
    denoised: Latents = denoise(noisy, torch.full((len(noisy),), sigma, device=noisy.device), conditions).float()
    return denoised


def _norm(noise: Latents) -> Tensor:
    """(b,) mean fourth power: the norm of PIA (Kong et al. 2024), which few large errors decide."""
    return noise.double().flatten(1).pow(4).mean(1)


def autoencoder_scores(
    network: Autoencoder, volumes: Volumes, rows: Sequence[int], contract: Contract, device: str = "cpu"
) -> Generator[Progress, None, tuple[Latents, Scores]]:
    """Posterior means of some volumes, and attacks on the autoencoder that gave them."""
    means, parts = [], []
    for row in rows:
        mean, found = _encoded(network, load_images(volumes, [row], contract).to(device))
        means.append(mean.float().cpu())
        parts.append(found)
        yield Progress("attack autoencoder", len(parts), len(rows))
    return torch.cat(means), _scores(parts)


@torch.inference_mode()
def encode_augmented(
    network: Autoencoder,
    volumes: Volumes,
    rows: Sequence[int],
    vectors: AugmentVectors,
    contract: Contract,
    device: str = "cpu",
) -> Latents:
    """Posterior means of some volumes after the augmentation of each, as `encode_latents` makes them."""
    means = []
    for row, vector in zip(rows, vectors, strict=True):
        images = augment(load_images(volumes, [row], contract), vector, contract.spacing_mm)
        means.append(network.encode(images.to(device))[0].float().cpu())
    return torch.cat(means)


@torch.inference_mode()
def _encoded(network: Autoencoder, images: Images) -> tuple[Latents, dict[str, Tensor]]:
    mean, log_variance = network.encode(images)
    error = network.decode(mean).float() - images
    found = {
        "reconstruction of the image": _mean_square(error[:, :1]),
        "reconstruction in middle frequencies": _middle_share(error[:, 0], images[:, 0]),
        "Kullback-Leibler divergence": (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1),
    }
    if images.shape[1] > 1:
        found["reconstruction of the labels"] = _mean_square(error[:, 1:])
    return mean, found


def _mean_square(error: Images) -> Tensor:
    return error.square().flatten(1).mean(1)


def _middle_share(error: Tensor, image: Tensor) -> Tensor:
    """(b,) energy of the error (b, i, j, k) in the middle frequencies over that of the image, which calibrates it
    (FCRE, arXiv 2506.14919)."""
    axes = [torch.fft.fftfreq(side, d=0.5, device=image.device) for side in image.shape[1:]]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    inside = (radius >= MIDDLE[0]) & (radius < MIDDLE[1])
    energies = [torch.fft.fftn(part, dim=(1, 2, 3))[:, inside].abs().square().sum(1) for part in (error, image)]
    share: Tensor = energies[0] / energies[1].clamp_min(TINY)
    return share


def _scores(parts: Sequence[dict[str, Tensor]]) -> Scores:
    """Minus the logarithm of errors: one volume's being twice another's is the same step everywhere."""
    return dict(_joined(parts))


def _joined(parts: Sequence[dict[str, Tensor]]) -> Iterator[tuple[str, Matrix]]:
    for name in parts[0]:
        errors = torch.cat([part[name] for part in parts]).double().cpu()
        yield name, -errors.clamp_min(TINY).log().numpy()
