"""How well samples follow the volumes that are asked for, by guidance, best of n, drafts, calibration, and its cost.

    python tests/benchmarks/fidelity.py STUDY_FOLDER [--samples 48] [--seed 0] [--guidance 1 2 3] [--best-of 1 2 4 8]
        [--drafts 0 4 6] [--calibrate]

All of it from the study's models, the same noise, and the conditions of its validation scans; the holdout stays
sealed. Structures are measured twice: on the sampled label map, by which the volume was chosen, and on the image, by
a segmentation network that was trained on real training pairs alone and saw none of the choice. Its last row is what it
measures on real validation pairs, beyond which nobody can come. Evaluations are those of the denoiser for a kept
volume, guidance included; a draft costs a decode more. 0 drafts: all are sampled in full. Drafts choose among the very
volumes that are chosen among in full. With --calibrate each block comes again, asked for the inverse of the line of its
own largest n, on other noise than that which the line was fitted on.
"""

import argparse
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meddiff_core.contract import Condition, ContinuousCondition, Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.noise import noise_levels
from meddiff_core.evidence.guidance_choice import INTERVAL, lines_of, measure_weight
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.distances import kernel_interval
from meddiff_core.evidence.quality.fidelity import Fidelity, fidelity
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.evidence.utility.arms import steps_for
from meddiff_core.evidence.utility.segmentation import Recipe, Segmenter, train_segmenter
from meddiff_core.generation.best_of import draft_config, measurable_conditions, request_with_noise, structure_volumes
from meddiff_core.generation.engine import Sampled, open_engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.denoiser import load_scale
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import CalibrationConfig, SamplingConfig
from meddiff_core.types import LabelArray
from meddiff_core.workspace import Workspace

Lines = tuple[CalibrationConfig, ...]
HEAD = ("guidance", "calibrated", "best of", "levels of drafts", "evaluations", "r", "slope", "bias",
        "r, segmentation", "slope, segmentation", "kernel distance", "nearer train")  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What is asked of a study, and its judges."""

    workspace: Workspace
    contract: Contract
    asked: Sequence[Condition]
    scorer: LatentScorer
    segmenter: Segmenter
    bootstrap: Bootstrap

    def sampling(self, **changes: Any) -> SamplingConfig:
        """Settings of the study, with changes."""
        return self.workspace.study.sampling.model_copy(update=changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 3])
    parser.add_argument("--best-of", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--drafts", type=int, nargs="+", default=[0, 4, 6])
    parser.add_argument("--calibrate", action="store_true")
    options = parser.parse_args()
    study = open_study(options.study, options.samples, options.seed)
    print(f"{options.samples} samples, seed {options.seed}; guidance acts between noise levels {INTERVAL}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---:|' * len(HEAD)}", flush=True)
    for guidance in options.guidance:
        fitted = block(study, options, guidance, options.seed)
        if options.calibrate and fitted:
            block(study, options, guidance, options.seed + 1, fitted)
    print(real_row(study))


def block(study: Study, options: argparse.Namespace, guidance: float, seed: int, lines: Lines = ()) -> Lines:
    """The rows of one weight; returns the lines by which the best of the largest n follow."""
    most = max(options.best_of)
    plain = study.sampling(
        guidance=guidance, guidance_interval=INTERVAL, best_of=1, draft_steps=None, calibration=lines
    )
    walks = walk(study, plain, most, seed)
    drafts = {steps: drafted(study, plain, steps, most, seed) for steps in options.drafts}
    for steps, compared in drafts.items():
        for count in options.best_of:
            if not steps or count > 1:
                print(row(study, plain, count, steps, walks, compared or walks), flush=True)
    return calibration_of(study, walks)


def drafted(study: Study, plain: SamplingConfig, steps: int, count: int, seed: int) -> list[Sampled]:
    """Drafts of the same noise; none for 0 levels."""
    config = draft_config(plain.model_copy(update={"best_of": 2, "draft_steps": steps})) if steps else None
    return walk(study, config.model_copy(update={"best_of": 1}), count, seed) if config else []


def calibration_of(study: Study, walks: Sequence[Sampled]) -> Lines:
    """Lines of measured on asked, of the nearest of all."""
    labels = kept_labels(walks, nearest(walks))
    found = [structure_volumes(label, study.contract) for label in labels]
    specs = [one for one in study.contract.conditions if isinstance(one, ContinuousCondition) and one.group]
    volumes = {one.name: [volumes[str(one.group)] for volumes in found] for one in specs}
    features = study.scorer.features(torch.cat([one.latents for one in walks[:1]]))
    return lines_of(measure_weight(1.0, study.asked, volumes, features, study.scorer.validation, 0))


def open_study(folder: Path, samples: int, seed: int) -> Study:
    workspace, dataset = Workspace.open(folder), Dataset.open(folder)
    contract, train = dataset.contract, dataset.volumes("train")
    known = [one for one in dataset.conditions("validation") if measurable_conditions(one, contract)]
    sides = [LatentSet.open(workspace.path("latents"), side) for side in ("train", "validation")]
    recipe = Recipe(steps_for(len(train), "full"))
    segmenter = run(train_segmenter("segmentation", train, contract, recipe, derive_seed(seed, "benchmark")))
    return Study(
        workspace,
        contract,
        [known[number % len(known)] for number in range(samples)],
        LatentScorer(*sides, load_scale(workspace.path("denoiser")), workspace.study.seed),
        segmenter,
        Bootstrap(400, 0.95, seed),
    )


def run(work: Generator[Any, None, Segmenter]) -> Segmenter:
    """To its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def walk(study: Study, config: SamplingConfig, count: int, seed: int) -> list[Sampled]:
    """Every volume of every sample, noise by noise."""
    engine = open_engine(study.workspace.folder / "models", study.workspace.models_digest(), config, "cpu")
    samples = [
        SampleRequest(f"fidelity-{n}", n, 0, derive_seed(seed, "fidelity", n), condition)
        for n, condition in enumerate(study.asked)
    ]
    return [
        engine.sample_nearest([request_with_noise(sample, number) for sample in samples]) for number in range(count)
    ]


