"""What grain does to the released volumes of a study, by the audit's own figures, in variants.

    python tests/benchmarks/texture.py STUDY_FOLDER [--volumes 64]

The study needs a finished audit, of volumes that were sampled with `sampling.grain: false`; nothing is sampled anew.
Grain is fitted on the train side as the stage does it, and each variant changes one thing of it. Opens the holdout, as
the audit does.
"""

import argparse
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from meddiff_core.contract import Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.evidence.features.radiomics import RadiomicsFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import Features, extract
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.quality.comparison import feature_metrics, similarity_metrics
from meddiff_core.evidence.quality.distances import Sides
from meddiff_core.evidence.quality.effects import Sample, effect
from meddiff_core.evidence.quality.shapes import noise_level
from meddiff_core.evidence.quality.similarity import ms_ssim_pairs
from meddiff_core.generation.grain import LADDER, SHARE, Grain
from meddiff_core.generation.shards import Candidates
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.stages.grain import fit_on_train
from meddiff_core.types import LabelArray, StoredArray, Volumes
from meddiff_core.workspace import Workspace

HEAD = ("variant", "noise", "sharpness", "radiomics recall", "Fréchet ratio", "kernel", "random-conv recall",
        "kernel of it", "MS-SSIM gap")  # fmt: skip
BOOTSTRAP = Bootstrap(100, 0.95, 0)
Of = TypeVar("Of")


@dataclass(frozen=True)
class InMemory:
    """Volumes whose images were changed."""

    images: StoredArray
    labelled: Volumes

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> StoredArray:
        return np.asarray(self.images[index])

    def label(self, index: int) -> LabelArray | None:
        return self.labelled.label(index)


class Judge:
    """The audit's figures of a cohort beside both real sides, whose own are taken once."""

    def __init__(self, contract: Contract, train: Volumes, holdout: Volumes) -> None:
        self.contract = contract
        self.extractors = (RadiomicsFeatures(contract), RandomConvFeatures(contract))
        self.real = [self._look(one) for one in (train, holdout)]

    def row(self, name: str, volumes: Volumes) -> str:
        found = Sides(self._look(volumes), *self.real)
        metrics: dict[str, float] = {}
        for features in zip(*(side[0] for side in found), strict=True):
            metrics |= {one.name: one.value for one in feature_metrics(Sides(*features), BOOTSTRAP)}
        gap = {one.name: one.value for one in similarity_metrics(found.each(lambda s: s[2]), BOOTSTRAP)}["ms_ssim_gap"]
        effects = [effect(found.synthetic[1][n], found.train[1][n], BOOTSTRAP).value for n in range(2)]
        names = [f"{one}:radiomics" for one in ("recall", "frechet_ratio", "kernel")]
        names += [f"{one}:random-conv" for one in ("recall", "kernel")]
        figures = [*effects, *(metrics[one] for one in names), gap]
        return f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"

    def _look(self, volumes: Volumes) -> tuple[list[Features], list[Sample], Any]:
        features = [finish(extract(one, volumes)) for one in self.extractors]
        units = [self.contract.intensity.unit(volumes.image(index)) for index in range(len(volumes))]
        noise = [noise_level(unit) for unit in units]
        sharp = [measure(unit, None, self.contract)["sharpness"] for unit in units]
        samples = [Sample(np.array(values), np.arange(len(values))) for values in (noise, sharp)]
        return features, samples, finish(ms_ssim_pairs(volumes, 100, 0, self.contract))


def finish(work: Generator[Any, None, Of]) -> Of:
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def variants(grain: Grain) -> Iterator[tuple[str, Grain | None]]:
    """Each with one thing changed."""
    even = np.full_like(grain.spectrum, grain.spectrum.mean())
    mean = np.full_like(grain.strength, SHARE)
    yield "none", None
    yield "tone alone", replace(grain, spectrum=0 * even)
    yield "white, of one strength", replace(grain, spectrum=even, strength=mean, spread=0.0)
    yield "of one strength", replace(grain, strength=mean)
    yield "of one strength for each label", replace(grain, strength=mean * grain.strength.mean(1, keepdims=True))
    yield "without tone", replace(grain, tone=LADDER)
    yield "all subjects alike", replace(grain, spread=0.0)
    yield "all that was measured", replace(grain, strength=grain.strength / SHARE)
    yield "**as it is**", grain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--volumes", type=int, default=64)
    options = parser.parse_args()
    keep_freed_memory()
    workspace, dataset = Workspace.open(options.study), Dataset.open(options.study)
    contract, table = dataset.contract, pd.read_parquet(workspace.path("cohort"))
    rows = table[table["accepted"]].head(options.volumes)
    cohort = Candidates(workspace.path("candidates"), list(zip(rows["shard"], rows["position"], strict=True)))
    grain = finish(fit_on_train(dataset, workspace.path("autoencoder"), "cpu"))
    assert grain is not None, "too few training subjects"
    judge = Judge(contract, dataset.volumes("train"), dataset.volumes("holdout"))
    print(f"| {' | '.join(HEAD)} |\n|---|{'---:|' * (len(HEAD) - 1)}", flush=True)
    for name, one in variants(grain):
        print(judge.row(name, with_grain(cohort, one, contract, list(rows["seed"]))), flush=True)
    print(judge.row("held-out scans", dataset.volumes("holdout")))


def with_grain(cohort: Volumes, grain: Grain | None, contract: Contract, seeds: list[int]) -> Volumes:
    if grain is None:
        return cohort
    intensity = contract.intensity
    each = [grain.add(intensity.unit(cohort.image(n)), cohort.label(n), int(seed)) for n, seed in enumerate(seeds)]
    return InMemory(np.stack([intensity.store(one) for one in each]), cohort)


if __name__ == "__main__":
    main()
