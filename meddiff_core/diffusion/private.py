"""Differentially private training (Abadi et al. 2016): a bound on what the weights say of any one training subject.

The unit is the subject with all of its scans. A step takes each subject with the same probability, one scan of it in
one variant, clips its gradient to a length and adds noise in proportion to that; Opacus' accountant says how much.
All of this is random by a secret: the seed of a study stands in its releases, and who knows the noise can subtract it.
"""

import secrets
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from meddiff_core.contract import Frozen
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.randomness import generator_for
from meddiff_core.study import PrivacyConfig

ACCOUNTANT = "rdp"
"""Bounds of Rényi divergences (Mironov 2017): looser than numerical composition, and proven."""


class Guarantee(Frozen):
    """What is promised of a training, and the mechanism that keeps the promise."""

    epsilon: float
    """As accounted for all planned steps; at most what the study asks for."""
    delta: float
    clip: float
    """Length of a subject's gradient at most."""
    noise_multiplier: float
    """Standard deviation of the noise in units of it."""
    sample_rate: float
    """Probability that a step takes a subject."""
    steps: int


def guarantee_for(privacy: PrivacyConfig, subjects: int, batch: int, steps: int) -> Guarantee:
    """The least noise that keeps the promise over so many steps, each of `batch` of the subjects in the mean.

    Raises:
        ConfigurationError: the promise means nothing or cannot be kept, or Opacus is not installed.
    """
    if privacy.delta >= 1 / subjects:
        most = f"{1 / subjects:.2g}, one over the number of training subjects"
        raise ConfigurationError(f"train.denoiser.privacy.delta: must be below {most}, is {privacy.delta:g}")
    if batch > subjects:
        raise ConfigurationError(
            f"train.denoiser.batch: must be at most {subjects}, the training subjects, with privacy, is {batch}"
        )
    try:
        from opacus.accountants.utils import get_noise_multiplier
    except ImportError as error:
        raise ConfigurationError("train.denoiser.privacy needs an extra: pip install 'meddiff[privacy]'") from error
    rate = batch / subjects
    wanted = {"target_epsilon": privacy.epsilon, "target_delta": privacy.delta}
    try:
        with _bounds_that_may_be_loose():
            noise = get_noise_multiplier(**wanted, sample_rate=rate, steps=steps, accountant=ACCOUNTANT)
    except ValueError as error:
        raise ConfigurationError(
            f"train.denoiser.privacy.epsilon: must be reached in {steps} steps of {batch} subjects, "
            f"{privacy.epsilon:g} cannot be: {error}"
        ) from error
    spent = epsilon_of(float(noise), rate, steps, privacy.delta)
    return Guarantee(
        epsilon=spent, delta=privacy.delta, clip=privacy.clip, noise_multiplier=noise, sample_rate=rate, steps=steps
    )


def epsilon_of(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """What so many steps cost; needs Opacus."""
    from opacus.accountants import create_accountant

    accountant = create_accountant(ACCOUNTANT)
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with _bounds_that_may_be_loose():
        return float(accountant.get_epsilon(delta=delta))


class _bounds_that_may_be_loose(warnings.catch_warnings):  # noqa: N801
    """The accountant warns where a finer search could prove a smaller epsilon; what it gives holds all the same."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", "Optimal order is the")


@dataclass
class PrivateMechanism:
    """Which subjects each step takes, and what it makes of their gradients."""

    guarantee: Guarantee
    subjects: Sequence[str]
    """Whose each training volume is."""
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    """What all randomness follows from. It lies in resume points, and nowhere else."""

    def __post_init__(self) -> None:
        rows: dict[str, list[int]] = {}
        for row, subject in enumerate(self.subjects):
            rows.setdefault(subject, []).append(row)
        self._rows = list(rows.values())

    def batch_indices(self, step: int) -> Tensor:
        """Rows of a step: one of each subject that is taken. There may be none."""
        generator = generator_for(self.secret, "subjects", step)
        taken = torch.rand(len(self._rows), generator=generator, dtype=torch.float64) < self.guarantee.sample_rate
        visits = torch.rand(len(self._rows), generator=generator, dtype=torch.float64)
        chosen = [rows[int(visit * len(rows))] for rows, visit in zip(self._rows, visits.tolist(), strict=True)]
        return torch.tensor(chosen, dtype=torch.int64)[taken]

    def set_gradients(self, network: nn.Module, losses: Iterable[Tensor], step: int) -> None:
        """The mean of the clipped gradients of the subjects' losses, with noise, as the gradient of the network.

        Gradients are taken one after another: that holds for every layer, and needs the memory of a single item. The
        mean is over the expected number of subjects, since the true one is not public.
        """
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            length = nn.utils.get_total_norm(gradients)
            factor = self.guarantee.clip / length.clamp_min(self.guarantee.clip)
            torch._foreach_add_(sums, torch._foreach_mul(gradients, factor))
        generator = generator_for(self.secret, "gradient noise", step)
        expected = self.guarantee.sample_rate * len(self._rows)
        scale = self.guarantee.clip * self.guarantee.noise_multiplier
        for parameter, total in zip(parameters, sums, strict=True):
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.grad = (total + scale * noise) / expected

    def state(self) -> Tensor:
        """The secret, for a resume point."""
        return torch.tensor(list(bytes.fromhex(self.secret)), dtype=torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Put back what `state` gave."""
        self.secret = bytes(state.tolist()).hex()


def describe_noise(guarantee: Guarantee, batch: int) -> str:
    """What a promise will cost, before anything is trained."""
    return (
        f"private training: epsilon {guarantee.epsilon:.3g} in {guarantee.steps} steps takes noise of "
        f"{guarantee.noise_multiplier:.3g} times a whole gradient in each weight, on the sum of about {batch}; "
        "it covers the weights of the denoiser and nothing else"
    )


def describe_guarantee(guarantee: Guarantee, imported_autoencoder: bool) -> str:
    """What is promised and what is not, as card and papers say it."""
    rest = (
        "the scale of the latents, the conditions, the choice of the best volume, the screen and the search for copies"
    )
    seen = rest if imported_autoencoder else f"the autoencoder, which encodes and decodes every volume, {rest}"
    return (
        f"The denoiser was trained with differential privacy: epsilon = {guarantee.epsilon:.3g}, delta = "
        f"{guarantee.delta:.2g} for adding or leaving out one training subject with all of its scans (noise of "
        f"{guarantee.noise_multiplier:.3g} times the clipped gradient, {guarantee.steps} steps that take each subject "
        f"with a probability of {guarantee.sample_rate:.2g}, Opacus' {ACCOUNTANT.upper()} accountant). That covers the "
        f"weights of the denoiser for given latents and nothing else: {seen} know the training scans without it, so "
        "there is no formal guarantee for the released volumes."
    )
