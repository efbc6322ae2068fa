"""The description of models that were trained elsewhere: what no weight file says of itself.

Networks, clock, scale and preprocessing, in a small YAML file beside the weights. Whatever is missing or does
not fit is refused by its key, because weights that are read wrongly still give images, only bad ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from meddiff_core.contract import CategoricalCondition, Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import AutoencoderArguments, AutoencoderShape
from meddiff_core.models.denoiser import DenoiserArguments, DenoiserShape, LatentScale
from meddiff_core.models.imported.bundle import Bundle
from meddiff_core.models.preconditioning import Epsilon, RectifiedFlow, Schedule, VPrediction
from meddiff_core.study import Config, Count, Positive, describe_faults, parse_yaml

Network = TypeVar("Network", bound=Config)
KINDS = ("epsilon", "v_prediction", "rectified_flow")
PerLevel = tuple[int, ...]


class AutoencoderNetwork(Config):
    """Arguments of MONAI's `AutoencoderKL`, with its defaults. Those that change no result are read and forgotten."""

    spatial_dims: Literal[3] = 3
    in_channels: Count = 1
    out_channels: Count = 1
    channels: tuple[Count, ...] = (32, 64, 64, 64)
    latent_channels: Count = 3
    num_res_blocks: Count | PerLevel = 2
    attention_levels: tuple[bool, ...] = (False, False, True, True)
    norm_num_groups: Count = 32
    norm_eps: Positive = 1e-6
    with_encoder_nonlocal_attn: bool = True
    with_decoder_nonlocal_attn: bool = True
    use_convtranspose: bool = False
    include_fc: bool = True
    use_combined_linear: bool = False
    use_flash_attention: bool = False
    use_checkpoint: bool = False

    @model_validator(mode="after")
    def _one_value_a_level(self) -> "AutoencoderNetwork":
        levels = len(self.channels)
        _check_levels(levels, num_res_blocks=self.num_res_blocks, attention_levels=self.attention_levels)
        _check_groups(self.channels, self.norm_num_groups)
        return self

    def shape(self, image_range: tuple[float, float]) -> AutoencoderShape:
        """The network's shape as a checkpoint holds it."""
        names = AutoencoderArguments.model_fields.keys() - {"num_res_blocks"}
        blocks = _per_level(self.num_res_blocks, len(self.channels))
        arguments = AutoencoderArguments(num_res_blocks=blocks, **self.model_dump(include=set(names)))
        return AutoencoderShape(
            in_channels=self.in_channels,
            channels=self.channels,
            latent_channels=self.latent_channels,
            arguments=arguments,
            image_range=image_range,
        )


class DenoiserNetwork(Config):
    """Arguments of MONAI's `DiffusionModelUNet`, with its defaults. Those that change no result are read and
    forgotten."""

    spatial_dims: Literal[3] = 3
    in_channels: Count
    out_channels: Count
    channels: tuple[Count, ...] = (32, 64, 64, 64)
    num_res_blocks: Count | PerLevel = 2
    attention_levels: tuple[bool, ...] = (False, False, True, True)
    norm_num_groups: Count = 32
    norm_eps: Positive = 1e-6
    resblock_updown: bool = False
    num_head_channels: Count | PerLevel = 8
    with_conditioning: bool = False
    transformer_num_layers: Count = 1
    cross_attention_dim: Count | None = None
    num_class_embeds: Count | None = None
    upcast_attention: bool = False
    dropout_cattn: float = 0.0
    include_fc: bool = True
    use_combined_linear: bool = False
    use_flash_attention: bool = False

    @model_validator(mode="after")
    def _one_value_a_level(self) -> "DenoiserNetwork":
        levels, per_level = len(self.channels), (self.num_res_blocks, self.num_head_channels)
        _check_levels(levels, attention_levels=self.attention_levels)
        _check_levels(levels, num_res_blocks=per_level[0], num_head_channels=per_level[1])
        _check_groups(self.channels, self.norm_num_groups)
        if self.with_conditioning or self.cross_attention_dim is not None:
            raise ValueError("with_conditioning must be false: a network with cross-attention cannot be asked without")
        return self

    def shape(self, parametrisation: Epsilon | VPrediction | RectifiedFlow) -> DenoiserShape:
        """The network's shape as a checkpoint holds it."""
        names = DenoiserArguments.model_fields.keys() - {"num_res_blocks", "num_head_channels"}
        levels = len(self.channels)
        arguments = DenoiserArguments(
            num_res_blocks=_per_level(self.num_res_blocks, levels),
            num_head_channels=_per_level(self.num_head_channels, levels),
            **self.model_dump(include=set(names)),
        )
        return DenoiserShape(
            latent_channels=self.in_channels,
            channels=self.channels,
            arguments=arguments,
            parametrisation=parametrisation,
        )


