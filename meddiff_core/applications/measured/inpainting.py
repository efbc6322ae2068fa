"""Inpainting: smooth random holes in holdout scans, filled and compared with what was there."""

from collections.abc import Iterable

import numpy as np

from meddiff_core.applications.measured.bench import Bench, Panel, Subject, scan_of
from meddiff_core.applications.measured.figures import coverage, spread_against_error
from meddiff_core.applications.measured.measurement import (
    PSNR,
    Measurement,
    autoencoded_truth,
    maybe_segmenter,
    result_of,
    spread_of,
    values_of,
)
from meddiff_core.applications.measured.planted import random_hole
from meddiff_core.applications.measured.restoring import harmonic_fill
from meddiff_core.applications.measured.table import Goal, Measure, Value
from meddiff_core.applications.scans import Mask
from meddiff_core.applications.tasks.inpaint import inpaint
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray, Progress, Work

TASK, MEAN, CONDITIONAL = "inpaint", "training mean", "mean given age and sex"
HARMONIC, NETWORK = "harmonic fill", "regression U-Net"
BOUND = "autoencoder, given the whole scan"
COVERED = Measure(name="truth within the 80% band of the samples", better=None)
FOLLOWS = Measure(name="spread against error (Spearman)")
IN_HOLE = "in the hole"


def measure(bench: Bench) -> Work[list[Value]]:
    """PSNR, SSIM and Dice inside the hole, and whether the samples' spread tells of the error."""
    segmenter = yield from maybe_segmenter(bench)
    filler, population = (yield from bench.filler()), (yield from bench.population())
    values: list[Value] = []
    for subject in bench.subjects:
        image, hole = subject.scan.image, random_hole(subject.body, derive_seed(bench.seed, subject.scan.digest))
        shown = np.where(hole, 0, image).astype(np.float32)
        known = {name: value for name, value in subject.condition.items() if name not in _volumes(bench)}
        outcome = yield from bench.apply(inpaint, scan_of(shown, mask=hole, condition=known))
        fills = {
            TASK: np.asarray(result_of(outcome), np.float32),
            MEAN: population.mean,
            CONDITIONAL: population.expected(known),
            HARMONIC: harmonic_fill(shown, hole),
            NETWORK: filler(shown, hole),
            BOUND: autoencoded_truth(bench, subject)[0],
        }
        methods = {name: np.where(hole, np.clip(fill, 0, 1), image) for name, fill in fills.items()}
        values += values_of(IN_HOLE, subject, methods, hole, segmenter)
        values += _of_spread(subject, fills[TASK], spread_of(outcome), hole)
        if subject.number == 0:
            panels = [Panel(name, methods[name], "intensity") for name in (TASK, NETWORK, CONDITIONAL)]
            before = Panel("hole", hole.astype(np.uint8), "labels")
            bench.keep_picture(TASK, Panel("scan", image, "intensity"), before, *panels)
        yield Progress("measure inpaint", subject.number + 1, len(bench.subjects))
    return values


def _volumes(bench: Bench) -> set[str]:
    """Conditions that nobody knows of a scan with a hole."""
    return {spec.name for spec in bench.contract.conditions if getattr(spec, "group", None) is not None}


def _of_spread(subject: Subject, found: FloatArray, spread: FloatArray | None, hole: Mask) -> Iterable[Value]:
    if spread is None:
        return
    truth = subject.scan.image
    yield Value(IN_HOLE, COVERED, TASK, subject.number, (coverage(found, spread, truth, hole),))
    yield Value(IN_HOLE, FOLLOWS, TASK, subject.number, (spread_against_error(found, spread, truth, hole),))


MEASUREMENT = Measurement(
    task=TASK,
    run=measure,
    baselines=(MEAN, CONDITIONAL, HARMONIC, NETWORK),
    bounds=(BOUND,),
    goals=(
        Goal(
            text="2 dB above the mean given age and sex",
            setting=IN_HOLE,
            measure=PSNR.name,
            least=2.0,
            over=CONDITIONAL,
        ),
    ),
)
