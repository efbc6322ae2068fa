"""Training of the denoiser on standardised latents (Karras et al. 2022, 2024).

Weights are averaged over more than one length while they train. At each validation every average generates a few
samples, which are scored against real latents, so that checkpoints are selected by what they generate and not by a
loss, which says little of it.
"""

import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meddiff_core.contract import ConditionSpec
from meddiff_core.diffusion.checkpoint_selection import UNKNOWN, CheckpointSelection, MembershipAttack, SampleScorer
from meddiff_core.diffusion.guidance import guided
from meddiff_core.diffusion.noise import karras_sigmas, loss_weight, training_sigmas
from meddiff_core.diffusion.private import PrivateMechanism
from meddiff_core.diffusion.solvers import solve_heun
from meddiff_core.models.checkpoint import (
    Tensors,
    load_initial,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    unprefixed,
)
from meddiff_core.models.conditions import AUGMENT_DIM, ConditionVectors, NumberFeatures
from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale
from meddiff_core.models.inference.packed import for_inference
from meddiff_core.models.latents import AugmentedLatents, LatentSet, require_scale
from meddiff_core.models.randomness import batch_indices, derive_seed, generator_for
from meddiff_core.models.training.ema import PowerAverage
from meddiff_core.models.training.loading import Ahead
from meddiff_core.models.training.loop import ROLLBACKS, VALIDATIONS, learning_rate_factor, set_learning_rate
from meddiff_core.models.training.ranks import Ranks, add_losses
from meddiff_core.study import DenoiserConfig, SamplingConfig
from meddiff_core.types import Latents, Sigma

VALIDATION_SIGMAS = (0.05, 0.2, 0.8, 3.0, 12.0)
"""Noise levels of the validation curves, from texture to overall shape."""
SCORED = 24
"""Samples that score an average of weights."""
ATTACK = 24
"""Samples to score that take as long as the membership attack on an average, about."""
SCORED_WITH = SamplingConfig(steps=6)
"""Coarse, since only differences between weights matter; 11 network evaluations."""
GUIDE_AT = 0.2
"""Share of the steps after which weights are kept for autoguidance."""
SCORED_FROM = 0.3
"""Share of the steps before which samples are not scored."""


