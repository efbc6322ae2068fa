"""What a denoiser does not know is told apart from what it knows, by errors that a formula gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meddiff_core.contract import Contract
from meddiff_core.evidence.rejections import DENOISING, REJECTIONS, rejections_of
from meddiff_core.evidence.screening.bounds import load_reference, save_reference
from meddiff_core.evidence.screening.outlier import (
    SIGMAS,
    DenoisingErrors,
    Models,
    OutlierBound,
    Probe,
    fit_outliers,
    open_probe,
)
from meddiff_core.evidence.screening.verdicts import screen_shards
from meddiff_core.study import ScreenConfig
from meddiff_core.types import Latents, Sigma, serial_map

ELEMENTS = 30 * 24**3


class Spread:
    """Volumes whose latents are noise of one standard deviation each: the toy network below knows 1."""

    def __init__(self, *stds: float) -> None:
        self.stds = stds

    def __len__(self) -> int:
        return len(self.stds)

    def image(self, index: int) -> Any:
        return np.full((24, 24, 24), index, np.uint8)

    def label(self, index: int) -> Any:
        return np.zeros((24, 24, 24), np.uint8)


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """The expectation of standard normal data."""
    return noisy / (1 + sigma.reshape(-1, 1, 1, 1, 1) ** 2)


def probe_of(volumes: Spread, contract: Contract, elements: int = ELEMENTS) -> Probe:
    def encode(images: torch.Tensor) -> torch.Tensor:
        index = round(float((images[0, 0, 0, 0, 0] + 1) / 2 * 255))
        generator = torch.Generator().manual_seed(1000 + index)
        return torch.randn(1, 1, 1, 1, elements, generator=generator) * volumes.stds[index]

    return Probe(encode, gaussian, contract)


def expected(std: float, sigma: float) -> float:
    """Mean squared error of `gaussian` on noise of a standard deviation."""
    return (std**2 * sigma**4 + sigma**2) / (1 + sigma**2) ** 2


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_error_is_that_of_the_formula(std: float, contract: Contract) -> None:
    found = probe_of(Spread(std), contract)(Spread(std), 0, seed=7)
    np.testing.assert_allclose(np.exp(found), [expected(std, sigma) for sigma in SIGMAS], rtol=0.01)


def test_noise_is_that_of_the_seed_alone(contract: Contract) -> None:
    probe = probe_of(Spread(1.0, 1.0), contract, elements=64)
    first = probe(Spread(1.0), 0, seed=7)
    assert (probe(Spread(1.0, 1.0), 0, seed=7) == first).all()
    assert not (probe(Spread(1.0), 0, seed=8) == first).any()


def test_a_score_is_the_mean_number_of_standard_deviations() -> None:
    bound = OutlierBound(mean=(0.0, 1.0), std=(1.0, 2.0), largest=1.0)
    np.testing.assert_allclose(bound.score(np.array([[1.0, 5.0], [0.0, 1.0]])), [1.5, 0.0])


def test_the_bound_is_the_declared_quantile_of_train_and_reconstructions_with_its_margin() -> None:
    train = np.random.default_rng(0).normal(size=(400, 3))
    config = ScreenConfig(quantile=0.05, margin=0.0)
    alone = fit_outliers(DenoisingErrors(train, train, train), config)
    assert np.mean(alone.score(train) > alone.largest) == pytest.approx(0.05, abs=0.005)
    wide = fit_outliers(DenoisingErrors(train, train + 1.0, train), config)
    assert wide.largest == pytest.approx(np.quantile(alone.score(train + 1.0), 0.95))
    roomy = fit_outliers(DenoisingErrors(train, train, train), ScreenConfig(quantile=0.05, margin=0.5))
    low, high = np.quantile(alone.score(train), [0.05, 0.95])
    assert roomy.largest == pytest.approx(high + 0.5 * (high - low))


def test_what_the_network_has_not_seen_may_err_as_much_more_as_validation_volumes_do() -> None:
    train = np.random.default_rng(0).normal(size=(100, 3))
    known, unseen, better = (
        fit_outliers(DenoisingErrors(train, train, train + shift), ScreenConfig()) for shift in (0.0, 0.7, -0.7)
    )
    gap = known.score(train + 0.7).mean() - known.score(train).mean()
    assert unseen.largest - known.largest == pytest.approx(gap)
    assert better.largest == known.largest


def test_volumes_unlike_the_training_set_are_told_from_fresh_ones(contract: Contract, finish: Callable) -> None:
    rng = np.random.default_rng(1)
    train, fresh = Spread(*rng.normal(1, 0.05, 60)), Spread(*rng.normal(1, 0.05, 30))
    errors = finish(probe_of(train, contract, 4000).all_errors("train", train))
    bound = fit_outliers(DenoisingErrors(errors, errors, errors), ScreenConfig())

    def rejected(volumes: Spread) -> float:
        found = finish(probe_of(volumes, contract, 4000).all_errors("some", volumes))
        return float((bound.score(found) > bound.largest).mean())

    assert rejected(fresh) <= 0.1
    assert rejected(Spread(*rng.normal(1.5, 0.05, 30))) == 1.0


def test_at_most_so_many_volumes_are_looked_at_evenly(contract: Contract, finish: Callable) -> None:
    volumes = Spread(*np.linspace(0.5, 2, 9))
    probe = probe_of(volumes, contract, 500)
    everything, some = (finish(probe.all_errors("train", volumes, most)) for most in (None, 3))
    np.testing.assert_array_equal(some, everything[[0, 4, 8]])


@pytest.fixture
def screened(
    tmp_path: Path, make_heads: Callable, contract: Contract, finish: Callable, save_models: Callable, fit: Callable,
    save_shard: Callable,
) -> Any:  # fmt: skip
    """(largest score) to the table of two candidates."""
    models = Models(save_models(tmp_path / "models", contract), "digest")
    train, fresh = make_heads(12, 0), make_heads(6, 1)
    probe = open_probe(models)
    errors = DenoisingErrors(*(finish(probe.all_errors("x", volumes)) for volumes in (train, train, fresh)))
    reference, arrays = fit(train, fresh, ScreenConfig(margin=3.0), denoising=errors)
    candidates = make_heads(2, 5)
    shard = save_shard("00-000000", candidates)

    def run(largest: float | None = None, models: Models | None = models) -> Any:
        bound = reference.outliers if largest is None else reference.outliers.model_copy(update={"largest": largest})
        save_reference(tmp_path / "reference", reference.model_copy(update={"outliers": bound}), arrays)
        assert load_reference(tmp_path / "reference")[0].outliers == bound
        work = screen_shards(
            [shard], tmp_path / "candidates.zarr", tmp_path / "reference", contract, serial_map, models
        )
        return finish(work), np.stack([probe(candidates, n, 70 + n) for n in range(2)]), bound

    return run


def test_a_shard_is_judged_by_the_networks_of_the_study(screened: Callable) -> None:
    table, errors, bound = screened()
    np.testing.assert_allclose(table["score.outlier"], bound.score(errors))
    rejecting, _, _ = screened(largest=-1e9)
    assert not rejecting["accepted"].any()
    assert all((DENOISING, "above") in kinds_of(cell) for cell in rejecting[REJECTIONS])


def kinds_of(cell: Any) -> list[Any]:
    return [found.kind for found in rejections_of(cell)]


def test_without_networks_the_score_is_left_out(screened: Callable) -> None:
    table, _, _ = screened(largest=-1e9, models=None)
    assert "score.outlier" not in table
    assert not any((DENOISING, "above") in kinds_of(cell) for cell in table[REJECTIONS])
