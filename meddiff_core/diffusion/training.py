"""Training of the denoiser on standardised latents (Karras et al. 2022)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meddiff_core.contract import ConditionSpec
from meddiff_core.diffusion.noise import loss_weight, training_sigmas
from meddiff_core.models.checkpoint import Tensors, optimizer_tensors, prefixed, restore_optimizer, unprefixed
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale
from meddiff_core.models.ema import PowerAverage
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.loop import learning_rate_factor, set_learning_rate
from meddiff_core.models.randomness import batch_indices, derive_seed, generator_for
from meddiff_core.study import DenoiserConfig
from meddiff_core.types import Latents, Sigma

VALIDATION_SIGMAS = (0.05, 0.2, 0.8, 3.0, 12.0)
"""Noise levels of the validation curves, from texture to overall shape."""


class DenoiserTraining:
    """A `Training` (see models/loop.py) of a denoiser and its average."""

    label = "train denoiser"

    def __init__(
        self,
        shape: DenoiserShape,
        specs: tuple[ConditionSpec, ...],
        config: DenoiserConfig,
        train: tuple[LatentSet, ConditionVectors],
        validation: tuple[LatentSet, ConditionVectors],
        steps: int,
        batch: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(derive_seed(seed, "denoiser", "weights"))
        self.network = Denoiser(shape, specs).to(device)
        self.average = PowerAverage(self.network, config.ema_share)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), config.learning_rate, weight_decay=0.01)
        self.scale: LatentScale = train[0].scale()
        self.config, self.device = config, device
        self.train, self.validation = train, validation
        self.steps, self.batch, self.seed = steps, batch, seed

    def step(self, step: int) -> dict[str, Tensor]:
        latents, conditions = self.train
        chosen = batch_indices(len(latents), self.batch, step, self.seed, "denoiser")
        generator = generator_for(self.seed, "denoiser", "noise", step)
        clean = self.scale.standardise(latents.draw(chosen, generator))
        sigma = training_sigmas(self.batch, self.config.sigma_mean, self.config.sigma_std, generator)
        noise = torch.randn(clean.shape, generator=generator)
        kept = hide_conditions(conditions[chosen], self.config.condition_dropout, generator)
        set_learning_rate(self.optimizer, self.config.learning_rate * learning_rate_factor(step, self.steps))
        loss = (loss_weight(sigma) * self._errors(self.network, clean, noise, sigma, kept)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.network, step + 1)
        return {"denoiser/loss": loss.detach()}

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Weighted loss of the averaged weights per noise level, on the same noise each time."""
        latents, conditions = self.validation
        generator = generator_for(self.seed, "denoiser", "validation")
        clean = self.scale.standardise(latents.draw(torch.arange(len(latents)), generator))
        noise = torch.randn(clean.shape, generator=generator)
        parts = list(zip(*(t.split(self.batch) for t in (clean, noise, conditions)), strict=True))
        return {f"validation/loss_sigma_{level}": self._loss_at(level, parts) for level in VALIDATION_SIGMAS}

    def _loss_at(self, level: float, parts: Sequence[tuple[Tensor, ...]]) -> float:
        """Over parts of clean latents, noise and conditions, no larger than the batches that fit the memory."""
        errors = []
        for clean, noise, conditions in parts:
            sigma = torch.full((len(clean),), level)
            errors.append(loss_weight(sigma) * self._errors(self.average.network, clean, noise, sigma, conditions))
        return float(torch.cat(errors).mean())

    def state(self) -> Tensors:
        return {
            **prefixed("network", self.network.state_dict()),
            **prefixed("average", self.average.network.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self.optimizer)),
        }

    def restore(self, state: Tensors) -> None:
        self.network.load_state_dict(unprefixed("network", state))
        self.average.network.load_state_dict(unprefixed("average", state))
        restore_optimizer(self.optimizer, unprefixed("optimizer", state))

    def _errors(
        self, network: nn.Module, clean: Latents, noise: Latents, sigma: Sigma, conditions: ConditionVectors
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each sample's denoised latents."""
        noisy = clean + sigma.reshape(-1, 1, 1, 1, 1) * noise
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device != "cpu"):
            denoised = network(noisy.to(self.device), sigma.to(self.device), conditions.to(self.device))
        errors: Tensor = (denoised.float().cpu() - clean).square()
        return errors.flatten(1).mean(dim=1)


def hide_conditions(conditions: ConditionVectors, dropout: float, generator: torch.Generator) -> ConditionVectors:
    """Hide each condition with probability `dropout`, and all of a sample at once with the same probability."""
    each = torch.rand(conditions.shape, generator=generator) < dropout
    together = torch.rand(len(conditions), 1, generator=generator) < dropout
    return conditions.masked_fill(each | together, torch.nan)
