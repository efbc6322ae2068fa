"""Tuning of the solver: the knee of made-up curves, and what it finds on data whose denoiser is known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml

from meddiff_core.evidence import tuning
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.evidence.tuning import Distance, Tuning, Walk, describe_tuning, knee, study_lines, tune_solver
from meddiff_core.models.latents import LatentSet
from meddiff_core.release import figures
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Sigma

SHAPE = (2, 6, 6, 6)
CONFIG = SamplingConfig(guidance=1.0, batch=4)
DEVIATIONS = torch.logspace(-1.5, 0.3, 432).reshape(SHAPE)


def walk(solver: str, evaluations: int, distance: float, error: float = 1.0, schedule: str = "karras") -> Walk:
    """With levels that nobody looks at."""
    sigmas = tuple(float(level) for level in range(evaluations, 0, -1))
    far = Distance(value=distance, low=distance - 1, high=distance + 1)
    return Walk.model_validate(
        {"solver": solver, "schedule": schedule, "evaluations": evaluations, "sigmas": sigmas, "distance": far}
        | {"error": error}
    )


def line(solver: str, *distances: float, error: float = 1.0, schedule: str = "karras") -> list[Walk]:
    return [walk(solver, 2 * n, far, error / n, schedule) for n, far in enumerate(distances, start=1)]


def test_the_knee_is_where_distances_begin_to_stay_within_the_noise() -> None:
    walks = line("adams", 9.0, 3.0, 0.9, 1.0, 0.8)
    assert knee(walks, 1.0) == walks[2]
    assert knee(walks[::-1], 1.0) == walks[2]


def test_one_lucky_distance_is_no_knee() -> None:
    walks = line("adams", 0.5, 3.0, 0.9, 1.0)
    assert knee(walks, 1.0) == walks[2]


def test_the_line_with_the_fewest_evaluations_wins_and_of_equals_the_nearest_one() -> None:
    slow, fast = line("euler", 9.0, 9.0, 1.0), line("adams", 9.0, 1.0, 1.0)
    assert knee([*slow, *fast], 1.0) == fast[1]
    nearer = line("adams", 9.0, 1.0, 1.0, error=0.5, schedule="fitted")
    assert knee([*slow, *fast, *nearer], 1.0) == nearer[1]


def test_a_distance_below_the_reference_is_within() -> None:
    assert knee(line("adams", 2.0, -5.0), 1.0).evaluations == 4


def test_the_smallest_error_is_taken_where_no_line_comes_near() -> None:
    walks = [*line("adams", 9.0, 8.0, 0.5, 7.0), *line("heun", 9.0, 8.0, 6.0, 7.0, error=0.1)]
    assert knee(walks, 1.0) == walks[-1]


@pytest.mark.parametrize("schedule", ["karras", "fitted"])
def test_the_printed_lines_are_the_settings_that_were_measured(schedule: str) -> None:
    best = walk("dpmpp_2m", 5, 0.0, schedule=schedule).model_copy(update={"sigmas": (40.0, 2.5, 0.31, 1e-5)})
    config = SamplingConfig.model_validate(yaml.safe_load(study_lines(best))["sampling"])
    assert (config.solver, config.levels) == ("dpmpp_2m", 4)
    assert config.sigmas == (best.sigmas if schedule == "fitted" else None)


def gaussian(noisy: Latents, sigma: Sigma) -> Latents:
    """Expectation without noise of the volumes below."""
    variance = sigma.double().reshape(-1, 1, 1, 1, 1) ** 2
    return (noisy.double() * DEVIATIONS**2 / (DEVIATIONS**2 + variance)).float()


def volumes(count: int, seed: int) -> Latents:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed)) * DEVIATIONS


@pytest.fixture(scope="module")
def scorer() -> LatentScorer:
    train, validation = (LatentSet(mean, torch.zeros_like(mean)) for mean in (volumes(48, 1), volumes(24, 2)))
    scale = train.scale().model_copy(update={"mean": (0.0,) * 2, "std": (1.0,) * 2})
    return LatentScorer(train, validation, scale, seed=0)


@pytest.fixture(scope="module")
def tuned(scorer: LatentScorer, finish: Callable[..., Any]) -> Tuning:
    noise = torch.randn((16, *SHAPE), generator=torch.Generator().manual_seed(3))
    found: Tuning = finish(tune_solver([(gaussian, part) for part in noise.split(4)], scorer, CONFIG, seed=0))
    return found


def test_every_solver_is_measured_with_both_kinds_of_levels_at_each_count(tuned: Tuning) -> None:
    found = [(one.solver, one.schedule, one.evaluations) for one in tuned.walks]
    heun = (5, 7, 9, 11, 15, 19, 29)
    expected = [
        (solver, schedule, count)
        for solver in ("heun", "euler", "dpmpp_2m", "adams")
        for count in (heun if solver == "heun" else tuning.COUNTS)
        for schedule in ("karras", "fitted")
    ]
    assert found == expected
    assert tuned.samples == 16


def test_the_distance_of_a_perfect_denoiser_comes_down_to_the_noise(tuned: Tuning) -> None:
    best = [one for one in tuned.walks if one.solver == "adams" and one.evaluations == 30]
    assert all(one.distance.value <= tuned.reference.high for one in best)
    assert tuned.reference.low < tuned.reference.value < tuned.reference.high
    assert tuned.train.low < tuned.train.value < tuned.train.high


def test_the_choice_is_among_the_walks_and_no_finer_one_is_needed(tuned: Tuning) -> None:
    assert tuned.chosen in tuned.walks
    assert tuned.chosen == knee(tuned.walks, tuned.reference.high)
    assert tuned.chosen.evaluations <= 12


def test_the_error_of_each_line_falls_to_nearly_nothing(tuned: Tuning) -> None:
    for solver in ("euler", "adams", "dpmpp_2m", "heun"):
        errors = [one.error for one in tuned.walks if one.solver == solver and one.schedule == "fitted"]
        assert errors[-1] < errors[0] / 3


def test_tuning_gives_the_same_each_time_and_reports_each_batch(
    scorer: LatentScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "COUNTS", (6, 8))
    noise = torch.randn((6, *SHAPE), generator=torch.Generator().manual_seed(3))
    records, results = [], []
    for _ in range(2):
        work = tune_solver([(gaussian, part) for part in noise.split(4)], scorer, CONFIG, seed=0)
        try:
            while True:
                records.append(next(work))
        except StopIteration as end:
            results.append(end.value)
    assert results[0] == results[1]
    walks = [record for record in records[: len(records) // 2] if record.label == "walks"]
    assert [record.done for record in walks] == sorted({record.done for record in walks})
    assert walks[-1].done == walks[-1].total
    assert len(walks) == 2 * len(results[0].walks)


def test_the_text_names_every_walk_and_marks_the_chosen_one(tuned: Tuning) -> None:
    lines = describe_tuning(tuned).splitlines()
    rows = [text for text in lines if text.startswith(("heun", "euler", "dpmpp_2m", "adams"))]
    assert len(rows) == len(tuned.walks)
    (chosen,) = [text for text in rows if "chosen" in text]
    assert chosen.split()[:3] == [tuned.chosen.solver, tuned.chosen.schedule, str(tuned.chosen.evaluations)]
    assert lines[-len(study_lines(tuned.chosen).splitlines()) :] == study_lines(tuned.chosen).splitlines()


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_figure_is_the_same_bytes_each_time(tuned: Tuning, kind: str) -> None:
    assert figures.tuning(tuned, kind) == figures.tuning(tuned, kind)


def test_a_tuning_survives_its_file(tuned: Tuning) -> None:
    assert Tuning.model_validate_json(tuned.model_dump_json()) == tuned
