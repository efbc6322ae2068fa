"""The autoencoder: MONAI's `AutoencoderKL` over image and one-hot label channels together.

One latent describes a volume and its anatomy, so a decoded label map fits its image. The network's last
channels are label logits; `decode` turns them into probabilities.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.contract import Contract, Frozen
from meddiff_core.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from meddiff_core.types import Images, Latents


class AutoencoderShape(Frozen):
    """What is needed to build the network again."""

    in_channels: int
    channels: tuple[int, ...]
    latent_channels: int

    @property
    def factor(self) -> int:
        """Downsampling along each axis."""
        return int(2 ** (len(self.channels) - 1))

    def latent_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Size (i, j, k) of the latents of volumes of a size."""
        i, j, k = size
        return i // self.factor, j // self.factor, k // self.factor


class Autoencoder(nn.Module):
    """Images to a Gaussian over latents, and latents to images. Axes (b, c, i, j, k)."""

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        from monai.networks.nets import AutoencoderKL  # type: ignore[attr-defined]  # 5 s: only who builds one pays

        self.shape = shape
        self.network = AutoencoderKL(
            spatial_dims=3,
            in_channels=shape.in_channels,
            out_channels=shape.in_channels,
            num_res_blocks=(1,) * len(shape.channels),
            channels=shape.channels,
            attention_levels=(False,) * len(shape.channels),
            latent_channels=shape.latent_channels,
            norm_num_groups=8,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        # Contiguous 3D convolutions are about 8 times slower on the CPU than channels-last ones.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # its stub lacks it

    def encode(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log-variance of the latents."""
        mean, std = self.network.encode(images.contiguous(memory_format=torch.channels_last_3d))
        return mean, 2 * std.log()

    def decode_logits(self, latents: Latents) -> Images:
        """Image in channel 0, label logits in the others."""
        decoded: Tensor = self.network.decode(latents.contiguous(memory_format=torch.channels_last_3d))
        return decoded

    def decode(self, latents: Latents) -> Images:
        """Image in channel 0, label probabilities in the others."""
        decoded = self.decode_logits(latents)
        return torch.cat([decoded[:, :1], functional.softmax(decoded[:, 1:], dim=1)], dim=1)

    def reconstruct(self, images: Images) -> Images:
        """Decode the mean of the latents."""
        return self.decode(self.encode(images)[0])


def save_autoencoder(folder: Path, network: Autoencoder, contract: Contract, facts: dict[str, Any]) -> None:
    """Weights, shape and preprocessing contract as one checkpoint."""
    facts = {"kind": "autoencoder", "shape": network.shape.model_dump(mode="json"), **facts}
    save_checkpoint(folder, network.state_dict(), {**facts, "contract": contract.model_dump(mode="json")})


def load_autoencoder(folder: Path, device: str = "cpu") -> tuple[Autoencoder, Contract]:
    """The network, ready to use, and the contract that its inputs must satisfy."""
    tensors, facts = load_checkpoint(folder)
    network = Autoencoder(AutoencoderShape.model_validate(facts["shape"]))
    load_weights(network, tensors)
    return network.eval().requires_grad_(False).to(device), Contract.model_validate(facts["contract"])
