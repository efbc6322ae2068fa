"""Volumes that the denoiser does not know: noise is added at a few levels, and what comes back is compared.

A network that was trained on heads brings noise back towards heads. On a volume unlike all that it was trained on
it errs more than on training volumes, also where intensities, sizes and wholeness are as they should be (Graham et
al. 2023). The noise is that of the volume's own seed: the same volume has the same score in any shard.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from meddiff_core.contract import Contract, Frozen
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.generation.engine import sample_noise
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import load_denoiser
from meddiff_core.models.images import load_images
from meddiff_core.models.inference.packed import one_thread, packed
from meddiff_core.study import ScreenConfig
from meddiff_core.types import Images, Latents, Progress, Sigma, Volumes

SIGMAS = (0.3, 1.0, 3.0)
"""Noise levels, in standard deviations of the latents: texture, structures, the whole."""
NOISE_LEVEL = 1 << 32
"""Where the noise lies in the stream of a seed: far from the stretches that a sample is generated with."""
MOST_FITTED = 500
"""Volumes of a side that are looked at; more makes fitting slower and a bound no better."""


@dataclass(frozen=True)
class Models:
    """Where a worker finds both networks."""

    folder: Path
    digest: str
    """Renews what a worker keeps when a model was trained again."""
    device: str = "cpu"


class OutlierBound(Frozen):
    """The errors of training volumes, and how far above them one may lie."""

    mean: tuple[float, ...]
    """Of the logarithm of the mean squared error, per noise level."""
    std: tuple[float, ...]
    largest: float
    """Highest score that is accepted."""

    def score(self, errors: Matrix) -> Matrix:
        """(n,) mean over noise levels of errors (n, levels), less the training mean and in standard deviations."""
        return np.asarray(((np.atleast_2d(errors) - self.mean) / self.std).mean(1))


@dataclass(frozen=True)
class DenoisingErrors:
    """Errors (n, levels) of real volumes."""

    train: Matrix
    reconstructed: Matrix
    """Of training volumes as the autoencoder gives them back."""
    validation: Matrix


class Probe:
    """Volumes to the logarithm of the error with which a denoiser brings them back."""

    def __init__(
        self,
        encode: Callable[[Images], Latents],
        denoise: Callable[[Latents, Sigma], Latents],
        contract: Contract,
        sigmas: Sequence[float] = SIGMAS,
        alone: bool = True,
    ) -> None:
        """`encode` gives standardised latents. `alone`: on one thread, for the same bits anywhere (a CPU)."""
        self._encode, self._denoise, self._contract = encode, denoise, contract
        self._sigmas, self._alone = torch.tensor(sigmas, dtype=torch.float32), alone

    @torch.inference_mode()
    def __call__(self, volumes: Volumes, index: int, seed: int) -> Matrix:
        """(levels,) of one volume, with the noise of a seed."""
        with one_thread() if self._alone else nullcontext():
            latents = self._encode(load_images(volumes, [index], self._contract))
            shape, levels = tuple(latents.shape[1:]), range(len(self._sigmas))
            noise = torch.cat([sample_noise(seed, shape, NOISE_LEVEL + level) for level in levels])
            sigma = self._sigmas.to(latents.device)
            noisy = latents + sigma[:, None, None, None, None] * noise.to(latents.device)
            errors = (self._denoise(noisy, sigma) - latents).double().square().mean((1, 2, 3, 4))
            return np.asarray(errors.clamp_min(1e-12).log().cpu())

    def all_errors(self, label: str, volumes: Volumes, most: int | None = None) -> Generator[Progress, None, Matrix]:
        """(n, levels) of a set, or of `most` volumes evenly through it, each with its place as the seed."""
        count = min(len(volumes), most or len(volumes))
        chosen = np.linspace(0, len(volumes) - 1, count).round().astype(int)
        rows = []
        for index in chosen.tolist():
            rows.append(self(volumes, index, index))
            yield Progress(f"denoise {label}", len(rows), len(chosen))
        return np.stack(rows)


@lru_cache(maxsize=1)
def open_probe(models: Models) -> Probe:
    """The probe over `autoencoder` and `denoiser`; a worker keeps it from shard to shard.

    Conditions are dropped for the denoiser: a volume that does not follow its own is no outlier.
    """
    keep_freed_memory()
    autoencoder, contract = load_autoencoder(models.folder / "autoencoder", models.device)
    denoiser, scale, _ = load_denoiser(models.folder / "denoiser", models.device)
    alone, (low, high) = models.device == "cpu", denoiser.clock.sigma_range
    encoder, network = (packed(autoencoder), packed(denoiser)) if alone else (autoencoder, denoiser)
    dropped = encode_conditions([{}], contract.conditions).to(models.device)
    return Probe(
        encode=lambda images: scale.standardise(encoder.encode(images.to(models.device))[0]),
        denoise=lambda noisy, sigma: network(noisy, sigma, dropped.expand(len(noisy), -1)),
        contract=contract,
        sigmas=[min(max(sigma, low), high) for sigma in SIGMAS],
        alone=alone,
    )


def fit_outliers(errors: DenoisingErrors, config: ScreenConfig) -> OutlierBound:
    """Mean and standard deviation of training errors; declared quantile of their scores and of the reconstructions'.

    The network has seen the training volumes and errs less on them than on any other. By how much is taken from the
    medians of train and validation, and given to candidates too.
    """
    mean, std = errors.train.mean(0), np.maximum(errors.train.std(0), 1e-6)
    bound = OutlierBound(mean=tuple(mean.tolist()), std=tuple(std.tolist()), largest=np.inf)
    scores = [bound.score(errors.train), bound.score(errors.reconstructed)]
    low = min(float(np.quantile(found, config.quantile)) for found in scores)
    high = max(float(np.quantile(found, 1 - config.quantile)) for found in scores)
    unseen = float(np.median(bound.score(errors.validation)) - np.median(scores[0]))
    return bound.model_copy(update={"largest": high + config.margin * (high - low) + max(0.0, unseen)})
