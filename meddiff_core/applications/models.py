"""The two checkpoints of a study as any task uses them: untouched, frozen, and with gradients to latents.

A task asks for expectations without noise, for volumes of latents, and for latents of volumes, all in the units of
the model. Latents are standardised everywhere here, and the scale of the checkpoint stays in this file.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from meddiff_core.contract import Condition, Contract
from meddiff_core.diffusion.guidance import guided
from meddiff_core.diffusion.solvers import DenoisedAt
from meddiff_core.errors import IntegrityError
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.autoencoder import Autoencoder, load_autoencoder
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import Denoiser, LatentScale, load_denoiser
from meddiff_core.models.inference.packed import packed
from meddiff_core.types import Images, Latents


@dataclass(frozen=True)
class Decoded:
    """A volume as the decoder gives it: what operators look at."""

    image: Float[Tensor, "b i j k"]
    """Intensities from 0 (darkest) to 1; not clipped, so that a gradient never vanishes."""
    labels: Float[Tensor, "b l i j k"]
    """Probability of each stored label value, background first; `l` is 0 for a model without labels."""


@dataclass(frozen=True)
class Models:
    """Both networks, without gradients of their own, on one device."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    scale: LatentScale
    contract: Contract
    digest: str
    """Of both checkpoints: what results and kept calibrations are named by."""
    device: str = "cpu"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(z, u, v, w)."""
        shape = self.autoencoder.shape
        return shape.latent_channels, *shape.latent_size(self.contract.size)

    def decode(self, latents: Latents) -> Decoded:
        """Volumes of latents; gradients flow back to them."""
        volumes = self.autoencoder.decode(self.scale.restore(latents)).float()
        return Decoded((volumes[:, 0] + 1) / 2, volumes[:, 1:])

    @torch.no_grad()
    def encode(self, images: Images) -> Latents:
        """Mean of the latents of volumes, image and label channels as `models.images` gives them."""
        return self.scale.standardise(self.autoencoder.encode(images.to(self.device))[0])

    def denoised_under(
        self, condition: Condition, guidance: float = 1.0, interval: tuple[float, float] = (0.0, float("inf"))
    ) -> DenoisedAt:
        """The denoiser under one condition for all samples of a batch; names that are left out are not known.

        Raises:
            ConfigurationError: a name or a category that training never saw.
        """
        row = encode_conditions([condition], self.contract.conditions).to(self.device)

        def denoised(noisy: Latents, sigma: Tensor) -> Latents:
            return guided(self.denoiser, row.expand(len(noisy), -1), guidance, interval)(noisy, sigma)

        return denoised


@lru_cache(maxsize=1)
def open_models(folder: Path, digest: str, device: str = "cpu") -> Models:
    """The models below `folder`; a worker keeps them from scan to scan, until `digest` says that they are others.

    The denoiser is packed on a CPU, where nothing asks for its gradient.
    """
    keep_freed_memory()
    autoencoder, contract = load_autoencoder(folder / "autoencoder", device)
    denoiser, scale, own = load_denoiser(folder / "denoiser", device)
    if differences := contract.differences(own):
        raise IntegrityError(f"autoencoder and denoiser must share a contract; {'; '.join(differences)}")
    ready = packed(denoiser) if device == "cpu" else denoiser
    return Models(autoencoder, ready, scale, contract, digest, device)