def _per_level(value: int | PerLevel, levels: int) -> PerLevel:
    return (value,) * levels if isinstance(value, int) else value


def _check_levels(levels: int, **values: int | tuple[int, ...]) -> None:
    for name, value in values.items():
        if not isinstance(value, int) and len(value) != levels:
            raise ValueError(f"{name} must have one value for each of {levels} channels, has {len(value)}")


def _check_groups(channels: tuple[int, ...], groups: int) -> None:
    if wrong := [width for width in channels if width % groups]:
        raise ValueError(f"channels must be multiples of norm_num_groups {groups}, {wrong[0]} is not")


class AutoencoderDescription(Config):
    """The autoencoder."""

    weights: str
    """Its weights: safetensors, or a torch file that holds tensors alone. Relative to the description."""
    state_key: str | None = None
    """Where the weights lie in a torch file that holds more. Null: found if only one place holds tensors."""
    network: dict[str, Any] = Field(default_factory=dict)
    """Arguments of MONAI's AutoencoderKL. In a bundle: those that replace what its configs say."""
    image_range: tuple[float, float]
    """Its input values of the darkest and the brightest voxel: mostly [0, 1], sometimes [-1, 1]."""

    @model_validator(mode="after")
    def _rising(self) -> "AutoencoderDescription":
        if self.image_range[0] >= self.image_range[1]:
            raise ValueError(f"image_range must be [low, high], is {list(self.image_range)}")
        return self


class DenoiserDescription(Config):
    """The denoiser."""

    weights: str
    """As for the autoencoder."""
    state_key: str | None = None
    """As for the autoencoder."""
    network: dict[str, Any] = Field(default_factory=dict)
    """Arguments of MONAI's DiffusionModelUNet. In a bundle: those that replace what its configs say."""
    kind: Literal["epsilon", "v_prediction", "rectified_flow"] | None = None
    """What it predicts: noise, velocity of a DDPM, or velocity of a rectified flow. Null: as the bundle says."""
    schedule: Schedule | None = None
    """Noise schedule of a DDPM: name, num_train_timesteps, beta_start, beta_end. Null: as the bundle says."""
    num_train_timesteps: Count | None = None
    """Time of pure noise of a rectified flow. Null: as the bundle says, or 1000."""
    scale_factor: Positive | None = None
    """What latents were multiplied by for it. Give this or latent_scale."""
    latent_scale: LatentScale | None = None
    """Mean and standard deviation per channel that latents were standardised with for it."""

    @model_validator(mode="after")
    def _one_scale(self) -> "DenoiserDescription":
        if (self.scale_factor is None) == (self.latent_scale is None):
            given = "neither" if self.scale_factor is None else "both"
            raise ValueError(f"exactly one of scale_factor and latent_scale must be given, is {given}")
        if self.kind == "rectified_flow" and self.schedule is not None:
            raise ValueError("schedule must be left out for rectified_flow, is given")
        if self.kind != "rectified_flow" and self.num_train_timesteps is not None:
            raise ValueError("num_train_timesteps is of rectified_flow; that of a DDPM belongs in its schedule")
        return self


class Description(Config):
    """Both models, and how a scan becomes what they see."""

    bundle: str | None = None
    """Folder of a MONAI bundle whose configs hold the arguments. Relative to the description."""
    autoencoder: AutoencoderDescription
    """Images to latents and back."""
    denoiser: DenoiserDescription
    """The diffusion model on latents."""
    contract: Contract
    """Grid, intensities, labels and conditions, as in a plan.json."""


@dataclass(frozen=True)
class Source:
    """A file of weights, and where they lie in it."""

    path: Path
    state_key: str | None


@dataclass(frozen=True)
class Recipe:
    """All that is needed to convert both models; whatever could not fit has been refused."""

    autoencoder: AutoencoderShape
    autoencoder_source: Source
    denoiser: DenoiserShape
    denoiser_source: Source
    scale: LatentScale
    contract: Contract


def read_description(path: Path) -> Recipe:
    """Read a description, and the configs of its bundle if it names one.

    Raises:
        ConfigurationError: one line per fault that names the key, what it must be and what it is.
    """
    description = _load(path)
    bundle = Bundle() if description.bundle is None else Bundle.open(path.parent / description.bundle)
    return _recipe(description, bundle, path.parent)


def _load(path: Path) -> Description:
    try:
        content = parse_yaml(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"description must be a YAML file, {path} cannot be read") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name} must be YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path.name} must hold keys and values, holds {type(content).__name__}")
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(describe_faults(error, Description)) from error


