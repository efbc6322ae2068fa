"""The denoiser: MONAI's `DiffusionModelUNet` behind EDM preconditioning.

`denoised(noisy, sigma, conditions)` is the whole interface: the noise level is the only clock, and no
solver or loss ever sees a timestep. Latents enter standardised, by the scale that the checkpoint carries.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meddiff_core.contract import ConditionSpec, Contract, Frozen
from meddiff_core.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from meddiff_core.models.conditions import ConditionEmbedding, ConditionVectors
from meddiff_core.types import Latents, Sigma

NOISE_TO_TIME = 100.0
"""ln(sigma) times this enters MONAI's sinusoidal embedding, which resolves steps of about 1."""


class LatentScale(Frozen):
    """Mean and deviation of each latent channel over the whole training set."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def standardise(self, latents: Latents) -> Latents:
        """To mean 0 and deviation 1 per channel."""
        return (latents - _per_channel(self.mean, latents)) / _per_channel(self.std, latents)

    def restore(self, latents: Latents) -> Latents:
        """Back to what the decoder expects."""
        return latents * _per_channel(self.std, latents) + _per_channel(self.mean, latents)


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1, 1)


class DenoiserShape(Frozen):
    """What is needed to build the network again."""

    latent_channels: int
    channels: tuple[int, ...]


class Denoiser(nn.Module):
    """Standardised latents with noise of deviation `sigma`, to their expectation without it."""

    def __init__(self, shape: DenoiserShape, specs: Sequence[ConditionSpec]) -> None:
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet  # type: ignore[attr-defined]

        self.shape = shape
        self.specs = tuple(specs)
        levels = len(shape.channels)
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=shape.latent_channels,
            out_channels=shape.latent_channels,
            num_res_blocks=(1,) * levels,
            channels=shape.channels,
            attention_levels=(False,) * (levels - 1) + (True,),
            norm_num_groups=16,
            num_head_channels=32,
            num_class_embeds=1,
        )
        # MONAI adds this module's output to the time embedding; ours reads condition vectors.
        embedding = ConditionEmbedding(specs, 4 * shape.channels[0])
        self.network.class_embedding = embedding  # type: ignore[assignment]
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # its stub lacks it

    def forward(self, noisy: Latents, sigma: Sigma, conditions: ConditionVectors) -> Latents:
        """Karras et al. 2022, eq. 7 and table 1, for data of unit deviation."""
        c_skip, c_out, c_in = preconditioning(sigma)
        scaled = (c_in * noisy).contiguous(memory_format=torch.channels_last_3d)
        residual: Tensor = self.network(scaled, NOISE_TO_TIME * sigma.log(), class_labels=conditions)
        return c_skip * noisy + c_out * residual.to(noisy.dtype)


Coefficient = Float[Tensor, "b 1 1 1 1"]


def preconditioning(sigma: Sigma, sigma_data: float = 1.0) -> tuple[Coefficient, Coefficient, Coefficient]:
    """`c_skip, c_out, c_in` of Karras et al. 2022, table 1."""
    sigma = sigma.reshape(-1, 1, 1, 1, 1)
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


def save_denoiser(
    folder: Path, network: Denoiser, contract: Contract, scale: LatentScale, autoencoder: str, facts: dict[str, Any]
) -> None:
    """Weights, shape, latent scale, contract, and the digest of the autoencoder whose latents it models."""
    own = {"kind": "denoiser", "shape": network.shape.model_dump(mode="json"), "scale": scale.model_dump(mode="json")}
    context = {"contract": contract.model_dump(mode="json"), "autoencoder": autoencoder}
    save_checkpoint(folder, network.state_dict(), {**own, **context, **facts})


def load_denoiser(folder: Path, device: str = "cpu") -> tuple[Denoiser, LatentScale, Contract]:
    """The network, ready to use, its latent scale, and the contract of what it generates."""
    tensors, facts = load_checkpoint(folder)
    contract = Contract.model_validate(facts["contract"])
    network = Denoiser(DenoiserShape.model_validate(facts["shape"]), contract.conditions)
    load_weights(network, tensors)
    return network.eval().requires_grad_(False).to(device), LatentScale.model_validate(facts["scale"]), contract