def nearest(walks: Sequence[Sampled]) -> list[int]:
    """Number of the noise that is nearest, sample by sample."""
    return [int(number) for number in np.array([one.distances for one in walks], dtype=float).argmin(0)]


def kept_labels(walks: Sequence[Sampled], kept: Sequence[int]) -> list[LabelArray]:
    """Label maps of the noises that were kept."""
    return [found[place] for place, number in enumerate(kept) if (found := walks[number].labels) is not None]


def cost(config: SamplingConfig) -> int:
    """Evaluations of one volume."""
    low, high = config.guidance_interval or (0.0, math.inf)
    sigmas = noise_levels(config)[:-1].tolist()
    guided = 0 if config.guidance == 1 else sum(low <= sigma <= high for sigma in sigmas)
    return len(sigmas) + guided


def row(
    study: Study, plain: SamplingConfig, count: int, steps: int, walks: Sequence[Sampled], compared: Sequence[Sampled]
) -> str:
    """A line of the table: of `count` volumes that which is nearest among the `compared`."""
    kept = nearest(compared[:count])
    drafts = draft_config(plain.model_copy(update={"best_of": 2, "draft_steps": steps})) if steps else None
    spent = cost(plain) + count * cost(drafts) if drafts else count * cost(plain)
    latents = torch.cat([walks[number].latents[[place]] for place, number in enumerate(kept)])
    images, labels = [walks[number].images[place] for place, number in enumerate(kept)], kept_labels(walks, kept)
    own, seen = agreement(study, study.asked, labels), agreement(study, study.asked, [*map(study.segmenter, images)])
    distance = kernel_interval(study.scorer.features(latents), study.scorer.validation, study.bootstrap)
    interval = f"{distance.value:.2f} [{distance.low:.2f}, {distance.high:.2f}]"
    settings = (f"{plain.guidance:g}", "yes" if plain.calibration else "no", str(count), str(steps), str(spent))
    return f"| {' | '.join([*settings, *own, *seen[:2], interval, f'{study.scorer(latents).nearer_train:.2f}'])} |"


def agreement(study: Study, asked: Sequence[Condition], labels: Sequence[LabelArray]) -> tuple[str, str, str]:
    """r, slope and bias of measured on asked, condition by condition; the bias in standard deviations of training."""
    measured = [structure_volumes(label, study.contract) for label in labels]
    found: list[Fidelity] = []
    errors: list[float] = []
    for spec in study.contract.conditions:
        if isinstance(spec, ContinuousCondition) and spec.group is not None:
            wanted = np.array([one.get(spec.name) for one in asked], dtype=float)
            values = np.array([volumes[spec.group] for volumes in measured])
            known = np.isfinite(wanted)
            found.append(fidelity(wanted[known], values[known], study.bootstrap))
            errors.append(float(np.mean(values[known] - wanted[known])) / spec.std)
    slopes = [f"{one.slope.value:.2f}" if one.slope else "none" for one in found]
    return ", ".join(f"{one.r.value:.2f}" for one in found), ", ".join(slopes), ", ".join(f"{e:+.2f}" for e in errors)


def real_row(study: Study) -> str:
    """What the segmentation network measures on real validation pairs."""
    volumes = Dataset.open(study.workspace.folder).volumes("validation")
    truths = [label for n in range(len(volumes)) if (label := volumes.label(n)) is not None]
    of_group = {spec.name: spec.group for spec in study.contract.conditions if isinstance(spec, ContinuousCondition)}
    asked: list[Condition] = [
        {name: measured[group] for name, group in of_group.items() if group}
        for measured in (structure_volumes(label, study.contract) for label in truths)
    ]
    seen = agreement(study, asked, [study.segmenter(volumes.image(n)) for n in range(len(truths))])
    return f"| real | | | | | | | | {' | '.join(seen[:2])} | | |"


if __name__ == "__main__":
    main()
