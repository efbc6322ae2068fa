"""Which solver, at which noise levels, samples from a trained denoiser with the fewest evaluations.

All of them start from the same noise, so their ends can be compared with those of a walk so fine that its error is
nothing: that is the solver's own error. Whether such an error matters is another question, which the distance to
validation volumes answers. Nobody has to guess `sampling.steps`, and nothing is taken from the holdout.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Literal, NamedTuple

import torch
import yaml
from torch import Tensor

from meddiff_core.contract import Frozen
from meddiff_core.diffusion.fitting import Trace, fit_levels, trace_flow
from meddiff_core.diffusion.guidance import with_guidance
from meddiff_core.diffusion.noise import karras_sigmas, noise_levels
from meddiff_core.diffusion.solvers import SOLVERS, DenoisedAt, evaluations
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.intervals import Bootstrap, Matrix
from meddiff_core.evidence.quality.distances import kernel_interval
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.generation.engine import sample_noise
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.models.denoiser import Denoiser
from meddiff_core.models.inference.packed import DTYPES, for_inference, one_thread
from meddiff_core.models.preconditioning import check_sampling
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents, Progress

COUNTS = (6, 8, 10, 12, 15, 20, 30)
"""Evaluations that are tried; Heun's method, which takes an odd number, has the next lower one."""
REFERENCE = 60
"""Levels of the fine walk, by Heun's method."""
REPEATS, CONFIDENCE = 400, 0.95
"""Of the bootstrap intervals."""
TOGETHER = 8
"""Samples a batch, whatever the study's: the same measurements for the same denoiser."""
Batch = tuple[DenoisedAt, Tensor]
"""A denoiser that knows the conditions of a batch, and the standard normal noise from which to sample it."""


class Distance(Frozen):
    """A kernel distance to validation volumes, and its bootstrap interval over what was compared with them."""

    value: float
    low: float
    high: float


class Walk(Frozen):
    """One way to sample, and what came of it."""

    solver: str
    schedule: Literal["karras", "fitted"]
    evaluations: int
    sigmas: tuple[float, ...]
    """The noise levels above 0."""
    distance: Distance
    error: float
    """Root mean squared difference of the samples to those of the reference, in standard deviations of the latents."""


class Tuning(Frozen):
    """All that was measured, and the choice."""

    samples: int
    train: Distance
    """Of training volumes, the real-to-real reference: what a perfect model would be near to."""
    reference: Distance
    """Of samples of the fine walk."""
    walks: tuple[Walk, ...]
    chosen: Walk


class _Plan(NamedTuple):
    solver: str
    schedule: Literal["karras", "fitted"]
    sigmas: Tensor

    @property
    def evaluations(self) -> int:
        return evaluations(self.solver, len(self.sigmas) - 1)


def open_batches(
    denoiser: Denoiser,
    conditions: ConditionVectors,
    config: SamplingConfig,
    shape: tuple[int, ...],
    samples: int,
    seed: int,
    device: str = "cpu",
    guide: Denoiser | None = None,
) -> list[Batch]:
    """`samples` latents of `shape` (z, u, v, w), the same each time, with the conditions in turn and guidance.

    Raises:
        ConfigurationError: too few samples, or noise between `sampling.sigma_min` and `sigma_max` that the denoiser
            does not know.
    """
    if samples < TOGETHER:
        raise ConfigurationError(f"samples must be {TOGETHER} or more to measure a solver, are {samples}")
    check_sampling(_karras(config, 2), denoiser.clock.sigma_range)
    dtype = DTYPES[config.precision]
    network = for_inference(denoiser, device, dtype)
    weaker = None if guide is None else for_inference(guide, device, dtype)
    repeated = conditions[torch.arange(samples) % len(conditions)].to(device)
    noise = torch.cat([sample_noise(derive_seed(seed, "tune", number), shape) for number in range(samples)]).to(device)
    parts = zip(repeated.split(TOGETHER), noise.split(TOGETHER), strict=True)
    return [(with_guidance(network, own, config, weaker), start) for own, start in parts]


def tune_solver(
    batches: Sequence[Batch], scorer: LatentScorer, config: SamplingConfig, seed: int
) -> Generator[Progress, None, Tuning]:
    """Measure every solver with Karras's and with fitted levels, between `sigma_min` and `sigma_max` of `config`.

    A walk so coarse that its samples are not finite is left out.

    Raises:
        TrainingFailed: samples of the reference are not finite.
    """
    yield Progress("trace the flow", 0, 1)
    with torch.inference_mode(), one_thread():
        trace = trace_flow(*batches[0], *_karras(config, 2).span)
    yield Progress("trace the flow", 1, 1)
    fine = _Plan("heun", "karras", karras_sigmas(_karras(config, REFERENCE)))
    reference = yield from _sample("reference walk", batches, fine, 0, fine.evaluations)
    plans, walks = list(_plans(trace, config)), list[Walk]()
    nearest = _distance(scorer.features(reference), scorer, seed)
    done, total = 0, sum(plan.evaluations for plan in plans)
    for plan in plans:
        samples = yield from _sample("walks", batches, plan, done, total)
        if samples.isfinite().all():
            walks.append(_walk(plan, samples, reference, scorer, seed))
        done += plan.evaluations
    return Tuning(
        samples=len(reference),
        train=_distance(scorer.train, scorer, seed),
        reference=nearest,
        walks=tuple(walks),
        chosen=knee(walks, nearest.high),
    )


