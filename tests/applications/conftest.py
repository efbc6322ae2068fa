"""Models whose answers are known: an autoencoder that averages cells, and the exact denoiser of Gaussian latents."""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks import volumes
from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.denoiser import Denoiser, LatentScale
from meddiff_core.models.preconditioning import EdmClock
from meddiff_core.types import FloatArray

SIDE = 16
VARIANCE = 0.05
"""Of latents about the mean of their condition."""


class CellMeans(Autoencoder):
    """Latents are means over 2x2x2 voxels, 0 for grey and 5 for bright; what is brighter than 0.7 is the ball."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.shape = AutoencoderShape(in_channels=3, channels=(8, 8), latent_channels=1, strides=((2, 2, 2),))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = (functional.avg_pool3d(images[:, :1], 2) + 0.2) * 5
        return mean, torch.full_like(mean, -20)

    def decode(self, latents: Tensor) -> Tensor:
        image = functional.interpolate(latents, scale_factor=2) / 5 - 0.2
        bright = torch.sigmoid(12 * (image - 0.4))
        return torch.cat([image, 1 - bright, bright], 1)


def ball(size: Tensor) -> Tensor:
    """Mean latents (b, 1, 8, 8, 8) for standardised sizes (b,)."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE / 2) - SIDE / 4 + 0.5] * 3, indexing="ij"))
    return 5 * torch.sigmoid(3 * (2.5 + 0.5 * size.reshape(-1, 1, 1, 1, 1) - grid.square().sum(0).sqrt()))


class GaussianDenoiser(Denoiser):
    """Exact for Gaussian latents about the ball of the condition; an unknown one counts as the mean."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.clock = EdmClock()

    def forward(self, noisy: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        mean, level = ball(torch.nan_to_num(conditions[:, 0])), sigma.reshape(-1, 1, 1, 1, 1)
        return mean + (noisy - mean) * VARIANCE / (VARIANCE + level**2)


@pytest.fixture(autouse=True)
def one_thread() -> Generator[None, None, None]:
    """Small tensors gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def exact_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoencoder of these models reads volumes exactly, so that no network need be trained for it."""
    monkeypatch.setattr(volumes, "FEWEST", 1000)


@pytest.fixture(scope="session")
def models() -> Models:
    """Scans of a bright ball in grey."""
    contract = Contract(
        spacing_mm=(1.0, 1.0, 1.0),
        size=(SIDE,) * 3,
        intensity=IntensityMapping(modality="MR", low=0, high=100, percentiles=(1, 99)),
        mask="none",
        labels={"ball": (1,)},
        conditions=(
            ContinuousCondition(name="ball_mm3", low=250, high=950, mean=523, std=300, group="ball"),
            CategoricalCondition(name="sex", categories=("F", "M")),
        ),
    )
    scale = LatentScale(mean=(0.0,), std=(1.0,))
    return Models(CellMeans().eval(), GaussianDenoiser().eval(), scale, contract, "digest")


@pytest.fixture(scope="session")
def make_scan(models: Models) -> Callable[..., GridScan]:
    """(number) to a healthy scan, with texture that the autoencoder cannot keep; or one of other voxels."""

    def make(number: int, image: FloatArray | None = None) -> GridScan:
        random = torch.Generator().manual_seed(number)
        size = torch.randn(1, generator=random) / 2
        latents = ball(size) + VARIANCE**0.5 * torch.randn((1, 1, 8, 8, 8), generator=random)
        texture = 0.01 * torch.randn((SIDE,) * 3, generator=random)
        made = (models.decode(latents).image[0] + texture).clamp(0, 1).numpy() if image is None else image
        return GridScan(made, np.ones(made.shape, bool), hashlib.sha256(made.tobytes()).hexdigest())

    return make


@pytest.fixture(scope="session")
def calibration(
    models: Models, make_scan: Callable[..., GridScan], tmp_path_factory: pytest.TempPathFactory
) -> Calibration:
    """Of ten healthy scans, whose label maps are known."""

    def scans() -> list[GridScan]:
        healthy = [make_scan(number) for number in range(100, 110)]
        return [replace(scan, labels=(scan.image > 0.7).astype(np.uint8)) for scan in healthy]

    return Calibration(models, scans, tmp_path_factory.mktemp("calibration"))
