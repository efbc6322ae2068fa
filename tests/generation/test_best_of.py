"""The best of n is kept, whatever else is sampled with it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meddiff_core.contract import ContinuousCondition, Contract
from meddiff_core.evidence.measurements import measure
from meddiff_core.generation.best_of import (
    DRAFT_SIGMA,
    distance_to_condition,
    draft_config,
    request_with_noise,
    structure_volumes,
)
from meddiff_core.generation.engine import Engine, Sampled, open_engine
from meddiff_core.generation.predictors import Predictors, Target, latent_features
from meddiff_core.generation.schedule import SampleRequest, Shard
from meddiff_core.generation.shards import Candidates, ShardJob, make_shard
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.denoiser import Denoiser, load_denoiser
from meddiff_core.study import CalibrationConfig, SamplingConfig

Sampling = Callable[..., SamplingConfig]


@pytest.fixture(scope="module")
def measurable(contract: Contract) -> Contract:
    """A contract with a condition that label maps tell, beside others that they do not."""
    left = ContinuousCondition(name="left_mm3", low=0, high=4096, mean=1500, std=500, group="left")
    return contract.model_copy(update={"conditions": (*contract.conditions, left)})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, save_models: Callable[..., Path], measurable: Contract) -> Path:
    return save_models(tmp_path_factory.mktemp("measurable"), measurable)


def samples(count: int) -> list[SampleRequest]:
    """Every third asks for nothing measurable."""
    asked = [{"age": 40.0, "left_mm3": 300.0 + 450 * n} if n % 3 else {"sex": "F"} for n in range(count)]
    return [SampleRequest(f"syn-{n:06d}-0", n, 0, 1000 + n, condition) for n, condition in enumerate(asked)]


def sample(models: Path, config: SamplingConfig, wanted: list[SampleRequest]) -> Sampled:
    return open_engine(models, "digest", config, "cpu").sample_nearest(wanted)


def same(one: Sampled, other: Sampled, rows: list[int]) -> bool:
    assert one.labels is not None
    assert other.labels is not None
    arrays = ((one.images, other.images), (one.labels, other.labels), (one.latents, other.latents))
    told = ((one.kept, other.kept), (one.distances, other.distances))
    return all(np.array_equal(a, b[rows]) for a, b in arrays) and all(list(a) == [b[n] for n in rows] for a, b in told)


def test_the_first_noise_is_the_sample_itself(models: Path, sampling: Sampling) -> None:
    wanted = samples(4)
    assert request_with_noise(wanted[1], 0) == wanted[1]
    seeds = {request_with_noise(sample, number).seed for sample in wanted for number in range(8)}
    assert len(seeds) == 4 * 8
    one = sample(models, sampling(best_of=1), wanted)
    assert one.kept == (0, 0, 0, 0)


def test_the_nearest_is_kept_of_what_each_seed_gives_alone(
    models: Path, sampling: Sampling, measurable: Contract
) -> None:
    wanted, plain = samples(6), sampling(best_of=1)
    found = sample(models, sampling(best_of=4, batch=3), wanted)
    for n, asked in enumerate(wanted):
        numbers = range(4 if "left_mm3" in asked.condition else 1)
        alone = [sample(models, plain, [request_with_noise(asked, number)]) for number in numbers]
        distances = [one.distances[0] for one in alone]
        kept = 0 if distances[0] is None else int(np.argmin(distances))  # type: ignore[arg-type]
        assert found.kept[n] == kept
        assert found.distances[n] == distances[kept]
        assert np.array_equal(found.images[n], alone[kept].images[0])
        assert torch.equal(found.latents[n], alone[kept].latents[0])
    assert any(found.kept)
    assert found.distances[0] is None


DRAFTED = {"best_of": 4, "draft_steps": 2, "steps": 4, "sigma_max": 20.0}


def test_a_draft_chooses_and_what_is_kept_is_what_its_noise_gives_alone(models: Path, sampling: Sampling) -> None:
    """Other settings than the number of volumes would change what a release regenerates by."""
    wanted, config = samples(6), sampling(**DRAFTED, batch=3)
    drafts = draft_config(config)
    assert drafts is not None
    assert (drafts.levels, drafts.span) == (2, (DRAFT_SIGMA, 20.0))
    found, plain = sample(models, config, wanted), config.model_copy(update={"best_of": 1})
    for n, asked in enumerate(wanted):
        numbers = range(4 if "left_mm3" in asked.condition else 1)
        each = [request_with_noise(asked, number) for number in numbers]
        distances = [sample(models, drafts.model_copy(update={"best_of": 1}), [one]).distances[0] for one in each]
        kept = 0 if distances[0] is None else int(np.argmin(distances))  # type: ignore[arg-type]
        assert found.kept[n] == kept
        alone = sample(models, plain, [request_with_noise(asked, kept)])
        assert np.array_equal(found.images[n], alone.images[0])
        assert torch.equal(found.latents[n], alone.latents[0])
        assert found.distances[n] == alone.distances[0]
    assert any(found.kept)
    together = [4, 2, 0, 1, 3, 5]
    assert same(sample(models, sampling(**DRAFTED), [wanted[n] for n in together]), found, together)


@pytest.mark.parametrize(
    "changes",
    [
        {"draft_steps": None},
        {"draft_steps": 4},
        {"solver": "ancestral"},
        {"best_of": 1},
        {"sigma_max": 0.25},
        {"sigmas": (9.0, 1.0, 0.5)},
    ],
    ids=["none", "no shorter", "fresh noise", "nothing to compare", "below a draft's end", "given levels end above"],
)
def test_where_a_draft_would_foresee_nothing_or_save_nothing_all_are_sampled_in_full(
    sampling: Sampling, changes: dict[str, Any]
) -> None:
    assert draft_config(sampling(**DRAFTED | changes)) is None


def test_a_draft_costs_its_levels_alone(models: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    config, forward = sampling(**DRAFTED, batch=8), Denoiser.forward

    def counted(self: Denoiser, noisy: torch.Tensor, *more: Any) -> torch.Tensor:
        calls.append(len(noisy))
        return forward(self, noisy, *more)

    monkeypatch.setattr(Denoiser, "forward", counted)
    sample(models, config, samples(3)[1:])  # both ask for something measurable
    assert sum(calls) == 2 * 4 * 2 + 2 * 4


def test_the_best_of_more_is_never_further_away(models: Path, sampling: Sampling) -> None:
    rows = [sample(models, sampling(best_of=count, batch=8), samples(6)).distances for count in (1, 2, 4, 8)]
    for fewer, more in pairwise(rows):
        assert all(b <= a for a, b in zip(fewer, more, strict=True) if a is not None and b is not None)
    assert rows[0] != rows[-1]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_choice_depends_on_no_batch_place_or_neighbour(models: Path, sampling: Sampling, batch: int) -> None:
    wanted = samples(5)
    together = sample(models, sampling(best_of=4), wanted)
    config, order = sampling(best_of=4, batch=batch), [4, 2, 0, 1, 3]
    assert same(sample(models, config, [wanted[n] for n in order]), together, order)
    for n in range(5):
        assert same(sample(models, config, [wanted[n]]), together, [n])


def test_the_choice_depends_on_no_shard_and_no_restart_and_is_written_down(
    models: Path, sampling: Sampling, tmp_path: Path
) -> None:
    wanted, config = samples(4), sampling(best_of=4)
    found = sample(models, config, wanted)
    for size in (4, 2):
        folder = tmp_path / str(size)
        folder.mkdir()
        shards = [Shard(f"00-{start:06d}", tuple(wanted[start : start + size])) for start in range(0, 4, size)]
        jobs = [ShardJob(shard, folder, models, "digest", config, "cpu") for shard in shards]
        for job in reversed(jobs):
            assert make_shard(job) == make_shard(job)
        volumes = Candidates(folder, [(shard.name, place) for shard in shards for place in range(size)])
        assert volumes.kept() == list(zip(found.kept, found.distances, strict=True))
        assert all(np.array_equal(volumes.image(n), found.images[n]) for n in range(4))


def test_what_latents_tell_of_a_condition_chooses_too(models: Path, sampling: Sampling) -> None:
    """Features are the means of the latents here, and age is ten times the first of them."""
    blank = latent_features(sample(models, sampling(best_of=1), samples(1)).latents).shape[1]
    weights = np.zeros((blank + 1, 1))
    weights[0] = 10
    ages = Target(condition="age", std=10, r=0.9, slope=1, intercept=0)
    opened = open_engine(models, "digest", sampling(best_of=4, batch=3), "cpu")
    autoencoder, contract = load_autoencoder(models / "autoencoder")
    parts = autoencoder, load_denoiser(models / "denoiser")[0], opened.scale, contract
    wanted = [SampleRequest(f"syn-{n}", n, 0, 50 + n, {"age": 20.0 * (-1) ** n}) for n in range(4)]

    def chosen(target: Target, samples: list[SampleRequest]) -> Sampled:
        engine = Engine(*parts, opened.config, predictors=Predictors((target,), weights))  # type: ignore[arg-type]
        return engine.sample_nearest(samples)

    together = chosen(ages, wanted)
    assert any(together.kept)
    assert all(same(chosen(ages, [one]), together, [n]) for n, one in enumerate(wanted))
    predicted = (latent_features(opened.scale.restore(together.latents)) @ weights[:-1])[:, 0]
    asked = [float(one.condition["age"] or 0) for one in wanted]
    distances = [0.81 * (value - age) ** 2 / 100 for value, age in zip(predicted, asked, strict=True)]
    assert list(together.distances) == pytest.approx(distances)
    unreliable = chosen(ages.model_copy(update={"r": 0.3}), wanted)
    assert (unreliable.kept, unreliable.distances) == ((0,) * 4, (None,) * 4)


def test_of_how_many_the_best_was_kept_is_part_of_the_identity(models: Path, sampling: Sampling) -> None:
    shard = Shard("00-000000", tuple(samples(2)))
    changes: list[dict[str, Any]] = [{"best_of": n, "draft_steps": m} for n in (1, 2, 4) for m in (None, 3, 4)]
    line = CalibrationConfig(condition="left_mm3", intercept=100, slope=0.5)
    changes += [{"calibration": (line,)}, {"calibration": ()}]
    keys = {ShardJob(shard, models, models, "digest", sampling(**one), "cpu").key(1) for one in changes}
    assert len(keys) == len(changes)


def test_a_volume_is_measured_as_the_screen_measures_it(measurable: Contract) -> None:
    label = np.random.default_rng(0).integers(0, 3, (8, 8, 8)).astype(np.uint8)
    figures = measure(np.zeros((8, 8, 8), np.float32), label, measurable)
    assert structure_volumes(label, measurable) == {name: figures[f"volume_mm3:{name}"] for name in ("left", "right")}
    off = figures["volume_mm3:left"] + 2 * 500
    assert distance_to_condition(label, {"left_mm3": off, "age": 30.0}, measurable) == pytest.approx(4)
    assert distance_to_condition(label, {"left_mm3": None, "age": 30.0}, measurable) is None
    assert distance_to_condition(None, {"left_mm3": off}, measurable) is None
