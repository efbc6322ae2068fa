"""What the weights of a denoiser remember, and what it costs in quality to make them forget.

    python tests/benchmarks/memory.py STUDY_FOLDER --steps 1000 [--unmeasured] [NAME ...]

Takes the autoencoder of a study, encodes its training volumes with the augmentations of each variant, and trains a
denoiser. Prints a row of a Markdown table as each ends: the audit's strongest membership attack between training and
validation subjects (corrected for its choice; the holdout stays sealed), the areas of the best attacks that ask about
volumes and about augmented variants, the error of unseen volumes at a noise level of 0.8, the kernel distance of
samples to validation volumes, and, without `--unmeasured`, correlation and slope of asked and measured volumes.
"""

import argparse
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.checkpoint_selection import NO_LIMIT
from meddiff_core.diffusion.private import PrivateMechanism, guarantee_for
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.membership_probe import LatentSide, open_probe
from meddiff_core.evidence.privacy.attacks import augmented_scores, denoiser_scores, encode_augmented
from meddiff_core.evidence.privacy.membership import VARIANTS as ASKED_ABOUT
from meddiff_core.evidence.privacy.membership import Attacked, difficulty_of, evaluate_attacks
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.generation.engine import Engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.models.augmentation import AugmentVectors, random_augmentations
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import Denoiser
from meddiff_core.models.inference.packed import packed
from meddiff_core.models.latents import AugmentedLatents, LatentSet, encode_latents
from meddiff_core.models.plan import load_plan
from meddiff_core.study import Augmentation, DenoiserConfig, PrivacyConfig, SamplingConfig
from meddiff_core.types import Progress