def _recipe(description: Description, bundle: Bundle, folder: Path) -> Recipe:
    first, second, contract = description.autoencoder, description.denoiser, description.contract
    autoencoder = _network(AutoencoderNetwork, "autoencoder", bundle.arguments("AutoencoderKL", first.network))
    denoiser = _network(DenoiserNetwork, "denoiser", bundle.arguments("DiffusionModelUNet", second.network))
    _check_autoencoder(autoencoder, contract)
    _check_denoiser(denoiser, autoencoder, contract)
    return Recipe(
        autoencoder=autoencoder.shape(first.image_range),
        autoencoder_source=Source(folder / first.weights, first.state_key),
        denoiser=denoiser.shape(_parametrisation(second, bundle)),
        denoiser_source=Source(folder / second.weights, second.state_key),
        scale=_scale(second, autoencoder.latent_channels),
        contract=contract,
    )


def _network(kind: type[Network], name: str, arguments: dict[str, Any]) -> Network:
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        faults = describe_faults(error, kind).splitlines()
        raise ConfigurationError(
            "\n".join(f"{name}.network.{fault}".replace(".: ", ": ") for fault in faults)
        ) from error


def _check_autoencoder(network: AutoencoderNetwork, contract: Contract) -> None:
    if {network.in_channels, network.out_channels} != {contract.channels}:
        expected = f"{contract.channels} for this contract, an image and {contract.channels - 1} label channels"
        found = f"are {network.in_channels} and {network.out_channels}"
        raise ConfigurationError(f"autoencoder.network: in_channels and out_channels must be {expected}; {found}")
    factor = 2 ** (len(network.channels) - 1)
    if any(side % factor for side in contract.size):
        raise ConfigurationError(
            f"contract.size: must be multiples of the latent factor {factor}, is {list(contract.size)}"
        )


def _check_denoiser(network: DenoiserNetwork, autoencoder: AutoencoderNetwork, contract: Contract) -> None:
    if {network.in_channels, network.out_channels} != {autoencoder.latent_channels}:
        expected = f"{autoencoder.latent_channels} as the latents, without channels for conditions"
        found = f"are {network.in_channels} and {network.out_channels}"
        raise ConfigurationError(f"denoiser.network: in_channels and out_channels must be {expected}; {found}")
    factor = 2 ** (len(autoencoder.channels) + len(network.channels) - 2)
    if any(side % factor for side in contract.size):
        raise ConfigurationError(
            f"contract.size: must be multiples of {factor}, which both networks halve; is {list(contract.size)}"
        )
    _check_conditions(network.num_class_embeds, contract)


def _check_conditions(classes: int | None, contract: Contract) -> None:
    names = [spec.name for spec in contract.conditions]
    if classes is None and names:
        raise ConfigurationError(f"contract.conditions: must be [], since the network knows none; holds {names}")
    if classes is None:
        return
    found = [spec.categories for spec in contract.conditions if isinstance(spec, CategoricalCondition)]
    if len(names) != 1 or [len(categories) for categories in found] != [classes]:
        expected = f"one categorical condition whose {classes} categories are in the order of num_class_embeds"
        raise ConfigurationError(f"contract.conditions: must be {expected}; holds {names}")


def _parametrisation(given: DenoiserDescription, bundle: Bundle) -> Epsilon | VPrediction | RectifiedFlow:
    kind = given.kind or bundle.kind()
    if kind not in KINDS:
        raise ConfigurationError(f"denoiser.kind: must be one of {', '.join(KINDS)}, is {kind or 'missing'}")
    if kind == "rectified_flow":
        return RectifiedFlow(num_train_timesteps=given.num_train_timesteps or bundle.num_train_timesteps())
    schedule = given.schedule or bundle.schedule()
    if schedule is None:
        raise ConfigurationError(f"denoiser.schedule: must be given for {kind}, is missing")
    return Epsilon(schedule=schedule) if kind == "epsilon" else VPrediction(schedule=schedule)


def _scale(given: DenoiserDescription, channels: int) -> LatentScale:
    if given.latent_scale is None:
        factor = given.scale_factor
        assert factor is not None
        return LatentScale(mean=(0.0,) * channels, std=(1 / factor,) * channels)
    scale = given.latent_scale
    if {len(scale.mean), len(scale.std)} != {channels} or min(scale.std) <= 0:
        expected = f"a mean and a standard deviation above 0 for each of {channels} latent channels"
        raise ConfigurationError(f"denoiser.latent_scale: must be {expected}, is {scale.model_dump()}")
    return scale
