"""Features of a small 3D encoder that was trained, on the training volumes alone, to know which views show one volume.

Distances in voxels lose a copy that was flipped, shifted or brightened; this encoder is trained to give a volume
and its augmentations one direction, and other volumes others (NT-Xent, Chen et al. 2020, eq. 1). It has memorised the
training volumes, so it may say what a volume is a copy of, and never how far two sets are apart.
"""

import hashlib
from collections.abc import Generator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.errors import IntegrityError
from meddiff_core.evidence.features.pooling import pooled_image
from meddiff_core.evidence.features.records import preprocessing_digest
from meddiff_core.models.checkpoint import load_checkpoint, load_facts, load_weights, save_checkpoint
from meddiff_core.types import FloatArray, Progress, Volumes

LONGEST = 24
"""Longest side in voxels of what the encoder sees; copies are as plain on it as on 48, and 8 times cheaper."""
WIDTHS = (1, 16, 32, 32)
GROUPS = 4
CELLS = 3
"""Along each axis, of the grid that the last level is averaged onto: where things lie tells volumes apart."""
WIDTH = 64
"""Of the vectors."""
BATCH = 32
LEARNING_RATE = 8e-3
TEMPERATURE = 0.05
RECIPE = "contrastive 1"
"""To be raised whenever training or looking changes."""


class Encoder(nn.Module):
    """Images (b, 1, i, j, k) in [0, 1] to unit vectors (b, 64): strided convolutions, then one linear map."""

    def __init__(self) -> None:
        super().__init__()
        levels = [
            nn.Sequential(nn.Conv3d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(GROUPS, wide), nn.SiLU())
            for narrow, wide in pairwise(WIDTHS)
        ]
        self.levels = nn.Sequential(*levels)
        self.head = nn.Linear(WIDTHS[-1] * CELLS**3, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """Of the images as they are, for training."""
        hidden = functional.adaptive_avg_pool3d(self.levels(images), CELLS)
        return functional.normalize(self.head(hidden.flatten(1)), dim=1)

    def through_flips(self, images: Tensor) -> Tensor:
        """The mean direction of the images and of their left-right flips: a flip changes nothing, by construction."""
        return functional.normalize(self(images) + self(images.flip(2)), dim=1)


class ContrastiveFeatures:
    """Unit vectors of a trained encoder: near 1 in their dot product for two views of one volume."""

    name = "contrastive"

    def __init__(self, encoder: Encoder, contract: Contract) -> None:
        self.encoder = encoder.eval()
        self.contract = contract
        self.digest = _digest_of(encoder)

    @torch.no_grad()
    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, 64)."""
        images = np.stack([pooled_image(volumes.image(index), self.contract, LONGEST) for index in indices])
        device = next(self.encoder.parameters()).device
        return self.encoder.through_flips(torch.from_numpy(images)[:, None].to(device)).cpu().numpy()


def _digest_of(encoder: Encoder) -> str:
    digest = hashlib.sha256(f"contrastive 1, {LONGEST}".encode())
    for name, weight in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def steps_for(count: int) -> int:
    """Steps that suffice for so many volumes: each is seen about 90 times, and 100 to 2000 steps are taken."""
    return int(np.clip(90 * count / BATCH, 100, 2000))


def fit_contrastive(
    volumes: Volumes, contract: Contract, seed: int, steps: int | None = None, device: str = "cpu"
) -> Generator[Progress, None, ContrastiveFeatures]:
    """Train an encoder on volumes of the train side, and on no others.

    The same volumes and seed give the same weights on one machine.
    """
    if len(volumes) < 2:
        raise ValueError(f"a contrast needs at least 2 volumes, got {len(volumes)}")
    total = steps_for(len(volumes)) if steps is None else steps
    encoder, random = _untrained(seed).to(device), torch.Generator().manual_seed(seed)
    images = yield from _load(volumes, contract)
    optimiser = torch.optim.AdamW(encoder.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=total)
    for step in range(total):
        loss = nt_xent(*encoder(_two_views(images, random).to(device)).chunk(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield Progress("train copy detector", step + 1, total, {"nt_xent": loss.item()})
    return ContrastiveFeatures(encoder, contract)


def _untrained(seed: int) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder()


def _two_views(images: Tensor, random: torch.Generator) -> Tensor:
    """(2 b, 1, i, j, k): one view of each of b random images, then another of each in the same order."""
    batch = images[torch.randperm(len(images), generator=random)[:BATCH]].float() / 255
    return augmented(torch.cat([batch, batch]), random)


def _load(volumes: Volumes, contract: Contract) -> Generator[Progress, None, Tensor]:
    """(n, 1, i, j, k) as bytes, at low resolution: 10,000 take less than 140 MB."""
    images = []
    for index in range(len(volumes)):
        images.append(np.rint(pooled_image(volumes.image(index), contract, LONGEST) * 255).astype(np.uint8))
        yield Progress("read volumes for the copy detector", index + 1, len(volumes))
    return torch.from_numpy(np.stack(images))[:, None]


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of finding, for each of 2 b unit vectors (b, d), its other view among the 2 b - 1 others."""
    views = torch.cat([first, second])
    likeness = views @ views.T / TEMPERATURE
    likeness = likeness.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(likeness, other)


