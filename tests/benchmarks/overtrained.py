"""A denoiser that memorises a dozen scans must be blocked for copying: the known answer on real data.

    python tests/benchmarks/overtrained.py STUDY_FOLDER [--volumes 12] [--steps 4000] [--samples 60]

Takes the autoencoder and the latents of a finished study, trains a small denoiser on a few of its training volumes
without any of what works against memorising, samples a cohort and runs the copy part of the audit on it: train are
those few, the holdout is the study's. Beside it, as a control, the study's own accepted cohort against the same few.
"""

import argparse
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from meddiff_core.contract import Condition
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.split.sides import Side
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.privacy.copy_evidence import CopyEvidence, find_copies
from meddiff_core.evidence.screening.verdicts import accepted_volumes
from meddiff_core.evidence.selection import Selection
from meddiff_core.generation.engine import Engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import Denoiser, DenoiserShape, LatentScale
from meddiff_core.models.latents import LatentSet
from meddiff_core.study import AuditConfig, DenoiserConfig, SamplingConfig
from meddiff_core.types import LabelArray, StoredArray, Volumes
from meddiff_core.workspace import Workspace

BY_HEART = DenoiserConfig(
    condition_dropout=0.0, augmentations=(), augmented_share=0.0, ema_std=(0.05,), learning_rate=1e-3
)
CHANNELS = (32, 64)


@dataclass(frozen=True)
class Drawn:
    """Volumes in memory."""

    images: StoredArray
    labels: LabelArray | None

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> StoredArray:
        return self.images[index]

    def label(self, index: int) -> LabelArray | None:
        return None if self.labels is None else self.labels[index]


@dataclass(frozen=True)
class FewOf:
    """A data set whose train side is a few of the volumes that it was."""

    dataset: Dataset
    rows: Sequence[int]

    def volumes(self, side: Side) -> Volumes:
        whole = self.dataset.volumes(side)
        return Selection.of(whole, self.rows) if side == "train" else whole

    def subjects(self, side: Side) -> list[str]:
        return self._of(side, self.dataset.subjects(side))

    def conditions(self, side: Side) -> list[Condition]:
        return self._of(side, self.dataset.conditions(side))

    def _of(self, side: Side, whole: list[Any]) -> list[Any]:
        return [whole[row] for row in self.rows] if side == "train" else whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--volumes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=60)
    options = parser.parse_args()
    whole = Dataset.open(options.study)
    rows = np.random.default_rng(0).permutation(len(whole.volumes("train")))[: options.volumes].tolist()
    few = FewOf(whole, rows)
    started = time.perf_counter()
    denoiser, scale, loss = learn_by_heart(options.study, few, options.steps)
    trained = time.perf_counter()
    cohort = sample(options.study, denoiser, scale, few, options.samples)
    sampled = time.perf_counter()
    workspace = Workspace.open(options.study)
    accepted = accepted_volumes(pd.read_parquet(workspace.path("verdicts")), workspace.path("candidates"))
    honest = Selection.of(accepted, range(min(options.samples, len(accepted))))
    print(
        f"{options.steps} steps to a loss of {loss:.4f}: {trained - started:.0f} s; sampling: {sampled - trained:.0f} s"
    )
    for name, volumes in (("memorised", cohort), ("control: the study's own cohort", honest)):
        report(name, audit_copies(options.study, few, volumes))
    print(f"copy audits: {time.perf_counter() - sampled:.0f} s")


def learn_by_heart(study: Path, few: FewOf, steps: int) -> tuple[Denoiser, LatentScale, float]:
    """A denoiser of a few latents, their scale, and its mean loss over the last tenth of the steps."""
    latents = LatentSet.open(study / "latents.zarr", "train")
    chosen = LatentSet(latents.mean[list(few.rows)], latents.std[list(few.rows)])
    specs = few.dataset.contract.conditions
    side = (chosen, encode_conditions(few.conditions("train"), specs))
    shape = DenoiserShape(latent_channels=chosen.mean.shape[1], channels=CHANNELS)
    training = DenoiserTraining(shape, specs, BY_HEART, side, side, steps, 8, 0)
    losses = [float(training.step(step)["denoiser/loss"]) for step in range(steps)]
    return training.result()[0], training.scale, float(np.mean(losses[-max(1, steps // 10) :]))


def sample(study: Path, denoiser: Denoiser, scale: LatentScale, few: FewOf, count: int) -> Drawn:
    """A cohort, each volume with the conditions of one of the few."""
    autoencoder, contract = load_autoencoder(study / "models" / "autoencoder")
    conditions = few.conditions("train")
    requests = [
        SampleRequest(f"s{slot}", slot, 0, 1000 + slot, conditions[slot % len(conditions)]) for slot in range(count)
    ]
    return Drawn(*Engine(autoencoder, denoiser, scale, contract, SamplingConfig(guidance=1.0)).sample(requests))


def audit_copies(study: Path, few: FewOf, cohort: Volumes) -> CopyEvidence:
    """The copy part of the audit, as it is run in every study."""
    autoencoder, contract = load_autoencoder(study / "models" / "autoencoder")
    digest = "".join(digest_checkpoint(study / "models" / "autoencoder").values())
    audit = AuditInput(
        dataset=few,
        contract=contract,
        accepted=cohort,
        requested=[{}] * len(cohort),
        measured=[{}] * len(cohort),
        sample_ids=[str(row) for row in range(len(cohort))],
        extractors=[
            RandomConvFeatures(contract),
            LatentFeatures(lambda images: autoencoder.encode(images)[0], digest, contract),
        ],
        screen=ScreenSummary(candidates=len(cohort), accepted=len(cohort), reasons={}),
        config=AuditConfig(),
    )
    return finish(find_copies(audit, {}, Bootstrap(200, 0.95, 0)))


def finish(work: Generator[Any, None, CopyEvidence]) -> CopyEvidence:
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: CopyEvidence = end.value
            return found


def report(name: str, evidence: CopyEvidence) -> None:
    """What the audit says."""
    config, named = AuditConfig(), set(evidence.rows[evidence.result.flagged].tolist())
    print(f"\n{name}: {len(evidence.result.flagged)} of {len(evidence.synthetic)} flagged, of {len(named)} subjects")
    for metric in evidence.section.metrics:
        if not metric.name.startswith("negative_control"):
            print(f"  {metric.name:28} {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]")
    for gate in apply_gates(evidence.section.metrics, config):
        if gate.value is not None:
            print(f"  {gate.verdict:10} {gate.message}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
