"""The denoiser: MONAI's `DiffusionModelUNet` behind its preconditioning.

`denoised(noisy, sigma, conditions)` is the whole interface: the noise level is the only clock, and no
solver or loss ever sees a timestep, not even of a network that was trained with one (see preconditioning.py).
Latents enter standardised, by the scale that the checkpoint carries.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meddiff_core.contract import ConditionSpec, Contract, Frozen
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.checkpoint import (
    Tensors,
    load_beside,
    load_checkpoint,
    load_facts,
    load_weights,
    save_checkpoint,
)
from meddiff_core.models.conditions import ConditionEmbedding, ConditionVectors
from meddiff_core.models.fused_layers import recomputed, replace_slow_layers
from meddiff_core.models.preconditioning import Edm, Parametrisation, clock_of
from meddiff_core.types import Latents, Sigma


class LatentScale(Frozen):
    """Mean and standard deviation of each latent channel over the whole training set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def standardise(self, latents: Latents) -> Latents:
        """Latents with mean 0 and standard deviation 1 per channel."""
        return (latents - _per_channel(self.mean, latents)) / _per_channel(self.std, latents)

    def restore(self, latents: Latents) -> Latents:
        """Standardised latents back to the scale of the decoder."""
        return latents * _per_channel(self.std, latents) + _per_channel(self.mean, latents)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1, 1)


class DenoiserArguments(Frozen):
    """Arguments of MONAI's network besides its widths, by their names there."""

    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    num_head_channels: tuple[int, ...]
    norm_num_groups: int
    norm_eps: float = 1e-6
    resblock_updown: bool = False
    upcast_attention: bool = False
    include_fc: bool = True
    use_combined_linear: bool = False
    use_flash_attention: bool = False


class DenoiserShape(Frozen):
    """What is needed to build the network again."""

    latent_channels: int
    channels: tuple[int, ...]
    arguments: DenoiserArguments | None = None
    """Arguments of a network that was trained elsewhere. Null: ours, with attention at the coarsest level."""
    parametrisation: Parametrisation = Edm()
    """Input and target of the network."""

    @property
    def network(self) -> DenoiserArguments:
        """The arguments in use."""
        levels = len(self.channels)
        return self.arguments or DenoiserArguments(
            num_res_blocks=(1,) * levels,
            attention_levels=(False,) * (levels - 1) + (True,),
            num_head_channels=(32,) * levels,
            norm_num_groups=16,
        )


class Denoiser(nn.Module):
    """Standardised latents with noise of standard deviation `sigma`, to their expectation without it."""

    def __init__(self, shape: DenoiserShape, specs: Sequence[ConditionSpec]) -> None:
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet  # type: ignore[attr-defined]

        self.shape = shape
        self.specs = tuple(specs)
        self.dropout = 0.0
        """Of attention; set it before `train()`."""
        self.clock = clock_of(shape.parametrisation)
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=shape.latent_channels,
            out_channels=shape.latent_channels,
            channels=shape.channels,
            num_class_embeds=1,
            **shape.network.model_dump(),
        )
        # MONAI adds this module's output to the time embedding; ours reads condition vectors.
        embedding = ConditionEmbedding(specs, 4 * shape.channels[0])
        self.network.class_embedding = embedding  # type: ignore[assignment]
        replace_slow_layers(self.network)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # its stub lacks it

    def recompute_activations(self) -> None:
        """Use gradient checkpointing between blocks: less memory, more time, the same gradients."""
        for block in (*self.network.down_blocks, self.network.middle_block, *self.network.up_blocks):
            block.forward = recomputed(block.forward, random=self.dropout > 0)

    def train(self, mode: bool = True) -> "Denoiser":
        """As any module's; attention is dropped in training alone, which MONAI forgets."""
        from monai.networks.blocks import SABlock  # type: ignore[attr-defined]

        for layer in self.modules():
            if isinstance(layer, SABlock):
                layer.dropout_rate = self.dropout if mode else 0.0
        return super().train(mode)

    def forward(self, noisy: Latents, sigma: Sigma, conditions: ConditionVectors) -> Latents:
        """Karras et al. 2022, eq. 7."""
        row = self.clock(sigma)
        scaled = (row.c_in * noisy).contiguous(memory_format=torch.channels_last_3d)
        answer: Tensor = self.network(scaled, row.time, class_labels=conditions)
        denoised: Tensor = row.c_skip * noisy + row.c_out * answer.to(noisy.dtype)
        return denoised

    def loss_weight(self, sigma: Sigma) -> Sigma:
        """Weight of the squared error of `denoised` by which the network's own output counts alike at all levels."""
        weight: Tensor = self.clock(sigma).c_out.flatten() ** -2
        return weight


GUIDE = "guide"


def save_denoiser(
    folder: Path,
    network: Denoiser,
    contract: Contract,
    scale: LatentScale,
    autoencoder: str,
    facts: dict[str, Any],
    guide: Tensors | None = None,
) -> None:
    """Weights, shape, latent scale, contract, and the digest of the autoencoder whose latents it models.

    `guide` are its weights from early in the training, for autoguidance.
    """
    own = {"kind": "denoiser", "shape": network.shape.model_dump(mode="json"), "scale": scale.model_dump(mode="json")}
    context = {"contract": contract.model_dump(mode="json"), "autoencoder": autoencoder}
    beside = {} if guide is None else {GUIDE: guide}
    save_checkpoint(folder, network.state_dict(), {**own, **context, **facts}, beside)


def load_scale(folder: Path) -> LatentScale:
    """The latent scale of a checkpoint, without its weights."""
    return LatentScale.model_validate(load_facts(folder)["scale"])


def load_denoiser(folder: Path, device: str = "cpu") -> tuple[Denoiser, LatentScale, Contract]:
    """The network, ready to use, its latent scale, and the contract of what it generates."""
    tensors, facts = load_checkpoint(folder)
    contract = Contract.model_validate(facts["contract"])
    network = Denoiser(DenoiserShape.model_validate(facts["shape"]), contract.conditions)
    load_weights(network, tensors)
    return network.eval().requires_grad_(False).to(device), LatentScale.model_validate(facts["scale"]), contract


def has_guide(folder: Path) -> bool:
    """Whether a checkpoint holds weights from early in the training."""
    return load_beside(folder, GUIDE) is not None


def load_guide(folder: Path, denoiser: Denoiser) -> Denoiser:
    """The same network with its weights from early in the training, on the same device.

    Raises:
        ConfigurationError: none were kept.
    """
    weights = load_beside(folder, GUIDE)
    if weights is None:
        raise ConfigurationError(
            "sampling.guided_by: must be classifier_free for this denoiser, which has no weights from early in its "
            "training; is autoguidance"
        )
    guide = deepcopy(denoiser)
    load_weights(guide, weights)
    return guide
