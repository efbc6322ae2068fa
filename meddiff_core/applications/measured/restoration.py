"""Denoising, super-resolution and reconstruction: a holdout scan is made worse in a known way, and restored."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from meddiff_core.applications.measured.bench import Bench, Panel, Subject, scan_of
from meddiff_core.applications.measured.measurement import (
    PSNR,
    Measurement,
    autoencoded_truth,
    maybe_segmenter,
    result_of,
    tuned,
    values_of,
)
from meddiff_core.applications.measured.planted import lines_measured, rician
from meddiff_core.applications.measured.restoring import (
    Complex,
    coarsened,
    gaussian,
    interpolated,
    non_local_means,
    total_variation,
    without_rician_bias,
    zero_filled,
)
from meddiff_core.applications.measured.table import Goal, Value
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import Mask
from meddiff_core.applications.tasks.denoise import denoise
from meddiff_core.applications.tasks.reconstruct import reconstruct
from meddiff_core.applications.tasks.super_resolve import super_resolve
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray, Progress, Work

BOUND = "autoencoder, given the whole scan"
NOISES = (0.05, 0.1, 0.2)
GAUSSIAN, NLM, NOISY = "Gaussian", "non-local means", "as it is"
WIDTHS, STRENGTHS = (0.4, 0.5, 0.6, 0.8, 1.0, 1.3), (0.3, 0.45, 0.6, 0.8, 1.0, 1.4)
FACTORS: Mapping[str, tuple[int, int, int]] = {
    "2x in the plane": (2, 2, 1),
    "4x in the plane": (4, 4, 1),
    "2x through it": (1, 1, 2),
    "4x through it": (1, 1, 4),
}
LINEAR, CUBIC, CUBIC_ENCODED = "linear", "cubic", "cubic, then the autoencoder"
UNDERSAMPLINGS = (4, 8)
ZERO_FILLED, TOTAL_VARIATION = "zero-filled", "total variation"
WEIGHTS = (0.001, 0.003, 0.01, 0.02, 0.04)
Results = tuple[FloatArray, Mapping[str, FloatArray]]
"""What was made of a scan, and what each method makes of that."""
Restored = Callable[[Bench, Subject], Work[Results]]


def measure_denoise(bench: Bench) -> Work[list[Value]]:
    """At each level of Rician noise."""
    values: list[Value] = []
    for std in NOISES:
        width = tuned(WIDTHS, bench.validation, partial(_smoothed, bench, std))
        strength = tuned(STRENGTHS, bench.validation, partial(_averaged, bench, std))
        restored = partial(_denoised, std, width, strength)
        values += yield from _measure(bench, "denoise", f"Rician noise of {std:.0%}", restored)
    return values


def _denoised(std: float, width: float, strength: float, bench: Bench, subject: Subject) -> Work[Results]:
    noisy = _noisy(bench, std, subject)
    outcome = yield from bench.apply(denoise, scan_of(noisy), noise=std)
    smoothed, averaged = _smoothed(bench, std, subject, width), _averaged(bench, std, subject, strength)
    return noisy, {"denoise": _image(outcome), NOISY: noisy, GAUSSIAN: smoothed, NLM: averaged}


def _noisy(bench: Bench, std: float, subject: Subject) -> FloatArray:
    seed = derive_seed(bench.seed, "noise", std, subject.scan.digest)
    return rician(subject.scan.image, subject.body, std, seed, masked=bench.contract.mask != "none")


def _smoothed(bench: Bench, std: float, subject: Subject, width: float) -> FloatArray:
    return gaussian(_noisy(bench, std, subject), width)


def _averaged(bench: Bench, std: float, subject: Subject, strength: float) -> FloatArray:
    return without_rician_bias(non_local_means(_noisy(bench, std, subject), std, strength), std)


def measure_super_resolve(bench: Bench) -> Work[list[Value]]:
    """By 2 and by 4, in the plane and through it."""
    values: list[Value] = []
    for name, factors in FACTORS.items():
        if all(side >= 2 * factor for side, factor in zip(bench.contract.size, factors, strict=True)):
            values += yield from _measure(bench, "super-resolve", name, partial(_refined, factors))
    return values


def _refined(factors: tuple[int, int, int], bench: Bench, subject: Subject) -> Work[Results]:
    coarse = coarsened(subject.scan.image, factors)
    linear, cubic = (interpolated(coarse, bench.contract.size, order) for order in (1, 3))
    scan = replace(scan_of(linear), coarse=coarse)
    outcome = yield from bench.apply(super_resolve, scan)
    encoded = yield from bench.autoencoded(cubic)
    return linear, {"super-resolve": _image(outcome), LINEAR: linear, CUBIC: cubic, CUBIC_ENCODED: encoded}


def measure_reconstruct(bench: Bench) -> Work[list[Value]]:
    """From a quarter and an eighth of the lines of k-space."""
    values: list[Value] = []
    for times in UNDERSAMPLINGS:
        measured = lines_measured(bench.contract.size, times, bench.seed)
        weight = tuned(WEIGHTS, bench.validation, partial(_varied_least, measured))
        restored = partial(_reconstructed, times, measured, weight)
        values += yield from _measure(bench, "reconstruct", f"{times}x", restored)
    return values


def _reconstructed(times: int, measured: Mask, weight: float, bench: Bench, subject: Subject) -> Work[Results]:
    kspace = _kspace(subject) * measured
    filled = zero_filled(kspace)
    scan = replace(scan_of(filled), kspace=kspace.astype(np.complex64))
    outcome = yield from bench.apply(reconstruct, scan, undersampling=times)
    varied = _varied_least(measured, subject, weight)
    return filled, {"reconstruct": _image(outcome), ZERO_FILLED: filled, TOTAL_VARIATION: varied}


def _varied_least(measured: Mask, subject: Subject, weight: float) -> FloatArray:
    return total_variation(_kspace(subject) * measured, measured, weight)


def _kspace(subject: Subject) -> Complex:
    return np.asarray(np.fft.fftn(subject.scan.image.astype(np.float64), norm="ortho"))


def _image(outcome: Outcome) -> FloatArray:
    return np.asarray(np.clip(result_of(outcome), 0, 1), dtype=np.float32)


def _measure(bench: Bench, task: str, setting: str, restored: Restored) -> Work[list[Value]]:
    segmenter = yield from maybe_segmenter(bench)
    values: list[Value] = []
    for subject in bench.subjects:
        worse, methods = yield from restored(bench, subject)
        every = {**methods, BOUND: autoencoded_truth(bench, subject)[0]}
        values += values_of(setting, subject, every, subject.body, segmenter)
        if subject.number == 0:
            panels = [Panel(name, image, "intensity") for name, image in methods.items()]
            first = Panel("scan", subject.scan.image, "intensity"), Panel(setting, worse, "intensity")
            bench.keep_picture(task, *first, *panels)
        yield Progress(f"measure {task}, {setting}", subject.number + 1, len(bench.subjects))
    return values


DENOISE = Measurement(
    task="denoise",
    run=measure_denoise,
    baselines=(NOISY, GAUSSIAN, NLM),
    bounds=(BOUND,),
    goals=(
        Goal(
            text="above non-local means at 20%", setting="Rician noise of 20%", measure=PSNR.name, least=0.0, over=NLM
        ),
    ),
)
SUPER_RESOLVE = Measurement(
    task="super-resolve",
    run=measure_super_resolve,
    baselines=(LINEAR, CUBIC, CUBIC_ENCODED),
    bounds=(BOUND,),
    goals=tuple(
        Goal(text=f"1 dB above cubic, {setting}", setting=setting, measure=PSNR.name, least=1.0, over=CUBIC)
        for setting in ("4x in the plane", "4x through it")
    ),
)
RECONSTRUCT = Measurement(
    task="reconstruct",
    run=measure_reconstruct,
    baselines=(ZERO_FILLED, TOTAL_VARIATION),
    bounds=(BOUND,),
    goals=tuple(
        Goal(text=f"above {other} at {times}x", setting=f"{times}x", measure=PSNR.name, least=0.0, over=other)
        for times in UNDERSAMPLINGS
        for other in (ZERO_FILLED, TOTAL_VARIATION)
    ),
)
