"""Scores of samples: they see blur, noise, copies and monotony, and leave fresh volumes alone."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from meddiff_core.diffusion.checkpoint_selection import MARGIN, CheckpointSelection, SampleScore
from meddiff_core.errors import TrainingFailed
from meddiff_core.evidence.sample_scoring import LatentScorer, attraction, open_scorer
from meddiff_core.models.latents import LatentSet

TRAIN, VALIDATION, SAMPLES = 72, 24, 24
SIZE = (2, 8, 10, 8)
Change = Callable[[Tensor], Tensor]


def smooth(latents: Tensor) -> Tensor:
    return functional.avg_pool3d(functional.pad(latents, (1,) * 6, mode="replicate"), 3, stride=1)


def volumes(count: int, seed: int, size: tuple[int, int, int, int] = SIZE) -> Tensor:
    """Smooth fields with a finer one on them, over what all have in common."""
    common = torch.randn((1, *size), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn((count, *size), generator=generator) for _ in range(2))
    return 2 * smooth(common) + 4 * smooth(smooth(coarse)) + 0.4 * fine


def blurred(latents: Tensor, times: int) -> Tensor:
    for _ in range(times):
        latents = smooth(latents)
    return latents


def latents(mean: Tensor) -> LatentSet:
    return LatentSet(mean, torch.full_like(mean, 0.05))


def scorer_of(train: LatentSet, validation: LatentSet) -> LatentScorer:
    scorer = open_scorer(train, validation, train.scale(), seed=0)
    assert scorer is not None
    return scorer


@pytest.fixture(scope="module")
def train() -> LatentSet:
    return latents(volumes(TRAIN, 1))


@pytest.fixture(scope="module")
def scorer(train: LatentSet) -> LatentScorer:
    return scorer_of(train, latents(volumes(VALIDATION, 2)))


@pytest.fixture(scope="module")
def scored(scorer: LatentScorer, train: LatentSet) -> Callable[[Tensor], SampleScore]:
    return lambda samples: scorer(train.scale().standardise(samples))


def copies(score: SampleScore) -> bool:
    return score.nearer_train_low > 0.5 + MARGIN


def noisy(samples: Tensor, amount: float) -> Tensor:
    return samples + amount * torch.randn(samples.shape, generator=torch.Generator().manual_seed(3))


def test_fresh_volumes_are_at_distance_zero_and_no_copies(scored: Callable[[Tensor], SampleScore]) -> None:
    found = [scored(volumes(SAMPLES, 10 + seed)) for seed in range(12)]
    for side in ("validation_distance", "train_distance"):
        values = [getattr(score, side) for score in found]
        assert abs(np.mean(values)) < 3 * np.std(values)
    assert np.mean([score.nearer_train for score in found]) == pytest.approx(0.5, abs=0.2)  # of one split
    assert sum(map(copies, found)) <= 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: 0.8 * x + 0.2 * smooth(x), id="blur"),
        pytest.param(lambda x: x - 0.5 * (blurred(x, 1) - blurred(x, 3)), id="middle scales too faint"),
        pytest.param(lambda x: noisy(x, 0.4), id="noise"),
        pytest.param(lambda x: x + 0.5, id="shift"),
        pytest.param(lambda x: x.flip(2), id="mirrored"),
        pytest.param(lambda x: x.mean(0) + 0.7 * (x - x.mean(0)), id="too alike"),
        pytest.param(lambda x: noisy(x[:3].repeat(8, 1, 1, 1, 1), 0.05), id="three kinds"),
        pytest.param(lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(4)), id="nothing learned"),
    ],
)
def test_a_fault_is_farther_than_any_fresh_volumes(scored: Callable[[Tensor], SampleScore], change: Change) -> None:
    fresh = [scored(volumes(SAMPLES, 10 + seed)).validation_distance for seed in range(6)]
    found = scored(change(volumes(SAMPLES, 10))).validation_distance
    assert found > max(fresh) + 2 * np.std(fresh)


def test_more_blur_is_farther(scored: Callable[[Tensor], SampleScore]) -> None:
    fresh = volumes(SAMPLES, 10)
    found = [scored((1 - share) * fresh + share * smooth(fresh)).validation_distance for share in (0, 0.1, 0.3, 1)]
    assert found == sorted(found)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x, id="exact"),
        pytest.param(lambda x: noisy(x, 0.5), id="noise"),
        pytest.param(smooth, id="blur"),
        pytest.param(lambda x: x * 1.2 + 0.1, id="gain and offset"),
    ],
)
def test_copies_are_found_though_altered(
    scored: Callable[[Tensor], SampleScore], train: LatentSet, change: Change
) -> None:
    found = scored(change(train.mean[:SAMPLES]))
    assert found.nearer_train > 0.9
    assert copies(found)


def test_blurred_copies_of_grainy_volumes_are_found() -> None:
    """Voxel by voxel, a smooth sample is nearest to whichever volume has the least grain."""
    generator = torch.Generator().manual_seed(5)

    def grainy(volumes: Tensor) -> Tensor:
        grain = 3 * torch.rand((len(volumes), 1, 1, 1, 1), generator=generator)
        return volumes + grain * torch.randn(volumes.shape, generator=generator)

    train, validation = (latents(grainy(volumes(count, seed))) for count, seed in ((TRAIN, 1), (VALIDATION, 2)))
    scorer = scorer_of(train, validation)
    assert copies(scorer(train.scale().standardise(blurred(train.mean[:SAMPLES], 2))))


def test_copies_are_nearer_to_the_training_set_as_a_set(
    scored: Callable[[Tensor], SampleScore], train: LatentSet
) -> None:
    found = scored(train.mean[:SAMPLES])
    assert found.train_distance < found.validation_distance


def test_copies_of_validation_volumes_are_on_the_other_side(scored: Callable[[Tensor], SampleScore]) -> None:
    assert scored(volumes(VALIDATION, 2)).nearer_train < 0.1


def test_a_selection_ends_when_samples_are_the_training_set(
    scored: Callable[[Tensor], SampleScore], train: LatentSet
) -> None:
    selection, fresh, learned = CheckpointSelection(1000, 6), volumes(SAMPLES, 10), train.mean[:SAMPLES]
    for step, share in ((100, 0.0), (200, 0.0), (300, 1.0), (400, 1.0)):
        first = smooth(fresh) if step == 100 else fresh
        samples = (1 - share) * first + share * learned
        selection.consider(step, "0.1", scored(samples), {"a": torch.tensor(step)})
    assert selection.finished
    assert selection.chosen.step == 200


def points(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 6))


@pytest.mark.parametrize(("train", "validation"), [(108, 19), (40, 40)])
def test_no_difference_is_taken_for_one_at_most_as_often_as_it_says(train: int, validation: int) -> None:
    found = [attraction(points(24, 3 * n), points(train, 3 * n + 1), points(validation, 3 * n + 2)) for n in range(150)]
    assert np.mean([low > 0.5 for _, low in found]) < 0.09  # 5% are meant; three standard deviations of 150 samples
    assert np.median([value for value, _ in found]) == pytest.approx(0.5, abs=0.06)


def test_pure_copies_reach_one_though_validation_is_the_smaller_side() -> None:
    """A comparison with training subsets of the size of validation would give 0.5 + 19 / (2 * 108)."""
    train = points(108, 1)
    assert attraction(train[:24], train, points(19, 2))[0] == 1.0


def test_many_samples_at_one_place_are_one_observation() -> None:
    """Those of a poor model all lie beside the most average volume, which is mostly a training volume."""
    train, validation = points(108, 1), points(19, 2)
    alike = train[7] + 0.01 * points(24, 0)
    assert attraction(alike, train, validation)[1] < 0.5


def test_the_sides_have_the_same_part() -> None:
    samples, one, other = points(24, 0), points(50, 1), points(20, 2)
    assert attraction(samples, one, other)[0] + attraction(samples, other, one)[0] == pytest.approx(1)


def test_what_is_as_near_to_both_sides_speaks_for_neither() -> None:
    same = points(20, 1)
    value, low = attraction(points(8, 0), same, same)
    assert value == pytest.approx(0.5)
    assert low < 0.5
    assert attraction(same, same, same) == (0.5, 0.0)


def test_the_same_samples_are_scored_the_same(train: LatentSet, scorer: LatentScorer) -> None:
    again = scorer_of(train, latents(volumes(VALIDATION, 2)))
    samples = train.scale().standardise(volumes(SAMPLES, 10))
    assert scorer(samples) == scorer(samples) == again(samples)


def test_samples_that_are_not_finite_are_refused(scorer: LatentScorer) -> None:
    samples = torch.zeros(4, *SIZE)
    samples[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(TrainingFailed, match="1 of 4 are not"):
        scorer(samples)


def test_a_side_of_one_volume_has_no_scorer(train: LatentSet) -> None:
    assert open_scorer(train, latents(volumes(1, 2)), train.scale(), seed=0) is None


@pytest.mark.parametrize("size", [(1, 2, 2, 2), (3, 5, 7, 4), (1, 4, 40, 38)])
def test_any_size_of_latents_can_be_scored(size: tuple[int, int, int, int]) -> None:
    scorer = scorer_of(latents(volumes(6, 1, size)), latents(volumes(3, 2, size)))
    scorer(volumes(4, 3, size))


def test_a_channel_that_never_varies_says_nothing() -> None:
    """Its standard deviation is 0, which nothing may be divided by."""
    constant = volumes(6, 1)
    constant[:, 1] = 7.0
    side = LatentSet(constant, torch.zeros_like(constant))
    scale = side.scale().model_copy(update={"std": (1.0, 1.0)})
    scorer = LatentScorer(side, side, scale, seed=0)
    scorer(torch.randn((4, *SIZE), generator=torch.Generator().manual_seed(0)))


def test_a_score_takes_less_than_a_second() -> None:
    size = (4, 10, 12, 10)
    scorer = scorer_of(latents(volumes(108, 1, size)), latents(volumes(23, 2, size)))
    samples, seconds = volumes(32, 3, size), []
    for _ in range(3):
        started = time.perf_counter()
        scorer(samples)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1
