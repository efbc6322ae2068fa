"""What a plan says of memory and time, beside what the trainings then take, each in a process of its own.

    python tests/benchmarks/plan.py

Memory is what the process grew by, from before the networks were built to its peak.
"""

import resource
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import monai.networks.nets  # noqa: F401
import torch
import torch._dynamo  # as the line above: so that importing them later counts as no growth

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.diffusion import sizing
from meddiff_core.diffusion.training import DenoiserTraining
from meddiff_core.models.allocator import keep_freed_memory
from meddiff_core.models.plan import Plan
from meddiff_core.models.training.autoencoder import AutoencoderTraining
from meddiff_core.study import Study
from meddiff_core.types import Progress

THREADS, STEPS = 2, 5
STUDY = Study.model_validate({"name": "bench", "data": {"images": "x"}})


def main() -> None:
    for network in ("autoencoder", "denoiser"):
        for side in (32, 48, 64):
            (planned_s, planned_gb), (taken_s, taken_gb) = (alone(what, network, side) for what in (planned, taken))
            print(
                f"{network} at {side}^3: {planned_s:.2f} s a step planned, {taken_s:.2f} taken "
                f"({planned_s / taken_s:.2f}); {planned_gb:.2f} GB planned, {taken_gb:.2f} taken "
                f"({planned_gb / taken_gb:.2f})",
                flush=True,
            )


def alone(what: Callable[[str, int], tuple[float, float]], network: str, side: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (THREADS,)) as process:
        return process.submit(what, network, side).result()


def planned(network: str, side: int) -> tuple[float, float]:
    """Seconds a step and GB."""
    plan = finished(sizing.infer_plan(contract(side), {}, STUDY, 100, "cpu"))
    training = getattr(plan, f"{network}_training")
    return training.seconds_per_step, training.memory_gb


def finished(planning: Generator[Progress, None, Plan]) -> Plan:
    while True:
        try:
            next(planning)
        except StopIteration as end:
            plan: Plan = end.value
            return plan


def taken(network: str, side: int) -> tuple[float, float]:
    keep_freed_memory()
    before = peak_gb()
    training = start(network, side)
    training.step(0)
    started = time.perf_counter()
    for step in range(1, STEPS + 1):
        training.step(step)
    return (time.perf_counter() - started) / STEPS, peak_gb() - before


def start(network: str, side: int) -> AutoencoderTraining | DenoiserTraining:
    given = contract(side)
    if network == "autoencoder":
        shape = sizing._autoencoder_shape(given, STUDY, "cpu")
        return sizing._autoencoder_probe(shape, given, STUDY, sizing.Way(2), "cpu")
    latent_size = (side // 4,) * 3
    denoiser = sizing._denoiser_shape(4, latent_size, STUDY, "cpu")
    return sizing._denoiser_probe(denoiser, given, latent_size, STUDY, sizing.Way(8), "cpu")


def contract(side: int) -> Contract:
    return Contract(
        spacing_mm=4.0,
        size=(side, side, side),
        intensity=IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5)),
        mask="none",
        labels={"one": (1,), "two": (2,)},
        conditions=(),
    )


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