class DenoiserTraining:
    """A `Training` (see models/training/loop.py) of a denoiser and its averages."""

    label = "train denoiser"
    watched = "denoiser/loss"
    relief = "set train.denoiser.gradient_checkpointing, or lower train.denoiser.channels"

    def __init__(
        self,
        shape: DenoiserShape,
        specs: tuple[ConditionSpec, ...],
        config: DenoiserConfig,
        train: tuple[LatentSet, ConditionVectors],
        validation: tuple[LatentSet, Float[Tensor, "v n"]],
        steps: int,
        batch: int,
        seed: int,
        device: str = "cpu",
        *,
        augmented: AugmentedLatents | None = None,
        scorer: SampleScorer | None = None,
        attack: MembershipAttack | None = None,
        ranks: Ranks = Ranks(),
        initial: Path | None = None,
        mechanism: PrivateMechanism | None = None,
    ) -> None:
        torch.manual_seed(derive_seed(seed, "denoiser", "weights"))
        self.network = Denoiser(shape, specs).to(device)
        self.scale: LatentScale = train[0].scale()
        if initial is not None:
            self.scale = LatentScale.model_validate(load_initial(self.network, initial)["scale"])
        require_scale(self.scale, train[0])
        self.uncertainty = Uncertainty().to(device)
        self.averages = {f"{std:g}": PowerAverage(self.network, std) for std in config.ema_std}
        self.network.dropout = config.dropout
        self.network.train()
        if config.gradient_checkpointing:
            self.network.recompute_activations()
        decayed = {"params": list(self.network.parameters()), "weight_decay": config.weight_decay}
        free = {"params": list(self.uncertainty.parameters()), "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW([decayed, free], config.learning_rate, fused=True)
        self.config, self.device = config, device
        self.train, self.validation, self.augmented = train, validation, augmented
        self.steps, self.batch, self.seed = steps, batch, seed
        self.ranks, self.accumulation_steps, self.rate = ranks, 1, 1.0
        self._batches = Ahead(self._batch, enabled=device != "cpu")
        assert mechanism is None or not config.uncertainty_weighting, "its gradient has no noise"
        assert mechanism is None or ranks.count == 1, "each process would add noise of its own"
        self.mechanism = mechanism
        """Of a differentially private training, which must choose nothing by what it sees of the training set."""
        self.rollbacks = ROLLBACKS if mechanism is None else 0
        self.scorer, self.attack = (scorer, attack) if mechanism is None else (None, None)
        self.selection = CheckpointSelection(steps, config.patience)
        self.guide: Tensors | None = None
        """The shortest average after the first GUIDE_AT of the steps, once they are done."""

    @property
    def finished(self) -> bool:
        """Whether going on would not find better weights."""
        return self.selection.finished

    def step(self, step: int) -> dict[str, Tensor]:
        rate = self.rate * self.config.learning_rate * learning_rate_factor(step, self.steps)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        if self.config.dropout:
            torch.manual_seed(derive_seed(self._source, "denoiser", "dropout", step, self.ranks.rank))
        losses = self._set_gradients(step) if self.mechanism is None else self._set_private_gradients(step)
        self.optimizer.step()
        for average in self.averages.values():
            average.update(self.network, step + 1)
        if step + 1 == max(1, round(GUIDE_AT * self.steps)):
            self.guide = {name: tensor.clone() for name, tensor in self._shortest.state_dict().items()}
        return self.ranks.sum_losses(losses)

    def _set_gradients(self, step: int) -> dict[str, Tensor]:
        batch, losses = self._batches(step), [(0.0, {"denoiser/loss": torch.zeros((), device=self.device)})]
        for piece in self.ranks.micro_batches(self.batch, self.accumulation_steps):
            micro_batch = [tensor[piece] for tensor in batch]
            share = len(micro_batch[0]) / self.batch
            loss, weighted = self._losses(*micro_batch)
            (share * loss).backward()
            losses.append((share, {"denoiser/loss": weighted}))
        self.ranks.sum_gradients(self.network)
        self.ranks.sum_gradients(self.uncertainty)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        return add_losses(losses)

    def _set_private_gradients(self, step: int) -> dict[str, Tensor]:
        assert self.mechanism is not None
        batch, errors = self._batches(step), [torch.zeros((), device=self.device)]

        def losses() -> Iterator[Tensor]:
            for item in zip(*(tensor.split(1) for tensor in batch), strict=True):
                loss, weighted = self._losses(*item)
                errors.append(weighted.detach())
                yield loss

        self.mechanism.set_gradients(self.network, losses() if len(batch[0]) else (), step)
        return {"denoiser/loss": torch.stack(errors).sum() / max(1, len(batch[0]))}

    def validate(self, step: int) -> dict[str, float]:
        """Weighted loss of the averages per noise level, on the same noise each time; samples are scored, and the
        weights attacked.
        """
        metrics = self._validation_losses()
        if self.scorer is None or step < SCORED_FROM * self.steps:
            return metrics
        early = self._early()
        for name, average in self.averages.items():
            network = for_inference(average.network, self.device)
            score = self.scorer(self.sample_latents(network))
            membership = UNKNOWN if self.attack is None or early is None else self.attack(network, early, self.device)
            self.selection.consider(step, name, score, average.network.state_dict(), membership)
            attacked = membership.model_dump(exclude={"limit"})
            found = score.model_dump() | {f"membership_{key}": value for key, value in attacked.items()}
            metrics |= {f"selection/{name}/{key}": value for key, value in found.items()}
        return metrics

    @property
    def _source(self) -> object:
        """What the randomness of the steps follows from."""
        return self.seed if self.mechanism is None else self.mechanism.secret

    def _early(self) -> Denoiser | None:
        """The network with the weights that were kept early in the training, as it samples."""
        if self.guide is None:
            return None
        network = deepcopy(self._shortest)
        network.load_state_dict(self.guide)
        return for_inference(network, self.device)

    def validation_seconds(self) -> float:
        """Time that all validations of a whole training take; nearly all of it goes into samples to score."""
        if self.mechanism is not None:
            return 0.0
        started = time.perf_counter()
        self.sample_latents(for_inference(self.network, self.device), self.batch)
        rounds = (1 - SCORED_FROM) * VALIDATIONS * len(self.averages)
        return (time.perf_counter() - started) * rounds * (SCORED + ATTACK) / self.batch

    def health(self) -> list[str]:
        """Troubles that no loss shows."""
        return []

    def result(self) -> tuple[Denoiser, dict[str, object]]:
        """The selected weights, and the facts of their checkpoint; the shortest average if no samples were scored,
        since weights still change fast in a training too short for that. Of a private training it is the longest, in
        which more noise cancels.
        """
        network = self._shortest if self.mechanism is None else self._longest
        weights, facts = network.state_dict(), dict[str, object]()
        if self.selection.curve:
            step, average, weights = self.selection.chosen
            facts["choice"] = {"step": step, "average": average, "curve": self.selection.curve}
        if self.mechanism is not None:
            facts["privacy"] = self.mechanism.guarantee.model_dump()
        network.load_state_dict(weights)
        return network, facts

    @property
    def _shortest(self) -> Denoiser:
        """The average over the fewest steps."""
        return self.averages[min(self.averages, key=float)].network

    @property
    def _longest(self) -> Denoiser:
        """The average over the most steps."""
        return self.averages[max(self.averages, key=float)].network

    def state(self) -> Tensors:
        averages = [prefixed(f"average.{name}", a.network.state_dict()) for name, a in self.averages.items()]
        return {
            **prefixed("network", self.network.state_dict()),
            **prefixed("uncertainty", self.uncertainty.state_dict()),
            **{name: tensor for average in averages for name, tensor in average.items()},
            **prefixed("optimizer", optimizer_tensors(self.optimizer)),
            **prefixed("choice", self.selection.state()),
            **prefixed("guide", self.guide or {}),
            **({} if self.mechanism is None else {"secret": self.mechanism.state()}),
        }

    def restore(self, state: Tensors) -> None:
        self.network.load_state_dict(unprefixed("network", state))
        self.uncertainty.load_state_dict(unprefixed("uncertainty", state))
        for name, average in self.averages.items():
            average.network.load_state_dict(unprefixed(f"average.{name}", state))
        restore_optimizer(self.optimizer, unprefixed("optimizer", state))
        self.selection.restore(unprefixed("choice", state))
        self.guide = unprefixed("guide", state) or None
        if self.mechanism is not None:
            self.mechanism.restore(state["secret"])

    def _batch(self, step: int) -> tuple[Tensor, ...]:
        """Clean latents, noise, noise levels and conditions of the whole batch, augmentations among the conditions."""
        latents, conditions = self.train
        if self.mechanism is None:
            chosen = batch_indices(len(latents), self.batch, step, self.seed, "denoiser")
        else:
            chosen = self.mechanism.batch_indices(step)
        generator = generator_for(self._source, "denoiser", "noise", step)
        clean, augmentations = latents.sample(chosen, generator), torch.zeros(len(chosen), AUGMENT_DIM)
        if self.augmented is not None:
            variants, vectors = self.augmented.sample(chosen, generator)
            replaced = torch.rand(len(chosen), generator=generator) < self.config.augmented_share
            clean = torch.where(replaced[:, None, None, None, None], variants, clean)
            augmentations = torch.where(replaced[:, None], vectors, augmentations)
        sigma = training_sigmas(len(chosen), self.config.sigma_mean, self.config.sigma_std, generator)
        noise = torch.randn(clean.shape, generator=generator)
        kept = drop_conditions(conditions[chosen], self.config.condition_dropout, generator)
        return self.scale.standardise(clean), noise, sigma, torch.cat([kept, augmentations], dim=1)

    def _losses(
        self, clean: Latents, noise: Latents, sigma: Sigma, conditions: ConditionVectors
    ) -> tuple[Tensor, Tensor]:
        """The loss that is minimised (Karras et al. 2024, eq. 21), and the weighted error that people compare."""
        weight = self.network.loss_weight(sigma.to(self.device))
        errors = weight * self._errors(self.network, clean, noise, sigma, conditions)
        if not self.config.uncertainty_weighting:
            return errors.mean(), errors.mean()
        doubt = self.uncertainty(sigma.to(self.device))
        return (errors / doubt.exp() + doubt).mean(), errors.mean()

    @torch.inference_mode()
    def _validation_losses(self) -> dict[str, float]:
        latents, conditions = self.validation
        generator = generator_for(self.seed, "denoiser", "validation")
        clean = self.scale.standardise(latents.sample(torch.arange(len(latents)), generator))
        noise = torch.randn(clean.shape, generator=generator)
        parts = list(zip(*(t.split(self.batch) for t in (clean, noise, conditions)), strict=True))
        network = self._longest
        return {f"validation/loss_sigma_{level}": self._loss_at(network, level, parts) for level in VALIDATION_SIGMAS}

    def _loss_at(self, network: Denoiser, level: float, parts: Sequence[tuple[Tensor, ...]]) -> float:
        """Weighted error at a noise level, over parts of the data no larger than the batches that fit the memory."""
        errors = []
        for clean, noise, conditions in parts:
            sigma = torch.full((len(clean),), level)
            errors.append(loss_weight(sigma) * self._errors(network, clean, noise, sigma, conditions).cpu())
        return float(torch.cat(errors).mean())

    @torch.inference_mode()
    def sample_latents(self, network: Denoiser, count: int = SCORED) -> Latents:
        """Standardised latents, from the same noise and the conditions of the same real subjects each time.

        The subjects are of both sides: with conditions of training subjects alone, samples would rightly be nearer to
        them.
        """
        conditions = torch.cat([self.train[1], self.validation[1]])
        generator = generator_for(self.seed, "denoiser", "judged")
        chosen = torch.randint(len(conditions), (count,), generator=generator)
        start = torch.randn(count, *self.train[0].mean.shape[1:], generator=generator) * SCORED_WITH.sigma_max
        sampled = []
        for noise, given in zip(start.split(self.batch), conditions[chosen].split(self.batch), strict=True):
            denoiser = guided(network, given.to(self.device), guidance=1.0)
            sampled.append(solve_heun(denoiser, noise.to(self.device), karras_sigmas(SCORED_WITH)))
        return torch.cat(sampled).float().cpu()

    def _errors(
        self, network: nn.Module, clean: Latents, noise: Latents, sigma: Sigma, conditions: ConditionVectors
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each sample's denoised latents, on the device."""
        clean, noise, sigma, conditions = (tensor.to(self.device) for tensor in (clean, noise, sigma, conditions))
        noisy = clean + sigma.reshape(-1, 1, 1, 1, 1) * noise
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device != "cpu"):
            denoised = network(noisy, sigma, conditions)
        errors: Tensor = (denoised.float() - clean).square()
        return errors.flatten(1).mean(dim=1)


class Uncertainty(nn.Module):
    """Log-variance of the error that is to be expected at a noise level, learned beside the denoiser.

    Dividing by it gives every noise level the same say in the gradient all through the training (Karras et al.
    2024, section 2.2). It is of no use afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(NumberFeatures.width, 1)
        self.features = NumberFeatures()
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, sigma: Sigma) -> Float[Tensor, " b"]:
        log_variance: Tensor = self.linear(self.features(sigma.log() / 2))
        return log_variance[:, 0]


def drop_conditions(conditions: ConditionVectors, dropout: float, generator: torch.Generator) -> ConditionVectors:
    """Drop each condition with probability `dropout`, and all of a sample at once with the same probability."""
    each = torch.rand(conditions.shape, generator=generator) < dropout
    together = torch.rand(len(conditions), 1, generator=generator) < dropout
    return conditions.masked_fill(each | together, torch.nan)
