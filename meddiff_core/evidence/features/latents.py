"""Features from the autoencoder of the study itself, on a coarse grid."""

from collections.abc import Callable, Sequence

import torch

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.evidence.features.pooling import pooled_latents
from meddiff_core.models.images import load_images
from meddiff_core.types import FloatArray, Images, Latents, Volumes


class LatentFeatures:
    """Posterior means of the study's autoencoder, averaged onto a coarse grid."""

    name = "latents"

    def __init__(self, encode: Callable[[Images], Latents], digest: str, contract: Contract, grid: int = 4) -> None:
        self.encode = encode
        self.contract = contract
        self.grid = grid
        self.digest = digest_of({"latents": digest, "grid": grid})

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, z * cells), with at most `grid` cells along each axis."""
        latents = self.encode(load_images(volumes, indices, self.contract)).float()
        return pooled_latents(latents, self.grid).cpu().numpy()
