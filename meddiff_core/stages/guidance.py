"""Trained models to how samples follow their conditions: what chooses the best of n, guidance, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from meddiff_core.artefacts import digest_file, digest_of, write_json
from meddiff_core.contract import Condition, Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.split.sides import Side
from meddiff_core.evidence.guidance_choice import (
    INTERVAL,
    SAMPLES,
    WEIGHTS,
    WHY,
    GuidanceChoice,
    MeasuredWeight,
    Why,
    best_weight,
    is_better,
    is_settled,
    lines_of,
    measure_weight,
)
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.sample_scoring import LatentScorer, open_scorer
from meddiff_core.generation.best_of import measurable_conditions, structure_volumes
from meddiff_core.generation.engine import Sampled, open_engine
from meddiff_core.generation.predictors import fit_predictors, latent_features, reliability, save_predictors
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.generation.shards import sampling
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.denoiser import load_scale
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.randomness import derive_seed, generator_for
from meddiff_core.stages.figures import plot_guidance
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.study import CalibrationConfig, SamplingConfig
from meddiff_core.types import Message, Progress, Work, serial_map
from meddiff_core.workspace import Workspace

Lines = tuple[CalibrationConfig, ...]
SIDES: tuple[Side, Side] = ("train", "validation")


def make_predictors(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Fit on the train side what latents tell of conditions that no label map shows; validation says how reliably."""
    contract, path = Dataset.open(workspace.folder).contract, workspace.replaced("predictors")
    train, validation = (_known(workspace, side) for side in SIDES)
    predictors = fit_predictors(contract.conditions, train, validation)
    save_predictors(path, predictors)
    told = reliability(predictors)
    if told:
        yield Message("latents tell, r on validation: " + ", ".join(f"{name} {r:.2f}" for name, r in told.items()))
    return Made(digest_of(digest_checkpoint(path)), {"predicted": len(told)})


def _known(workspace: Workspace, side: Side) -> tuple[Matrix, list[Condition]]:
    latents = LatentSet.open(workspace.path("latents"), side)
    sampled = latents.sample(torch.arange(len(latents)), generator_for(workspace.study.seed, "predictors", side))
    return latent_features(sampled), Dataset.open(workspace.folder).conditions(side)


