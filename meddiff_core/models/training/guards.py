"""Failures of a training that are detected early: divergence, posterior collapse, a dead discriminator.

Each of them leaves a training that runs to its end and a model that is of no use, and no single figure shows it.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor

from meddiff_core.types import Latents

HIGH = 4.0
"""Multiple of its median from which a loss is high. A new term in the loss may double the others."""
STRIKES = 3
"""Reports in a row that must be high: a single batch may be hard without any fault."""
RECENT = 20
"""Good reports that the median is taken over."""
FEWEST = 5
"""Good reports before a median means something."""

SILENT_KL = 0.01
"""Nats per element below which a latent channel carries no information on its volume."""
SILENT_RATIO = 0.1
"""Standard deviation of a channel's means, in units of the posterior's, below which noise hides them."""
DOMINANT = 0.95
"""Share of the variance of all latent channels."""

UNDECIDED = 0.25
"""The discriminator's loss if it answers 1/2 to everything."""
BLIND = 0.5
"""The discriminator's loss if it answers 0 to everything, or 1."""
CONSTANT = 0.01
"""Distance from a constant within which the loss of a discriminator counts as constant."""
LONG = 20
"""Fewest steps after which a discriminator is checked."""


class LossGuard:
    """Detects losses that are not finite, and divergence of the one that is watched.

    It has diverged when its mean between two reports was more than `HIGH` times the median of the last good
    reports, `STRIKES` times in a row. A high report is not a good one, so the median does not follow it.
    """

    def __init__(self, good: Sequence[float] = ()) -> None:
        self.good = list(good)
        self.strikes = 0

    @property
    def calm(self) -> bool:
        """Whether the newest report was good: weights that may be about to diverge are not worth keeping."""
        return self.strikes == 0

    def check(self, losses: Mapping[str, float], watched: str) -> str:
        """Add a report; gives what is wrong, or an empty text. `watched` names a loss that is always positive."""
        if wrong := [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]:
            return ", ".join(wrong)
        value, usual = losses[watched], median(self.good) if self.good else math.inf
        if len(self.good) < FEWEST or value <= HIGH * usual:
            self.good, self.strikes = [*self.good, value][-RECENT:], 0
            return ""
        self.strikes += 1
        return f"{watched} rose from {usual:.3g} to {value:.3g}" if self.strikes >= STRIKES else ""


def latent_troubles(mean: Latents, log_variance: Latents) -> list[str]:
    """Posterior collapse and dominance, of the posteriors of several volumes (n, z, u, v, w)."""
    mean, log_variance = (part.double().movedim(1, 0).flatten(1) for part in (mean, log_variance))
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=1)
    variance = mean.var(dim=1, correction=0)
    drowned = variance.sqrt() < SILENT_RATIO * log_variance.exp().mean(dim=1).sqrt()
    return _collapse((divergence < SILENT_KL) | drowned) + _dominance(variance)


def _collapse(silent: Tensor) -> list[str]:
    if not silent.any():
        return []
    channels = ", ".join(str(channel) for channel in silent.nonzero().flatten().tolist())
    advice = "lower train.autoencoder.kl_weight, or latent_channels if reconstructions are good without them"
    return [f"posterior collapse: of {len(silent)} latent channels these carry no information: {channels}; {advice}"]


def _dominance(variance: Tensor) -> list[str]:
    if len(variance) == 1 or variance.max() <= DOMINANT * variance.sum():
        return []
    what = f"latent channel {int(variance.argmax())} of {len(variance)} holds over {DOMINANT:.0%} of the variance"
    return [f"dominant channel: {what}; the others hardly matter: raise train.autoencoder.kl_weight a little"]


def discriminator_troubles(losses: Tensor) -> list[str]:
    """Troubles of a least-squares discriminator, from (number, sum, sum of squares) of its recent losses."""
    count, total, squares = losses.tolist()
    if count < LONG:
        return []
    mean = total / count
    constant = math.sqrt(max(0.0, squares / count - mean**2)) < CONSTANT
    if mean < CONSTANT:
        how = "its loss is near 0: it recognises every reconstruction, and its gradients vanish"
        return [f"dead discriminator: {how}; start it later (train.autoencoder.adversarial_start)"]
    if constant and min(abs(mean - UNDECIDED), abs(mean - BLIND)) < CONSTANT:
        how = "its loss is that of a constant answer"
        return [f"dead discriminator: {how}; the adversarial and perceptual terms are of no use as they are"]
    return []


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no floating-point tensor holds NaN or infinity."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: a GPU raises a class of its own, the CPU's allocator a RuntimeError with its name."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