def knee(walks: Iterable[Walk], bound: float) -> Walk:
    """The fewest evaluations from which on a solver's distances stay within `bound`; of equals the smallest error.

    A single lucky distance does not count. If none stays within, the smallest error of all.
    """
    rising = sorted(walks, key=lambda walk: (walk.solver, walk.schedule, walk.evaluations))
    enough = list[Walk]()
    for _, line in groupby(rising, key=lambda walk: (walk.solver, walk.schedule)):
        enough += list(takewhile(lambda walk: walk.distance.value <= bound, reversed(list(line))))
    if not enough:
        return min(rising, key=lambda walk: walk.error)
    return min(enough, key=lambda walk: (walk.evaluations, walk.error))


def describe_tuning(tuning: Tuning) -> str:
    """A table of what was measured, and the lines for study.yaml."""
    rows = [f"{'solver':<10} {'levels':<8} {'evaluations':>11}  {'distance':>9}  {'error':>9}"]
    for walk in tuning.walks:
        mark = "  <- chosen" if walk == tuning.chosen else ""
        figures = f"{walk.evaluations:>11}  {walk.distance.value:>9.4f}  {walk.error:>9.4f}{mark}"
        rows.append(f"{walk.solver:<10} {walk.schedule:<8} {figures}")
    named = {"reference": tuning.reference, "train": tuning.train}
    lines = [f"{name:<10} {_range(distance)}" for name, distance in named.items()]
    compared = ["", "kernel distance to validation volumes", *lines]
    return "\n".join([*rows, *compared, "", "# for study.yaml", study_lines(tuning.chosen)])


def study_lines(walk: Walk) -> str:
    """The section of a study.yaml that samples so."""
    settings: dict[str, object] = {"solver": walk.solver}
    if walk.schedule == "karras":
        settings |= {"steps": len(walk.sigmas), "sigmas": None}
    else:
        settings |= {"sigmas": list(walk.sigmas)}
    lines = yaml.safe_dump(settings, default_flow_style=None, sort_keys=False, width=10_000).splitlines()
    return "\n".join(["sampling:", *(f"  {line}" for line in lines)])


def _range(distance: Distance) -> str:
    return f"{distance.value:.4f}, {CONFIDENCE:.0%} interval {distance.low:.4f} to {distance.high:.4f}"


def _karras(config: SamplingConfig, steps: int) -> SamplingConfig:
    return config.model_copy(update={"steps": steps, "sigmas": None})


def _plans(trace: Trace, config: SamplingConfig) -> Iterator[_Plan]:
    for solver in SOLVERS:
        for count in COUNTS:
            levels = (count + 1) // 2 if solver == "heun" else count
            karras = _karras(config, levels)
            yield _Plan(solver, "karras", noise_levels(karras))
            fitted = config.model_copy(update={"sigmas": fit_levels(trace, solver, levels)})
            yield _Plan(solver, "fitted", noise_levels(fitted))


def _sample(
    label: str, batches: Sequence[Batch], plan: _Plan, done: int, total: int
) -> Generator[Progress, None, Tensor]:
    """The ends of all batches; `done` and `total` are evaluations of a single one."""
    ends = []
    for number, (denoiser, noise) in enumerate(batches, start=1):
        with torch.inference_mode(), one_thread():
            ends.append(SOLVERS[plan.solver](denoiser, noise * plan.sigmas[0].item(), plan.sigmas).float().cpu())
        yield Progress(label, done * len(batches) + number * plan.evaluations, total * len(batches))
    return torch.cat(ends)


def _walk(plan: _Plan, samples: Latents, reference: Latents, scorer: LatentScorer, seed: int) -> Walk:
    return Walk(
        solver=plan.solver,
        schedule=plan.schedule,
        evaluations=plan.evaluations,
        sigmas=tuple(plan.sigmas[:-1].tolist()),
        distance=_distance(scorer.features(samples), scorer, seed),
        error=float((samples - reference).double().square().mean().sqrt()),
    )


def _distance(features: Matrix, scorer: LatentScorer, seed: int) -> Distance:
    found = kernel_interval(features, scorer.validation, Bootstrap(REPEATS, CONFIDENCE, derive_seed(seed, "tune")))
    return Distance(value=found.value, low=found.low, high=found.high)
