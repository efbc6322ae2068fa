"""Sampling: a volume is a pure function of models, seed, condition and solver settings.

Noise comes from a generator per sample. On a CPU one thread works, on networks that compute each sample by itself:
batch, place, neighbours, workers and restarts change no bit. On a GPU, where kernels may round by the shape of a
batch, all batches have one shape, padded if need be; where that had to be smaller, the shard and the release say so.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from meddiff_core.contract import Condition, Contract
from meddiff_core.diffusion.guidance import with_guidance
from meddiff_core.diffusion.noise import noise_levels
from meddiff_core.diffusion.solvers import SOLVERS, solve_ancestral
from meddiff_core.errors import IntegrityError
from meddiff_core.generation.best_of import (
    Contender,
    distance_to_condition,
    draft_config,
    measurable_conditions,
    request_with_noise,
)
from meddiff_core.generation.calibration import calibrated
from meddiff_core.generation.grain import Grain, load_grain
from meddiff_core.generation.predictors import NONE, Predictors, load_predictors
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.autoencoder import Autoencoder, load_autoencoder
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import Denoiser, LatentScale, load_denoiser, load_guide
from meddiff_core.models.images import label_values, unit_image
from meddiff_core.models.inference.footprint import needs_tiles
from meddiff_core.models.inference.packed import DTYPES, for_inference, one_thread
from meddiff_core.models.inference.self_check import check_decoder, check_denoiser
from meddiff_core.models.inference.tiled import decode_tiled
from meddiff_core.models.preconditioning import check_sampling
from meddiff_core.models.training.guards import is_out_of_memory
from meddiff_core.study import SamplingConfig
from meddiff_core.types import FloatArray, LabelArray, Latents, StoredArray


@dataclass(frozen=True)
class Sampled:
    """Volumes in the order in which they were asked for."""

    images: StoredArray
    """(n, i, j, k)"""
    labels: LabelArray | None
    latents: Latents
    """Standardised."""
    kept: tuple[int, ...]
    """Number of the noise that was kept for each."""
    distances: tuple[float | None, ...]
    """How far it is from what was asked for; see `Contender.distance`."""


class Engine:
    """Both models, and the settings of the solver."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        scale: LatentScale,
        contract: Contract,
        config: SamplingConfig,
        device: str = "cpu",
        guide: Denoiser | None = None,
        predictors: Predictors = NONE,
        grain: Grain | None = None,
    ) -> None:
        check_sampling(config, denoiser.clock.sigma_range)
        self._cpu = device == "cpu"
        dtype = DTYPES[config.precision]
        self.autoencoder = for_inference(autoencoder, device, dtype)
        self.denoiser = for_inference(denoiser, device, dtype)
        self.guide = None if guide is None else for_inference(guide, device, dtype)
        self.scale, self.contract, self.config, self.device = scale, contract, config, device
        self.predictors, self.grain = predictors, grain
        self.batch = config.batch
        """Volumes a network call; on a GPU it is part of the identity of a volume."""
        self.tiled = needs_tiles(autoencoder, contract.size, config.batch, device)
        if dtype == torch.bfloat16:
            self._check_rounding(autoencoder, denoiser)

    def _check_rounding(self, autoencoder: Autoencoder, denoiser: Denoiser) -> None:
        """Refuse networks that differ from those in float32, at the size and the noise levels that are sampled."""
        noise = sample_noise(0, self._latent_shape())
        lowest, highest = self.config.span
        with one_thread():
            check_denoiser(denoiser, self.denoiser, noise, (highest, math.sqrt(lowest * highest), lowest))
            check_decoder(autoencoder, self.autoencoder, self.scale.restore(noise), self.tiled)

    def sample(
        self, samples: Sequence[SampleRequest], batch: int | None = None
    ) -> tuple[StoredArray, LabelArray | None]:
        """Stored images (n, i, j, k) and label values of the samples, in their order; see `sample_nearest`."""
        found = self.sample_nearest(samples, batch)
        return found.images, found.labels

    def sample_nearest(self, samples: Sequence[SampleRequest], batch: int | None = None) -> Sampled:
        """The nearest of `sampling.best_of` volumes for each sample that asks for something that they tell.

        `batch` is the one that an earlier run had, to have its bits again. Where the memory does not hold a batch,
        all samples are computed anew with half of it, as are later ones: one call has one `self.batch`.
        """
        self.batch = batch or self.batch
        while True:
            try:
                with one_thread() if self._cpu else nullcontext():
                    return self._sample_in_batches(samples)
            except RuntimeError as error:
                if self.batch == 1 or not is_out_of_memory(error):
                    raise
                self.batch //= 2

    def _sample_in_batches(self, samples: Sequence[SampleRequest]) -> Sampled:
        nearest: dict[int, Contender] = {}
        for place, contender in self._walk(samples, self._finalists(samples), self.config):
            if contender.is_nearer(nearest.get(place)):
                nearest[place] = contender
        return _in_order([nearest[place] for place in range(len(samples))])

    def _finalists(self, samples: Sequence[SampleRequest]) -> list[tuple[int, int]]:
        """Place of the sample and number of each contender that is sampled in full: all, or the nearest by drafts."""
        counts, drafts = [self._best_of(sample) for sample in samples], draft_config(self.config)
        entered = [(place, number) for place, count in enumerate(counts) for number in range(count)]
        if drafts is None:
            return entered
        best = dict.fromkeys(range(len(samples)), (math.inf, 0))
        for place, draft in self._walk(samples, [one for one in entered if counts[one[0]] > 1], drafts):
            best[place] = min(best[place], (draft.comparable, draft.number))
        return [(place, number) for place, (_, number) in best.items()]

    def _walk(
        self, samples: Sequence[SampleRequest], walks: Sequence[tuple[int, int]], config: SamplingConfig
    ) -> Iterator[tuple[int, Contender]]:
        """Contenders, batch by batch: `walks` holds place of the sample and number, `config` the noise levels."""
        for start in range(0, len(walks), self.batch):
            part = walks[start : start + self.batch]
            sampled = self._sample_batch([request_with_noise(samples[place], number) for place, number in part], config)
            for (place, number), (latents, image, label) in zip(part, sampled, strict=True):
                distance = self._distance(samples[place].condition, latents, label)
                yield place, Contender(number, distance, latents, image, label)

    def _best_of(self, sample: SampleRequest) -> int:
        told = measurable_conditions(sample.condition, self.contract) or self.predictors.useful(sample.condition)
        return self.config.best_of if told else 1

    def _distance(self, condition: Condition, latents: Latents, label: LabelArray | None) -> float | None:
        measured = distance_to_condition(label, condition, self.contract)
        if not self.predictors.useful(condition):
            return measured
        return (measured or 0.0) + self.predictors.distance(self.scale.restore(latents), condition)

    @torch.inference_mode()
    def _sample_batch(
        self, samples: Sequence[SampleRequest], config: SamplingConfig
    ) -> list[tuple[Latents, StoredArray, LabelArray | None]]:
        missing = 0 if self._cpu else self.batch - len(samples)
        standardised = self._solve([*samples, *[samples[-1]] * missing], config)[: len(samples)]
        latents = self.scale.restore(standardised)
        decoded = 1 if self._cpu else len(latents)  # a CPU's cache holds the activations of a single volume
        decode = decode_tiled if self.tiled else Autoencoder.decode
        volumes = torch.cat([decode(self.autoencoder, part) for part in latents.split(decoded)])
        units = unit_image(volumes).cpu().numpy()
        labels = label_values(volumes).cpu().numpy() if self.contract.labels else [None] * len(units)
        images = [
            self.contract.intensity.store(self._grained(unit, label, sample.seed))
            for unit, label, sample in zip(units, labels, samples, strict=True)
        ]
        return list(zip(standardised.float().cpu().split(1), images, labels, strict=True))

    def _grained(self, unit: FloatArray, label: LabelArray | None, seed: int) -> FloatArray:
        return unit if self.grain is None else self.grain.add(unit, label, seed)

    def _solve(self, samples: Sequence[SampleRequest], config: SamplingConfig) -> Latents:
        specs, lines = self.contract.conditions, config.calibration or ()
        conditions = encode_conditions([calibrated(sample.condition, lines, specs) for sample in samples], specs)
        sigmas = noise_levels(config)
        start = (self._noise(samples) * float(sigmas[0])).to(self.device)
        denoiser = with_guidance(self.denoiser, conditions.to(self.device), config, self.guide)
        if config.solver == "ancestral":
            return solve_ancestral(denoiser, start, sigmas, lambda level: self._noise(samples, level + 1))
        return SOLVERS[config.solver](denoiser, start, sigmas)

    def _noise(self, samples: Sequence[SampleRequest], level: int = 0) -> Latents:
        return torch.cat([sample_noise(sample.seed, self._latent_shape(), level) for sample in samples])

    def _latent_shape(self) -> tuple[int, ...]:
        shape = self.autoencoder.shape
        return shape.latent_channels, *shape.latent_size(self.contract.size)


