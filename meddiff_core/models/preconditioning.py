"""Preconditioning: what a network gets as input and what its output means, at each noise level.

Trainings count in steps of a schedule, in the time of a flow or in `sigma`, and predict noise, velocity or data.
All are one formula, `denoised = c_skip * noisy + c_out * network(c_in * noisy, time)`, with a row of a table each.
So a network that was trained by another clock is translated here, once, and solvers and losses never know.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from meddiff_core.contract import Frozen
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Sigma

NOISE_TO_TIME = 100.0
"""ln(sigma) times this enters MONAI's sinusoidal embedding, which resolves steps of about 1."""
Coefficient = Float[Tensor, "b 1 1 1 1"]


class Preconditioning(NamedTuple):
    """One row of the table, for each noise level of a batch."""

    c_skip: Coefficient
    c_out: Coefficient
    c_in: Coefficient
    time: Float[Tensor, " b"]
    """What the network's embedding of time expects."""


class Edm(Frozen):
    """Ours: Karras et al. 2022, table 1, for data of unit variance."""

    kind: Literal["edm"] = "edm"


class Schedule(Frozen):
    """The noise schedule of a DDPM, by its name in MONAI."""

    name: Literal["linear_beta", "scaled_linear_beta", "cosine"]
    num_train_timesteps: Annotated[int, Field(ge=2)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Not of `cosine`. Null: MONAI's default, 0.0001."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Not of `cosine`. Null: MONAI's default, 0.02."""

    @model_validator(mode="after")
    def _betas_fit(self) -> "Schedule":
        if self.name == "cosine" and (self.beta_start, self.beta_end) != (None, None):
            raise ValueError("beta_start and beta_end must be left out for cosine, are given")
        return self


class Epsilon(Frozen):
    """A DDPM that predicts the noise (Ho et al. 2020)."""

    kind: Literal["epsilon"] = "epsilon"
    schedule: Schedule


class VPrediction(Frozen):
    """A DDPM that predicts `sqrt(abar) noise - sqrt(1 - abar) data` (Salimans & Ho 2022)."""

    kind: Literal["v_prediction"] = "v_prediction"
    schedule: Schedule


class RectifiedFlow(Frozen):
    """A straight flow whose network predicts `data - noise`, as MONAI's RFlowScheduler has it."""

    kind: Literal["rectified_flow"] = "rectified_flow"
    num_train_timesteps: Annotated[int, Field(ge=2)] = 1000
    """The time of pure noise."""


Parametrisation = Annotated[Edm | Epsilon | VPrediction | RectifiedFlow, Field(discriminator="kind")]


class EdmClock(nn.Module):
    """Any noise level, told by its logarithm."""

    sigma_range = (0.0, math.inf)

    def forward(self, sigma: Sigma) -> Preconditioning:
        return Preconditioning(*preconditioning(sigma), NOISE_TO_TIME * sigma.log())


class ScheduleClock(nn.Module):
    """The steps of a DDPM, between which time runs evenly in ln(sigma).

    `abar` is MONAI's own, in its float32: that is the noise that the network was shown. With
    `sigma = sqrt((1 - abar) / abar)` its input `sqrt(abar) data + sqrt(1 - abar) noise` is `c_in * noisy`.
    """

    def __init__(self, schedule: Schedule, predicts_velocity: bool) -> None:
        super().__init__()
        kept = alphas_cumprod(schedule)
        self.predicts_velocity = predicts_velocity
        self.log_sigmas: Tensor
        self.register_buffer("log_sigmas", ((1 - kept) / kept).log() / 2, persistent=False)
        self.sigma_range = float(self.log_sigmas[0].exp()), float(self.log_sigmas[-1].exp())

    def forward(self, sigma: Sigma) -> Preconditioning:
        edm = preconditioning(sigma)
        time = interpolate(sigma.double().log(), self.log_sigmas)
        if self.predicts_velocity:
            return Preconditioning(edm[0], -edm[1], edm[2], time)
        level = sigma.reshape(-1, 1, 1, 1, 1)
        return Preconditioning(torch.ones_like(level), -level, edm[2], time)


class FlowClock(nn.Module):
    """`x_t = (1 - t) data + t noise`, so `t = sigma / (1 + sigma)` and `x_t = noisy / (1 + sigma)`.

    The network predicts `data - noise`, so `data = x_t + t * network`.
    """

    def __init__(self, num_train_timesteps: int) -> None:
        super().__init__()
        self.steps = num_train_timesteps
        self.sigma_range = 0.0, float(num_train_timesteps - 1)  # t = 1 - 1 / steps, the last before pure noise

    def forward(self, sigma: Sigma) -> Preconditioning:
        level = sigma.reshape(-1, 1, 1, 1, 1)
        t = sigma.double() / (1 + sigma.double())
        return Preconditioning(1 / (1 + level), level / (1 + level), 1 / (1 + level), t * self.steps)


Clock = EdmClock | ScheduleClock | FlowClock


def clock_of(parametrisation: Edm | Epsilon | VPrediction | RectifiedFlow) -> Clock:
    """The translation that a parametrisation asks for."""
    match parametrisation:
        case Edm():
            return EdmClock()
        case RectifiedFlow():
            return FlowClock(parametrisation.num_train_timesteps)
        case Epsilon() | VPrediction():
            return ScheduleClock(parametrisation.schedule, isinstance(parametrisation, VPrediction))


def preconditioning(sigma: Sigma, sigma_data: float = 1.0) -> tuple[Coefficient, Coefficient, Coefficient]:
    """`c_skip, c_out, c_in` of Karras et al. 2022, table 1."""
    sigma = sigma.reshape(-1, 1, 1, 1, 1)
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


def alphas_cumprod(schedule: Schedule) -> Float[Tensor, " steps"]:
    """MONAI's `abar` of each step, in float64."""
    from monai.networks.schedulers.scheduler import Scheduler

    betas = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    given = {name: value for name, value in betas.items() if value is not None}
    kept: Tensor = Scheduler(schedule.num_train_timesteps, schedule.name, **given).alphas_cumprod
    return kept.double()


def interpolate(values: Float[Tensor, " b"], grid: Float[Tensor, " steps"]) -> Float[Tensor, " b"]:
    """Position of each value between the numbers of a rising grid; at its ends for what lies outside."""
    above = torch.searchsorted(grid, values.contiguous()).clamp(1, len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    return (above - 1 + (values - low) / (high - low)).clamp(0, len(grid) - 1)


def check_sampling(config: SamplingConfig, sigma_range: tuple[float, float]) -> None:
    """Refuse to sample at noise levels that a network was never trained on.

    Raises:
        ConfigurationError: names the keys and the range that they must keep to.
    """
    (low, high), (lowest, highest) = sigma_range, config.span
    if low <= 1.01 * lowest and highest <= high:  # a hundredth less noise is still the lowest step
        return
    fitting = f"[{_rounded(low, math.ceil):g}, {_rounded(high, math.floor):g}], the noise that this denoiser knows"
    keys = "sampling.sigma_min and sampling.sigma_max" if config.sigmas is None else "ends of sampling.sigmas"
    raise ConfigurationError(f"{keys}: must be in {fitting}; are {lowest:g} and {highest:g}")


def _rounded(value: float, towards: Callable[[float], int]) -> float:
    """A value rounded to three digits, up or down."""
    if value in (0, math.inf):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return towards(value / unit) * unit
