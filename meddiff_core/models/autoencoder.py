"""The autoencoder: MONAI's `AutoencoderKL` over image and one-hot label channels together.

One latent describes a volume and its anatomy, so a decoded label map fits its image. The network's last
channels are label logits; `decode` turns them into probabilities.
"""

import math
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.contract import Contract, Frozen
from meddiff_core.models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from meddiff_core.models.fused_layers import DOUBLED, Factors, recomputed, replace_slow_layers, set_strides
from meddiff_core.models.inference.exact_group_norm import use_exact_group_norms
from meddiff_core.types import Images, Latents

Stride = Annotated[int, Field(ge=1, le=2)]


class AutoencoderArguments(Frozen):
    """Arguments of MONAI's network besides its widths, by their names there."""

    num_res_blocks: tuple[int, ...]
    attention_levels: tuple[bool, ...]
    norm_num_groups: int
    norm_eps: float = 1e-6
    with_encoder_nonlocal_attn: bool = False
    with_decoder_nonlocal_attn: bool = False
    use_convtranspose: bool = False
    include_fc: bool = True
    use_combined_linear: bool = False
    use_flash_attention: bool = False


class AutoencoderShape(Frozen):
    """What is needed to build the network again."""

    in_channels: int
    channels: tuple[int, ...]
    latent_channels: int
    arguments: AutoencoderArguments | None = None
    """Arguments of a network that was trained elsewhere. Null: ours, without attention."""
    strides: tuple[tuple[Stride, Stride, Stride], ...] | None = None
    """Downsampling from each level to the next along i, j, k. Null: 2 along each."""
    image_range: tuple[float, float] = (-1.0, 1.0)
    """Input values of the darkest and the brightest voxel."""

    @property
    def network(self) -> AutoencoderArguments:
        """The arguments in use."""
        levels = len(self.channels)
        return self.arguments or AutoencoderArguments(
            num_res_blocks=(1,) * levels, attention_levels=(False,) * levels, norm_num_groups=8
        )

    @model_validator(mode="after")
    def _has_a_stride_between_levels(self) -> "AutoencoderShape":
        if len(self.level_strides) != len(self.channels) - 1:
            expected = f"{len(self.channels) - 1} for {len(self.channels)} levels"
            raise ValueError(f"strides must be {expected}, are {len(self.level_strides)}")
        return self

    @property
    def level_strides(self) -> tuple[Factors, ...]:
        """The strides in use."""
        return (DOUBLED,) * (len(self.channels) - 1) if self.strides is None else self.strides

    @property
    def downsampling(self) -> Factors:
        """Voxels of a volume per latent voxel along i, j, k."""
        i, j, k = (math.prod(stride[axis] for stride in self.level_strides) for axis in range(3))
        return i, j, k

    def latent_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Size (i, j, k) of the latents of volumes of a size."""
        i, j, k = (side // factor for side, factor in zip(size, self.downsampling, strict=True))
        return i, j, k


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
            channels=shape.channels,
            latent_channels=shape.latent_channels,
            **shape.network.model_dump(),
        )
        replace_slow_layers(self.network)
        set_strides(self.network, shape.level_strides)
        use_exact_group_norms(self.network.decoder)
        # Contiguous 3D convolutions are about 8 times slower on the CPU than channels-last ones.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # its stub lacks it

    def recompute_activations(self) -> None:
        """Use gradient checkpointing between blocks: less memory, more time, the same gradients."""
        for part in (self.network.encoder, self.network.decoder):
            for block in part.get_submodule("blocks").children():
                block.forward = recomputed(block.forward)

    @property
    def last_weight(self) -> Tensor:
        """Weight of the decoder's last layer."""
        *_, weight = (weight for name, weight in self.network.decoder.named_parameters() if name.endswith("weight"))
        return weight

    def encode(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log-variance of the latents."""
        shown = rescale_image(images, (-1.0, 1.0), self.shape.image_range)
        mean, std = self.network.encode(shown.contiguous(memory_format=torch.channels_last_3d))
        return mean, 2 * std.log()

    def decode_logits(self, latents: Latents) -> Images:
        """Image in channel 0, label logits in the others."""
        decoded: Tensor = self.network.decode(latents.contiguous(memory_format=torch.channels_last_3d))
        return rescale_image(decoded, self.shape.image_range, (-1.0, 1.0))

    def decode(self, latents: Latents) -> Images:
        """Image in channel 0, label probabilities in the others."""
        return label_probabilities(self.decode_logits(latents))

    def reconstruct(self, images: Images) -> Images:
        """Decode the mean of the latents."""
        return self.decode(self.encode(images)[0])


def label_probabilities(decoded: Images) -> Images:
    """Logits in the channels after the image to probabilities."""
    return torch.cat([decoded[:, :1], functional.softmax(decoded[:, 1:], dim=1)], dim=1)


def rescale_image(images: Images, old: tuple[float, float], new: tuple[float, float]) -> Images:
    """Channel 0 from one range to another, linearly; the other channels as they are."""
    if old == new:
        return images
    image = (images[:, :1] - old[0]) * ((new[1] - new[0]) / (old[1] - old[0])) + new[0]
    return torch.cat([image, images[:, 1:]], dim=1)


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
