"""How many evaluations our solver needs for the quality of MONAI's DDIM at 50 steps, from the same weights and noise.

    python tests/benchmarks/evaluations.py STUDY_FOLDER [--samples 96]

DDIM without added noise is Euler's method over the noise levels of its steps, which `tests/models/test_imported.py`
shows with MONAI's own scheduler. So both draw here from the study's denoiser, started alike, and are held to
validation volumes by the kernel distance of the latents, with a bootstrap interval. `bf16` is the default solver with
`sampling.precision: bfloat16`, where the processor has instructions for it. `train` is of training volumes,
`fitted` are noise levels as `meddiff tune-solver` finds them for the denoiser, instead of Karras'.
"""

import argparse
from pathlib import Path

import torch
from monai.networks.schedulers import DDIMScheduler

from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.fitting import fit_levels, trace_flow
from meddiff_core.diffusion.noise import noise_levels
from meddiff_core.diffusion.solvers import SOLVERS, evaluations
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.quality.distances import kernel_interval
from meddiff_core.evidence.sample_scoring import LatentScorer
from meddiff_core.evidence.tuning import Batch, open_batches
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.models.denoiser import load_denoiser
from meddiff_core.models.inference.instructions import bfloat16_instructions
from meddiff_core.models.inference.packed import one_thread
from meddiff_core.models.latents import LatentSet
from meddiff_core.study import SamplingConfig
from meddiff_core.types import Latents
from meddiff_core.workspace import Workspace

DDIM_STEPS, COUNTS = 50, (8, 10, 12, 15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--samples", type=int, default=96)
    options = parser.parse_args()
    workspace = Workspace.open(options.study)
    denoiser, scale, contract = load_denoiser(workspace.path("denoiser"))
    train, validation = (LatentSet.open(workspace.path("latents"), side) for side in ("train", "validation"))
    scorer = LatentScorer(train, validation, scale, 0)
    conditions = encode_conditions(Dataset.open(options.study).conditions("validation"), contract.conditions)
    config = SamplingConfig(guidance=1.0)
    batches = open_batches(denoiser, conditions, config, tuple(validation.mean.shape[1:]), options.samples, 0)
    print(f"{options.samples} samples; kernel distance to {len(validation)} validation volumes, 95% interval")
    report("train", 0, scorer, scorer.train)
    report("MONAI's DDIM", DDIM_STEPS, scorer, scorer.features(sample(batches, "euler", ddim_levels())))
    if bfloat16_instructions() is not None:
        rounded = config.model_copy(update={"precision": "bfloat16"})
        others = open_batches(denoiser, conditions, rounded, tuple(validation.mean.shape[1:]), options.samples, 0)
        sampled = sample(others, config.solver, noise_levels(config))
        report(f"{config.solver}, bf16", config.steps, scorer, scorer.features(sampled))
    with torch.inference_mode(), one_thread():
        trace = trace_flow(*batches[0], *config.span)
    for count in COUNTS:
        fitted = fit_levels(trace, config.solver, count)
        for name, changes in (("", {"steps": count}), (", fitted", {"sigmas": fitted})):
            levels = noise_levels(config.model_copy(update=changes))
            drawn = sample(batches, config.solver, levels)
            report(config.solver + name, evaluations(config.solver, count), scorer, scorer.features(drawn))


def ddim_levels() -> torch.Tensor:
    """Noise levels of the steps of MONAI's default schedule, and 0."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(DDIM_STEPS)
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])


@torch.inference_mode()
def sample(batches: list[Batch], solver: str, sigmas: torch.Tensor) -> Latents:
    """Standardised latents, from the noise of the batches."""
    with one_thread():
        ends = [SOLVERS[solver](denoiser, noise * float(sigmas[0]), sigmas) for denoiser, noise in batches]
    return torch.cat(ends)


def report(name: str, count: int, scorer: LatentScorer, features: object) -> None:
    found = kernel_interval(features, scorer.validation, Bootstrap(400, 0.95, 0))  # type: ignore[arg-type]
    print(f"{name:<14} {count:>3} evaluations  {found.value:7.4f} [{found.low:.4f}, {found.high:.4f}]", flush=True)


if __name__ == "__main__":
    main()