def augmented(images: Tensor, random: torch.Generator) -> Tensor:
    """One random view of each image (b, 1, i, j, k) in [0, 1]: warped, then blurred, brightened and noisy."""
    return _brightened(_blurred(_warped(images, random), random), random)


def _uniform(count: int, low: float, high: float, random: torch.Generator) -> Tensor:
    return torch.rand(count, generator=random) * (high - low) + low


def _warped(images: Tensor, random: torch.Generator) -> Tensor:
    """Shifted by up to 1.5 voxels along each axis (3 of a grid of 48), and scaled, turned and sheared by up to 4%."""
    count, sides = len(images), torch.tensor(images.shape[:1:-1])  # grids are addressed (k, j, i)
    matrix = torch.eye(3).repeat(count, 1, 1) + 0.04 * (2 * torch.rand(count, 3, 3, generator=random) - 1)
    shift = 1.5 * (2 * torch.rand(count, 3, generator=random) - 1) * 2 / sides
    theta = torch.cat([matrix, shift[:, :, None]], 2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _blurred(images: Tensor, random: torch.Generator) -> Tensor:
    """A mixture of each image and its local mean."""
    share = _uniform(len(images), -0.5, 1, random).clamp(min=0)
    smooth = functional.avg_pool3d(images, 3, stride=1, padding=1)
    return torch.lerp(images, smooth, share[:, None, None, None, None])


def _brightened(images: Tensor, random: torch.Generator) -> Tensor:
    """Gain of 0.8 to 1.25, gamma of 0.8 to 1.25, noise of up to 0.08 in the foreground."""
    exponents = (_uniform(len(images), -0.22, 0.22, random).exp() for _ in range(2))
    gain, gamma = (value[:, None, None, None, None] for value in exponents)
    noise = torch.randn(images.shape, generator=random)
    strength = _uniform(len(images), 0, 0.08, random)[:, None, None, None, None]
    return gain * images.clamp(min=1e-6) ** gamma + strength * noise * (images > 0)


def save_contrastive(folder: Path, features: ContrastiveFeatures, made_from: str) -> None:
    """Write the encoder as a checkpoint; `made_from` is a digest of its training volumes and seed."""
    facts = {"made_from": made_from, "digest": features.digest, "contract": features.contract.model_dump(mode="json")}
    save_checkpoint(folder, features.encoder.state_dict(), facts)


def load_contrastive(folder: Path, device: str = "cpu") -> ContrastiveFeatures:
    """An encoder that was saved.

    Raises:
        IntegrityError: its weights are not those that were saved.
    """
    tensors, facts = load_checkpoint(folder)
    encoder = Encoder()
    load_weights(encoder, tensors)
    features = ContrastiveFeatures(encoder.to(device), Contract.model_validate(facts["contract"]))
    if features.digest != facts["digest"]:
        digests = f"{facts['digest'][:12]}, holds {features.digest[:12]}"
        raise IntegrityError(f"checkpoint {folder.name} must hold the weights {digests}")
    return features


def contrastive_features(
    folder: Path, volumes: Volumes, contract: Contract, seed: int, made_from: str, device: str = "cpu"
) -> Generator[Progress, None, ContrastiveFeatures]:
    """The encoder in `folder`, if it was made from the same; else a new one, which is saved there."""
    wanted = digest_of([made_from, preprocessing_digest(contract), seed, RECIPE])
    if (kept := _kept(folder, wanted, device)) is not None:
        return kept
    features = yield from fit_contrastive(volumes, contract, seed, device=device)
    save_contrastive(folder, features, wanted)
    return features


def _kept(folder: Path, made_from: str, device: str) -> ContrastiveFeatures | None:
    """The encoder that was saved; None if there is none, a harmed one, or one that was made from something else."""
    try:
        return load_contrastive(folder, device) if load_facts(folder)["made_from"] == made_from else None
    except (OSError, ValueError, KeyError, IntegrityError):
        return None
