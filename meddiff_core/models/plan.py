"""The plan: every decision that was inferred from the data and the hardware, for a person to read and edit."""

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, ValidationError

from meddiff_core.contract import Contract, Frozen
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.denoiser import DenoiserShape
from meddiff_core.study import Augmentation


class TrainingPlan(Frozen):
    """How long and how wide one training is."""

    steps: int
    """0 keeps the weights that the plan starts from as they are."""
    batch: int
    seconds_per_step: float | None = None
    """Measured on this machine when the plan was made; null where that could not be done."""
    seconds_besides: float = 0.0
    """Time of all validations together, measured likewise."""
    memory_gb: float | None = None
    """Peak of weights, optimiser and activations, measured likewise."""
    gradient_checkpointing: bool = False
    """Compute activations again instead of keeping them."""
    patch: tuple[int, int, int] | None = None
    """Voxels of random crops; null for whole volumes."""
    scored: bool = Field(True, validation_alias=AliasChoices("scored", "judged"))
    """Whether samples are scored along the way to select the denoiser's checkpoint; too slow for a short training.
    Plans of older versions call it `judged`."""

    private: bool = False
    """Whether it was measured as a differentially private training, whose steps take longer."""

    @property
    def minutes(self) -> float | None:
        """Predicted duration; null where it was not measured."""
        if not self.steps:
            return 0.0
        if self.seconds_per_step is None:
            return None
        return (self.steps * self.seconds_per_step + self.seconds_besides) / 60


class Plan(Frozen):
    """What the stages after it obey. Edit plan.json before training; the stages after it follow."""

    contract: Contract
    autoencoder: AutoencoderShape
    autoencoder_training: TrainingPlan
    denoiser: DenoiserShape
    denoiser_training: TrainingPlan
    augmentations: tuple[Augmentation, ...] = ()
    """How the denoiser may also see training volumes."""
    variants: Annotated[int, Field(ge=1)] = 4
    """Augmented variants of each training volume."""
    device: str
    """Where training runs."""
    start_from: str | None = None
    """Folder of the checkpoints `autoencoder` and `denoiser` that training starts from, relative to this file:
    `imported` after `meddiff import-model`. Null: from random weights."""
    reasons: dict[str, str]
    """Why each decision came out as it did."""

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """Latent voxels along i, j, k."""
        return self.autoencoder.latent_size(self.contract.size)

    @property
    def minutes(self) -> float | None:
        """Predicted duration of both trainings; null where one was not measured."""
        each = [self.autoencoder_training.minutes, self.denoiser_training.minutes]
        measured = [minutes for minutes in each if minutes is not None]
        return sum(measured) if measured == each else None


def load_plan(path: Path) -> Plan:
    """Read plan.json, which a person may have edited.

    Raises:
        ConfigurationError: names the key that no longer fits.
    """
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigurationError(f"plan.json {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Refuse, with ConfigurationError, decisions that do not go together."""
    if conflicts := plan.contract.name_conflicts():
        raise ConfigurationError(f"plan.json contract.conditions: {'; '.join(conflicts)}")
    factors, size = plan.autoencoder.downsampling, plan.contract.size
    if any(side % factor for side, factor in zip(size, factors, strict=True)):
        factor = factors[0] if len(set(factors)) == 1 else factors
        raise ConfigurationError(f"plan.json contract.size: must be multiples of the latent factor {factor}, is {size}")
    if plan.autoencoder.in_channels != plan.contract.channels:
        expected, found = plan.contract.channels, plan.autoencoder.in_channels
        raise ConfigurationError(f"plan.json autoencoder.in_channels: must be {expected} for this contract, is {found}")
    _check_steps(plan)


def _check_steps(plan: Plan) -> None:
    for name in ("autoencoder_training", "denoiser_training"):
        if plan.start_from is None and getattr(plan, name).steps < 1:
            raise ConfigurationError(f"plan.json {name}.steps: must be at least 1 without start_from, is 0")
    if plan.autoencoder_training.steps and not plan.denoiser_training.steps:
        why = "since the autoencoder's latents change as it trains"
        raise ConfigurationError(f"plan.json denoiser_training.steps: must be at least 1 {why}, is 0")