def _in_order(kept: Sequence[Contender]) -> Sampled:
    labels = [contender.label for contender in kept if contender.label is not None]
    return Sampled(
        images=np.stack([contender.image for contender in kept]),
        labels=np.stack(labels) if labels else None,
        latents=torch.cat([contender.latents for contender in kept]),
        kept=tuple(contender.number for contender in kept),
        distances=tuple(contender.distance for contender in kept),
    )


def sample_noise(seed: int, shape: tuple[int, ...], level: int = 0) -> Latents:
    """Standard normal noise (1, *shape) of one sample, by a counter-based generator on the CPU.

    It starts from level 0; what a stochastic solver adds at its n-th level is level n + 1. They are far stretches
    of one stream, so no level needs those before it. PyTorch's own generator takes 32 bits of a seed alone: of
    100,000 samples some two would begin with the same noise.
    """
    random = np.random.Generator(np.random.Philox(key=seed, counter=level << 192))
    return torch.from_numpy(random.standard_normal((1, *shape), dtype=np.float32))


@lru_cache(maxsize=1)
def open_engine(models: Path, digest: str, config: SamplingConfig, device: str) -> Engine:
    """The engine over the checkpoints below `models`; a worker keeps it from shard to shard.

    `digest` is that of them all: it renews the engine when they were trained again.
    """
    keep_freed_memory()
    autoencoder, contract = load_autoencoder(models / "autoencoder", device)
    denoiser, scale, own = load_denoiser(models / "denoiser", device)
    if differences := contract.differences(own):
        raise IntegrityError(f"autoencoder and denoiser must share a contract; {'; '.join(differences)}")
    guide = open_guide(models / "denoiser", denoiser, config)
    predictors = load_predictors(models / "predictors")
    grain = load_grain(models / "grain") if config.grain else None
    return Engine(autoencoder, denoiser, scale, contract, config, device, guide, predictors, grain)


def open_guide(folder: Path, denoiser: Denoiser, config: SamplingConfig) -> Denoiser | None:
    """The weights that autoguidance leads away from; None for classifier-free guidance, or without any."""
    return load_guide(folder, denoiser) if config.guided_by == "autoguidance" and config.guidance != 1 else None
