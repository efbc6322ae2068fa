"""What each part of the recipe is worth, on the prepared data of a study: short trainings that differ in one thing.

    python tests/benchmarks/ablation.py STUDY_FOLDER autoencoder --steps 400 [NAME ...]
    python tests/benchmarks/ablation.py STUDY_FOLDER denoiser --steps 400 [NAME ...]

Prints a row of a Markdown table as each variant ends. All start from the same seed and see as many volumes
(`--steps` counts two of them for the autoencoder); one seed says little about differences in the last digit.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.models.autoencoder import AutoencoderShape
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.latents import AugmentedLatents, LatentSet
from meddiff_core.models.plan import load_plan
from meddiff_core.models.reconstruction import reconstruction_metrics
from meddiff_core.models.training.autoencoder import AutoencoderTraining
from meddiff_core.study import AutoencoderConfig, DenoiserConfig

Variant = dict[str, Any]
PLAIN: Variant = {"adversarial_start": 1.0}
AUTOENCODERS: dict[str, Variant] = {
    "as it is": {},
    "no Dice": {"dice_weight": 0.0},
    "one volume a step": {"batch": 1},
    "KL x 0.1": {"kl_weight": 1e-5},
    "KL x 10": {"kl_weight": 1e-3},
    "latents of half the side": {"channels": (16, 32)},
    "latents of an eighth": {"channels": (16, 32, 64, 128)},
    "8 latent channels": {"latent_channels": 8},
    "plain": PLAIN,
    "plain, 8 latent channels": PLAIN | {"latent_channels": 8},
    "plain, wider inside": PLAIN | {"channels": (16, 64, 128)},
    "plain, both": PLAIN | {"latent_channels": 8, "channels": (16, 64, 128)},
    "plain, half the rate": PLAIN | {"learning_rate": 5e-4},
    "plain, twice the rate": PLAIN | {"learning_rate": 2e-3},
    "plain and spectrum": PLAIN | {"perceptual": "fft"},
    "adaptive adversarial weight": {"adversarial_adaptive": True, "adversarial_weight": 0.5},
    "features and spectrum": {"perceptual": "both"},
    "imagenet features": {"perceptual": "imagenet"},
    "no perceptual": {"perceptual": "none"},
}
"""`plain` is without discriminator: reconstruction and KL alone."""
DENOISERS: dict[str, Variant] = {
    "as it is": {},
    "noise of EDM": {"sigma_mean": -0.4, "sigma_std": 1.2},
    "no uncertainty weighting": {"uncertainty_weighting": False},
    "no augmentation": {"augmented_share": 0.0},
    "half the rate": {"learning_rate": 2.5e-4},
    "twice the rate": {"learning_rate": 1e-3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("network", choices=("autoencoder", "denoiser"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_intermixed_args()
    variants, measure = {
        "autoencoder": (AUTOENCODERS, measure_autoencoder),
        "denoiser": (DENOISERS, measure_denoiser),
    }[options.network]
    for name in options.names or variants:
        started = time.perf_counter()
        figures = measure(options.study, variants[name], options.steps)
        seconds = (time.perf_counter() - started) / options.steps
        cells = " | ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"| {name} | {cells} | {seconds:.2f} s a step |", flush=True)


def measure_autoencoder(folder: Path, variant: Variant, steps: int) -> dict[str, float]:
    """Reconstruction of the whole validation side by the averaged weights, and in part by those of the last step."""
    dataset = Dataset.open(folder)
    shape = load_plan(folder / "plan.json").autoencoder
    config = AutoencoderConfig().model_copy(update=variant)
    shape = AutoencoderShape(
        in_channels=shape.in_channels,
        channels=config.channels or shape.channels,
        latent_channels=config.latent_channels,
    )
    train, validation = dataset.volumes("train"), dataset.volumes("validation")
    batch = config.batch or 2
    training = AutoencoderTraining(shape, dataset.contract, config, train, validation, 2 * steps // batch, batch, 0)
    for step in range(training.steps):
        training.step(step)
    average, last = (
        reconstruction_metrics(network, validation, range(len(validation)), dataset.contract)
        for network in (training.result()[0], training.network.eval())
    )
    found = average | {f"last {name}": last[name] for name in last if not name.startswith("validation/dice")}
    return {name.replace("validation/", ""): value for name, value in found.items()}


def measure_denoiser(folder: Path, variant: Variant, steps: int) -> dict[str, float]:
    """Validation losses, and the scores of samples at the end."""
    plan, dataset = load_plan(folder / "plan.json"), Dataset.open(folder)
    sides = {}
    for side in ("train", "validation"):
        conditions = encode_conditions(dataset.conditions(side), dataset.contract.conditions)
        sides[side] = (LatentSet.open(folder / "latents.zarr", side), conditions)
    config = DenoiserConfig().model_copy(update=variant)
    train, validation = sides["train"], sides["validation"]
    training = DenoiserTraining(
        plan.denoiser,
        dataset.contract.conditions,
        config,
        train,
        validation,
        steps,
        8,
        0,
        augmented=AugmentedLatents.open(folder / "latents.zarr"),
        scorer=LatentScorer(train[0], validation[0], train[0].scale(), 0),
    )
    for step in range(steps):
        training.step(step)
    return training.validate(steps)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
