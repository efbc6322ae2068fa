"""How well samples follow the volumes that are asked for, by guidance and candidates, and what it costs.

    python tests/benchmarks/fidelity.py STUDY_FOLDER [--samples 48] [--seed 0] [--guidance 1 2 3] [--candidates 1 2 4]

All of it from the study's models, the same noise, and the conditions of its validation scans; the holdout stays
sealed. Structures are measured twice: on the sampled label map, by which the candidate was chosen, and on the image, by
a segmentation network that was trained on real training pairs alone and saw none of the choice. Its last row is what it
measures on real validation pairs, beyond which nobody can come. Time is that of one process with one thread.
"""

import argparse
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meddiff_core.contract import Condition, ContinuousCondition, Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.evidence.guidance_choice import INTERVAL
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.distances import kernel_interval
from meddiff_core.evidence.quality.fidelity import fidelity
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.evidence.utility.arms import steps_for
from meddiff_core.evidence.utility.segmentation import Recipe, Segmenter, train_segmenter
from meddiff_core.generation.candidates import candidate_request, measurable_conditions, structure_volumes
from meddiff_core.generation.engine import Sampled, open_engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.denoiser import load_scale
from meddiff_core.models.latents import LatentSet
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import SamplingConfig
from meddiff_core.types import LabelArray
from meddiff_core.workspace import Workspace

HEAD = ("guidance", "candidates", "r", "slope", "r, segmentation", "slope, segmentation",
        "kernel distance", "nearer train", "s a volume")  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What is asked of a study, and its judges."""

    workspace: Workspace
    contract: Contract
    asked: Sequence[Condition]
    scorer: LatentScorer
    segmenter: Segmenter
    bootstrap: Bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 3])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    study = open_study(options.study, options.samples, options.seed)
    print(f"{options.samples} samples, seed {options.seed}; guidance acts between noise levels {INTERVAL}\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---:|' * len(HEAD)}", flush=True)
    for guidance in options.guidance:
        walks, seconds = walk(study, guidance, max(options.candidates), options.seed)
        for count in options.candidates:
            print(row(study, guidance, count, walks, count * seconds), flush=True)
    print(real_row(study))


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


def walk(study: Study, guidance: float, candidates: int, seed: int) -> tuple[list[Sampled], float]:
    """Every candidate of every sample, candidate by candidate, and the seconds that a volume took."""
    settings = {"guidance": guidance, "guidance_interval": INTERVAL, "candidates": 1}
    config: SamplingConfig = study.workspace.study.sampling.model_copy(update=settings)
    engine = open_engine(study.workspace.folder / "models", study.workspace.models_digest(), config, "cpu")
    samples = [
        SampleRequest(f"fidelity-{n}", n, 0, derive_seed(seed, "fidelity", n), condition)
        for n, condition in enumerate(study.asked)
    ]
    engine.sample(samples[:1])  # weights are packed by then
    started = time.perf_counter()
    found = [
        engine.sample_nearest([candidate_request(sample, number) for sample in samples]) for number in range(candidates)
    ]
    return found, (time.perf_counter() - started) / (candidates * len(samples))


def row(study: Study, guidance: float, count: int, walks: Sequence[Sampled], seconds: float) -> str:
    """A line of the table, of the nearest of `count` candidates."""
    distances = np.array([one.distances for one in walks[:count]], dtype=float)
    kept = distances.argmin(0)
    latents = torch.cat([walks[number].latents[[place]] for place, number in enumerate(kept)])
    images = [walks[number].images[place] for place, number in enumerate(kept)]
    labels = [found[place] for place, number in enumerate(kept) if (found := walks[number].labels) is not None]
    own = agreement(study, study.asked, labels)
    seen = agreement(study, study.asked, [study.segmenter(image) for image in images])
    distance = kernel_interval(study.scorer.features(latents), study.scorer.validation, study.bootstrap)
    interval = f"{distance.value:.2f} [{distance.low:.2f}, {distance.high:.2f}]"
    nearer = f"{study.scorer(latents).nearer_train:.2f}"
    return f"| {' | '.join([f'{guidance:g}', str(count), *own, *seen, interval, nearer, f'{seconds:.2f}'])} |"


def agreement(study: Study, asked: Sequence[Condition], labels: Sequence[LabelArray]) -> tuple[str, str]:
    """r and slope of measured on asked, condition by condition."""
    measured = [structure_volumes(label, study.contract) for label in labels]
    found = []
    for spec in study.contract.conditions:
        if isinstance(spec, ContinuousCondition) and spec.group is not None:
            wanted = np.array([one.get(spec.name) for one in asked], dtype=float)
            values = np.array([volumes[spec.group] for volumes in measured])
            known = np.isfinite(wanted)
            found.append(fidelity(wanted[known], values[known], study.bootstrap))
    slopes = [f"{one.slope.value:.2f}" if one.slope else "none" for one in found]
    return ", ".join(f"{one.r.value:.2f}" for one in found), ", ".join(slopes)


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
    return f"| real | | | | {' | '.join(seen)} | | | |"


if __name__ == "__main__":
    main()
