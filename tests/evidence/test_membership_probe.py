"""The probe of a training: weights that know their subjects are found, and others are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from meddiff_core.evidence.membership_probe import LatentSide, MembershipProbe, open_probe
from meddiff_core.models.denoiser import LatentScale
from meddiff_core.models.latents import LatentSet

SHAPE = (2, 4, 4, 4)
SCALE = LatentScale(mean=(0.0, 0.0), std=(1.0, 1.0))


def side(subjects: int, seed: int, scans: int = 1) -> LatentSide:
    generator = torch.Generator().manual_seed(seed)
    difficulty = torch.rand(subjects * scans, 1, 1, 1, 1, generator=generator) + 0.5
    mean = difficulty * torch.randn(subjects * scans, *SHAPE, generator=generator)
    names = [f"{seed}-{row // scans}" for row in range(subjects * scans)]
    return LatentSide(LatentSet(mean, torch.full_like(mean, 0.1)), torch.zeros(len(mean), 1), names)


def shrink(noisy: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
    """The best that can be done for latents of unit variance, of which it knows none."""
    return noisy / (1 + sigma.reshape(-1, 1, 1, 1, 1) ** 2)


class Remembers:
    """Moves each volume a part of the way to the nearest that it was trained on."""

    def __init__(self, known: Tensor, share: float) -> None:
        self.known, self.share = known, share

    def __call__(self, noisy: Tensor, sigma: Tensor, conditions: Tensor) -> Tensor:
        nearest = self.known[torch.cdist(noisy.flatten(1), self.known.flatten(1)).argmin(1)]
        plain = shrink(noisy, sigma, conditions)
        near = ((noisy - nearest).flatten(1).std(1) < 1.2 * sigma).reshape(-1, 1, 1, 1, 1)
        return torch.where(near, plain + self.share * (nearest - plain), plain)


def test_weights_that_know_their_subjects_are_found_and_others_are_not() -> None:
    train, validation = side(40, 1), side(20, 2)
    probe = open_probe(train, validation, SCALE, seed=0, limit=0.75)
    assert probe is not None
    assert probe(shrink, shrink, "cpu").auc == 0.5
    found = probe(Remembers(train.latents.mean, 0.05), shrink, "cpu")
    assert found.auc > 0.95
    assert found.betrays
    assert not probe(Remembers(side(40, 3).latents.mean, 0.5), shrink, "cpu").betrays


def test_difficulty_betrays_nobody() -> None:
    """Validation volumes that are harder for any weights."""
    train, validation = side(30, 1), side(30, 2)
    harder = LatentSet(3 * validation.latents.mean, validation.latents.std)
    probe = open_probe(train, replace(validation, latents=harder), SCALE, seed=0, limit=0.75)
    assert probe is not None

    def better(noisy: Tensor, sigma: Tensor, given: Tensor) -> Tensor:
        return noisy - 0.9 * (noisy - shrink(noisy, sigma, given))

    assert probe(better, shrink, "cpu").auc < 0.7
    assert abs(probe(shrink, shrink, "cpu").auc - 0.5) < 1e-9


def test_a_subject_counts_once_and_a_single_one_says_nothing() -> None:
    several = open_probe(side(7, 1, scans=3), side(5, 2), SCALE, seed=0, limit=0.75)
    assert isinstance(several, MembershipProbe)
    assert (several.members, len(several.latents)) == (7, 12)
    assert open_probe(side(7, 1), side(1, 2, scans=4), SCALE, seed=0, limit=0.75) is None


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_within_the_interval(seed: int) -> None:
    """Weights that change how well they denoise without regard to who a volume is of."""
    probe = open_probe(side(40, 10 + seed), side(20, 20 + seed), SCALE, seed=seed, limit=0.75)
    assert probe is not None
    blur = np.random.default_rng(seed).uniform(0.9, 1.0)
    score = probe(lambda noisy, sigma, given: blur * shrink(noisy, sigma, given), shrink, "cpu")
    assert score.low <= 0.5 <= score.high