KINDS: tuple[Augmentation, ...] = get_args(Augmentation)
FEW: tuple[Augmentation, ...] = ("mirror", "shift")
Variant = dict[str, Any]
VARIANTS: dict[str, Variant] = {
    "mirror and shift, 4 variants, share 0.3": {"kinds": FEW, "variants": 4, "augmented_share": 0.3},
    "mirror and shift, 4 variants, share 0.8": {"kinds": FEW, "variants": 4, "augmented_share": 0.8},
    "all kinds, 16 variants, share 0.8": {"kinds": KINDS, "variants": 16, "augmented_share": 0.8},
    "all kinds, 16 variants, share 0.95": {"kinds": KINDS, "variants": 16, "augmented_share": 0.95},
    "all kinds, 16 variants, share 0.6": {"kinds": KINDS, "variants": 16, "augmented_share": 0.6},
    "all kinds, 16 variants, share 0.3": {"kinds": KINDS, "variants": 16, "augmented_share": 0.3},
    "all kinds, 16 variants, share 1": {"kinds": KINDS, "variants": 16, "augmented_share": 1.0},
    "all kinds, 4 variants, share 0.8": {"kinds": KINDS, "variants": 4, "augmented_share": 0.8},
    "all kinds, 1 variant, share 0.8": {"kinds": KINDS, "variants": 1, "augmented_share": 0.8},
    "weight decay 0.05": {"kinds": KINDS, "variants": 16, "augmented_share": 1.0, "weight_decay": 0.05},
    "attention dropout 0.1": {"kinds": KINDS, "variants": 16, "augmented_share": 1.0, "dropout": 0.1},
    "not augmented": {"kinds": (), "variants": 1},
    "private, epsilon 50, not augmented": {"kinds": (), "variants": 1, "epsilon": 50.0},
    "private, epsilon 8, not augmented": {"kinds": (), "variants": 1, "epsilon": 8.0},
}
DELTA = 1e-3
ASKED = 48
"""Samples whose structures are measured."""
GUIDANCES = (1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unmeasured", action="store_true")
    options = parser.parse_intermixed_args()
    for name in options.names or VARIANTS:
        started = time.perf_counter()
        figures = measure_variant(options.study, options.steps, options.seed, not options.unmeasured, **VARIANTS[name])
        cells = " | ".join(f"{key} {value}" for key, value in figures.items())
        minutes = (time.perf_counter() - started) / 60
        print(f"| {name}, {options.steps} steps, seed {options.seed} | {cells} | {minutes:.1f} min |", flush=True)


def measure_variant(
    folder: Path,
    steps: int,
    seed: int,
    measured: bool,
    kinds: tuple[Augmentation, ...],
    variants: int,
    epsilon: float | None = None,
    **changes: Any,
) -> dict[str, str]:
    plan, dataset = load_plan(folder / "plan.json"), Dataset.open(folder)
    privacy = None if epsilon is None else PrivacyConfig(epsilon=epsilon, delta=DELTA)
    config = DenoiserConfig(uncertainty_weighting=privacy is None, privacy=privacy, **changes)
    batch, mechanism = plan.denoiser_training.batch, None
    if privacy is not None:
        subjects = dataset.subjects("train")
        mechanism = PrivateMechanism(guarantee_for(privacy, len(set(subjects)), batch, steps), subjects)
    autoencoder, contract = load_autoencoder(folder / "models" / "autoencoder")
    with tempfile.TemporaryDirectory() as scratch:
        vectors = random_augmentations(len(dataset.volumes("train")), variants, kinds, seed)
        sides = {"train": dataset.volumes("train")}
        finish(encode_latents(Path(scratch) / "l", autoencoder, sides, contract, augmentations=vectors))
        augmented = AugmentedLatents.open(Path(scratch) / "l")
    known, unseen = (open_side(folder, dataset, side) for side in ("train", "validation"))
    scale = known.latents.scale()
    training = DenoiserTraining(
        plan.denoiser,
        dataset.contract.conditions,
        config,
        (known.latents, known.conditions),
        (unseen.latents, unseen.conditions),
        steps,
        batch,
        seed,
        augmented=augmented,
        scorer=(scorer := LatentScorer(known.latents, unseen.latents, scale, seed)),
        attack=open_probe(known, unseen, scale, seed, limit=NO_LIMIT),
        mechanism=mechanism,
    )
    curve = []
    for step in range(steps):
        training.step(step)
        if (step + 1) % max(1, steps // 5) == 0:
            found = training.validate(step + 1)
            curve.append({key.rpartition("/")[2]: round(value, 3) for key, value in found.items() if "/0.05/" in key})
    for point in curve:
        print(point, flush=True)
    network = training.averages["0.05" if mechanism is None else "0.15"].network
    answers = [attacked(network, folder, dataset, side, seed, vectors) for side in ("train", "validation")]
    found = evaluate_attacks("denoiser", *answers, Bootstrap(seed=seed))
    area, moved = found.corrected, [one for one in found.outcomes if "augmented" in one.attack]
    figures = {
        "membership": f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]",
        "of volumes": f"{max(one.auc.value for one in found.outcomes if one not in moved):.2f}",
        "of variants": f"{max(one.auc.value for one in moved):.2f}" if moved else "none",
        "loss at 0.8": f"{training.validate(0)['validation/loss_sigma_0.8']:.3f}",
        "distance": f"{scorer(training.sample_latents(network)).validation_distance:.2f}",
    }
    for guidance in GUIDANCES if measured else ():
        settings = SamplingConfig(guidance=guidance)
        engine = Engine(autoencoder, network, scale, contract, settings)
        figures |= {f"w {guidance:g}, {key}": value for key, value in fidelity(engine, dataset).items()}
    return figures


def finish(work: Generator[Progress, None, Any]) -> Any:
    try:
        while True:
            next(work)
    except StopIteration as ended:
        return ended.value


def open_side(folder: Path, dataset: Dataset, side: Any) -> LatentSide:
    conditions = encode_conditions(dataset.conditions(side), dataset.contract.conditions)
    return LatentSide(LatentSet.open(folder / "latents.zarr", side), conditions, dataset.subjects(side))


def attacked(
    network: Denoiser, folder: Path, dataset: Dataset, side: Any, seed: int, vectors: AugmentVectors | None
) -> Attacked:
    """What the audit asks of one side, here of the validation side instead of the holdout."""
    rows = list(range(len(dataset.volumes(side))))
    found = open_side(folder, dataset, side)
    scale = open_side(folder, dataset, "train").latents.scale()
    latents = scale.standardise(found.latents.mean)
    asked = packed(network)
    scores = finish(denoiser_scores(asked, latents, found.conditions, seed))
    if vectors is not None:
        autoencoder, contract = load_autoencoder(folder / "models" / "autoencoder")
        own = vectors.unflatten(0, (-1, len(dataset.volumes("train"))))[:ASKED_ABOUT, : len(rows)]
        variants = [
            (scale.standardise(encode_augmented(autoencoder, dataset.volumes(side), rows, each, contract)),
             torch.cat([found.conditions, each], dim=1)) for each in own
        ]  # fmt: skip
        scores |= finish(augmented_scores(asked, variants, seed))
    difficulty = difficulty_of(dataset.volumes(side), rows, dataset.contract)
    return Attacked(found.subjects, difficulty, {"denoiser": scores})


def fidelity(engine: Engine, dataset: Dataset) -> dict[str, str]:
    """Correlation and slope of each volume that is a condition, at conditions of both sides."""
    given = [*dataset.conditions("validation"), *dataset.conditions("train")][:ASKED]
    samples = [SampleRequest(str(number), number, 0, number, one) for number, one in enumerate(given)]
    images, labels = engine.sample(samples)
    assert labels is not None
    rows = [measure(image, label, engine.contract) for image, label in zip(images, labels, strict=True)]
    found = {}
    for name in given[0]:
        group = f"volume_mm3:{name.removesuffix('_mm3')}"
        if group not in rows[0]:
            continue
        asked, measured = np.array([[one[name], row[group]] for one, row in zip(given, rows, strict=True)], float).T
        r, slope = np.corrcoef(asked, measured)[0, 1], np.polyfit(asked, measured, 1)[0]
        found[name] = f"r {r:.2f}, slope {slope:.2f}"
    return found


if __name__ == "__main__":
    main()
