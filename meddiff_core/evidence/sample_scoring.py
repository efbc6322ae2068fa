"""Scores of the weights of a denoiser by a few of their samples, taken often and cheaply.

Two questions are asked of samples in latent space: how far they are, as a set, from volumes that the model
never saw, and whether it was volumes of its training that they came to lie beside. The first alone would
praise a model that copies, the second one that generates noise. The audit asks both again, in voxels and of many.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats.contingency import odds_ratio
from torch import Tensor
from torch.nn import functional

from meddiff_core.diffusion.checkpoint_selection import SampleScore
from meddiff_core.errors import TrainingFailed
from meddiff_core.evidence.features.pooling import pooled_latents
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.quality.distances import kernel_distance
from meddiff_core.models.denoiser import LatentScale
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import Latents

SHAPE_CELLS = 3
"""Cells along each axis whose means tell where anatomy lies."""
TEXTURE_CELLS = 2
"""Cells along each axis in which detail is measured."""
OCTAVES = 2
"""Scales of detail, each twice as coarse as the one before."""
KEY_VOXELS, KEY_SIDE = 3, 12
"""Latent voxels along each side of a cell of a key, and the most cells along an axis. Finer keys take a smooth
sample to be near to the most average volume, and miss what it was copied from."""
CONFIDENCE = 0.95
"""Of the lower bound."""
BLOCK = 64
"""Volumes that are sampled at a time."""


class LatentScorer:
    """A `Judge` (see diffusion/choice.py) that holds the real latents of both sides."""

    train: Matrix
    """(n, d) features of the real latents, in standard deviations of the train side."""
    validation: Matrix
    """Likewise."""

    def __init__(self, train: LatentSet, validation: LatentSet, scale: LatentScale, seed: int) -> None:
        """`seed` samples one volume from the posterior of each latent, as training does."""
        generator = generator_for(seed, "judge")
        features, self._train_keys = _views_of(train, scale, generator)
        others, self._validation_keys = _views_of(validation, scale, generator)
        self._centre, std = features.mean(0), features.std(0)
        self._spread = np.where(std > 1e-6 * max(std.max(), 1e-12), std, np.inf)
        self.train, self.validation = self._standardise(features), self._standardise(others)

    def __call__(self, samples: Latents) -> SampleScore:
        """Score standardised latents. The kernel distance is unbiased at any size, so all of train is taken.

        Raises:
            TrainingFailed: a sample is not finite.
        """
        features, keys = self._look_at(samples)
        value, low = attraction(keys, self._train_keys, self._validation_keys)
        return SampleScore(
            validation_distance=kernel_distance(features, self.validation),
            train_distance=kernel_distance(features, self.train),
            nearer_train=value,
            nearer_train_low=low,
        )

    def features(self, samples: Latents) -> Matrix:
        """Features of standardised latents, as `train` and `validation` are. Raises what scoring raises."""
        return self._look_at(samples)[0]

    def _look_at(self, samples: Latents) -> tuple[Matrix, Matrix]:
        if broken := int((~samples.isfinite()).flatten(1).any(1).sum()):
            what = f"samples of the denoiser must be finite, {broken} of {len(samples)} are not"
            raise TrainingFailed(f"{what}; lower train.denoiser.learning_rate")
        features, keys = _views(samples.float().cpu())
        return self._standardise(features), keys

    def _standardise(self, features: Matrix) -> Matrix:
        return np.asarray((features - self._centre) / self._spread)


def open_scorer(train: LatentSet, validation: LatentSet, scale: LatentScale, seed: int) -> LatentScorer | None:
    """The scorer of a study; None where a side has a single volume, which leaves nothing to compare."""
    return LatentScorer(train, validation, scale, seed) if min(len(train), len(validation)) > 1 else None


def attraction(samples: Matrix, train: Matrix, validation: Matrix) -> tuple[float, float]:
    """How much more training rows attract samples than validation rows do, and the lower bound of it.

    A row is reached if it is the nearest real one of some sample. If the model learned nothing of single volumes,
    rows of both sides are reached alike, whatever the sizes of the sides and whatever the samples look like: the
    odds ratio is 1 (Fisher's exact test) and the value, odds / (1 + odds), 0.5. Rows are counted, not samples:
    the samples of a poor model all lie beside one or two average volumes, which says nothing of copies.
    """
    distances = cdist(samples, np.concatenate([train, validation]))
    reached = (distances == distances.min(axis=1, keepdims=True)).any(axis=0)
    table = [_count(reached[: len(train)]), _count(reached[len(train) :])]
    found = odds_ratio(table)
    if np.isnan(found.statistic):  # all rows are reached, which says nothing
        return 0.5, 0.0
    low = found.confidence_interval(CONFIDENCE, alternative="greater").low
    return _share(found.statistic), _share(low)


def _count(reached: NDArray[np.bool_]) -> list[int]:
    return [int(reached.sum()), int((~reached).sum())]


def _share(odds: float) -> float:
    return 1.0 if np.isinf(odds) else float(odds / (1 + odds))


def _views_of(side: LatentSet, scale: LatentScale, generator: torch.Generator) -> tuple[Matrix, Matrix]:
    blocks = torch.arange(len(side)).split(BLOCK)
    features, keys = zip(*[_views(scale.standardise(side.sample(rows, generator))) for rows in blocks], strict=True)
    return np.concatenate(features), np.concatenate(keys)


def _views(latents: Latents) -> tuple[Matrix, Matrix]:
    """(n, d) features for distances between sets, and (n, p) keys for those between single volumes."""
    features = torch.cat([pooled_latents(latents, SHAPE_CELLS), *_textures(latents)], dim=1)
    keys = pooled_latents(latents, *(min(KEY_SIDE, -(-side // KEY_VOXELS)) for side in latents.shape[2:]))
    return features.double().numpy(), keys.double().numpy()


def _textures(latents: Latents) -> list[Tensor]:
    """(n, cells) logarithm of the variance of detail in each cell, scale by scale: low for blur, high for noise."""
    found = []
    for _ in range(OCTAVES):
        smooth = functional.avg_pool3d(functional.pad(latents, (1,) * 6, mode="replicate"), 3, stride=1)
        found.append((pooled_latents((latents - smooth).square(), TEXTURE_CELLS) + 1e-8).log())
        i, j, k = (-(-side // 2) for side in latents.shape[2:])
        latents = functional.adaptive_avg_pool3d(latents, (i, j, k))
    return found