def choose_guidance(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Take the study's guidance, or measure samples of the validation scans' conditions at several weights."""
    choice = yield from _choose(workspace, resources)
    yield Message(f"guidance {choice.guidance:g}: {WHY[choice.why]}")
    path = workspace.replaced("guidance")
    write_json(path, choice)
    return Made(digest_file(path), {"guidance": choice.guidance}, (path, *plot_guidance(workspace, choice)))


def read_choice(workspace: Workspace) -> GuidanceChoice:
    """The guidance of a study, and why."""
    return GuidanceChoice.model_validate_json(workspace.path("guidance").read_bytes())


def _choose(workspace: Workspace, resources: Resources) -> Work[GuidanceChoice]:
    given, dataset = workspace.study.sampling, Dataset.open(workspace.folder)
    if given.guidance is not None:
        return GuidanceChoice(guidance=given.guidance, interval=given.guidance_interval, why="given")
    conditions = [one for one in dataset.conditions("validation") if measurable_conditions(one, dataset.contract)]
    train, validation = (LatentSet.open(workspace.path("latents"), side) for side in ("train", "validation"))
    scorer = open_scorer(train, validation, load_scale(workspace.path("denoiser")), workspace.study.seed)
    if not conditions or scorer is None:
        why: Why = "too few scans" if conditions else "nothing measurable"
        return GuidanceChoice(guidance=1.0, interval=None, why=why)
    measure = _Measure(workspace, resources, conditions, scorer)
    measured = yield from measure.weights()
    best = best_weight(measured)
    calibration = given.calibration
    if calibration is None:
        calibration = ()
        if lines := lines_of(best):
            calibrated = yield from measure.at(best.guidance, lines)
            calibration = lines if is_better(calibrated, best, measured[0]) else ()
            measured.append(calibrated)
    interval = given.guidance_interval or INTERVAL
    return GuidanceChoice(
        guidance=best.guidance,
        interval=interval if best.guidance != 1 else None,
        why="measured",
        best_of=given.best_of,
        calibration=calibration,
        measured=tuple(measured),
    )


@dataclass(frozen=True)
class _Job:
    """A batch of samples at one weight."""

    models: Path
    digest: str
    config: SamplingConfig
    device: str
    samples: tuple[SampleRequest, ...]


@dataclass(frozen=True)
class _Measure:
    """Samples of the conditions in turn, from the same noise each time."""

    workspace: Workspace
    resources: Resources
    conditions: Sequence[Condition]
    scorer: LatentScorer

    def weights(self) -> Work[list[MeasuredWeight]]:
        """At each weight of the guidance, until more would not help."""
        measured: list[MeasuredWeight] = []
        for weight in WEIGHTS:
            measured.append((yield from self.at(weight, self.workspace.study.sampling.calibration)))
            if is_settled(measured):
                break
        return measured

    def at(self, weight: float, lines: Lines | None) -> Work[MeasuredWeight]:
        """At one weight, asked for the inverse of some lines."""
        seed, asked = self.workspace.study.seed, [self.conditions[n % len(self.conditions)] for n in range(SAMPLES)]
        samples = [
            SampleRequest(f"guidance-{number}", number, 0, derive_seed(seed, "guidance", number), condition)
            for number, condition in enumerate(asked)
        ]
        group = yield from _sample_at(self.workspace, self.resources, samples, weight, lines)
        features = self.scorer.features(torch.cat([sampled.latents for sampled in group]))
        volumes = _volumes(group, asked, Dataset.open(self.workspace.folder).contract)
        return measure_weight(weight, asked, volumes, features, self.scorer.validation, seed, lines or ())


def _sample_at(
    workspace: Workspace, resources: Resources, samples: Sequence[SampleRequest], weight: float, lines: Lines | None
) -> Work[list[Sampled]]:
    """Samples at one weight of the guidance, in their order."""
    given, what = workspace.study.sampling, "measure calibration" if lines else "measure guidance"
    interval = given.guidance_interval or INTERVAL
    changes = {"guidance": weight, "guidance_interval": interval, "calibration": lines}
    jobs = _jobs(workspace, resources.device, samples, given.model_copy(update=changes))
    mapper = resources.mapper if resources.device == "cpu" else serial_map  # a GPU is in this process
    found: dict[int, Sampled] = {}
    for position, sampled in mapper(_sample, jobs):
        found[position] = sampled
        yield Progress(f"{what} {weight:g}", len(found), len(jobs))
    return [found[position] for position in range(len(jobs))]


def _jobs(workspace: Workspace, device: str, samples: Sequence[SampleRequest], config: SamplingConfig) -> list[_Job]:
    models, digest = workspace.folder / "models", workspace.models_digest()
    parts = [samples[start : start + config.shard] for start in range(0, len(samples), config.shard)]
    return [_Job(models, digest, config, device, tuple(part)) for part in parts]


def _sample(job: _Job) -> Sampled:
    with sampling:
        return open_engine(job.models, job.digest, job.config, job.device).sample_nearest(job.samples)


def _volumes(group: Sequence[Sampled], asked: Sequence[Condition], contract: Contract) -> dict[str, list[float]]:
    """Measured volumes by condition, of all that were sampled."""
    labels = np.concatenate([sampled.labels for sampled in group if sampled.labels is not None])
    measured = [structure_volumes(label, contract) for label in labels]
    specs = {name: spec for condition in asked for name, spec in measurable_conditions(condition, contract).items()}
    return {name: [volumes[str(spec.group)] for volumes in measured] for name, spec in specs.items()}


MAKERS: dict[str, Maker] = {"predictors": make_predictors, "guidance": choose_guidance}
