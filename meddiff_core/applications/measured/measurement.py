"""How a task is measured: what runs it beside its baselines, which methods those are, and what it should reach."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meddiff_core.applications.measured.bench import Bench, Subject
from meddiff_core.applications.measured.figures import psnr, ssim
from meddiff_core.applications.measured.table import Goal, Measure, Role, Value
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import Mask
from meddiff_core.evidence.utility.segmentation import Segmenter, dice_scores
from meddiff_core.types import FloatArray, LabelArray, Work

PSNR = Measure(name="PSNR (dB)")
SSIM = Measure(name="SSIM")
DICE = Measure(name="Dice of the segmenter")


@dataclass(frozen=True)
class Measurement:
    """Of one task."""

    task: str
    """Name of the method that is the task, as the command has it."""
    run: Callable[[Bench], Work[list[Value]]]
    baselines: Sequence[str]
    bounds: Sequence[str] = ()
    goals: Sequence[Goal] | Callable[[Bench], Sequence[Goal]] = ()
    """Those that depend on the study's conditions are made of the bench."""
    notes: Sequence[str] = ()
    needs_labels: bool = False
    """Whether it is measured on studies with label maps alone."""
    needs_volumes: bool = False
    """Whether it is measured on studies alone of which a condition is the volume of a structure."""

    @property
    def roles(self) -> Mapping[str, Role]:
        """By method."""
        beside: dict[str, Role] = dict.fromkeys(self.baselines, "baseline")
        return {self.task: "task", **beside, **dict.fromkeys(self.bounds, "bound")}


def result_of(outcome: Outcome) -> NDArray[Any]:
    """What was asked for."""
    return next(iter(outcome.maps.values())).array


def spread_of(outcome: Outcome) -> FloatArray | None:
    """The uncertainty map, if the task gives one."""
    found = [one.array for one in outcome.maps.values() if one.kind == "uncertainty"]
    return np.asarray(found[0], np.float32) if found else None


def values_of(
    setting: str, subject: Subject, methods: Mapping[str, FloatArray], where: Mask, segmenter: Segmenter | None
) -> Iterable[Value]:
    """PSNR and SSIM of restored images over some voxels, and Dice of what a segmenter sees there."""
    for method, image in methods.items():
        yield Value(setting, PSNR, method, subject.number, (psnr(image, subject.scan.image, where),))
        yield Value(setting, SSIM, method, subject.number, (ssim(image, subject.scan.image, where),))
        if segmenter is not None and subject.labels is not None:
            seen = segmenter(segmenter.contract.intensity.store(image))
            score = mean_dice(np.where(where, seen, 0), np.where(where, subject.labels, 0), segmenter)
            yield Value(setting, DICE, method, subject.number, (score,))


def mean_dice(found: NDArray[Any], truth: NDArray[Any], segmenter: Segmenter) -> float:
    """Over the structures that the truth has; 0 where it has none."""
    scores = dice_scores(found.astype(np.uint8), truth.astype(np.uint8), len(segmenter.contract.labels))
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0


def tuned(
    candidates: Sequence[float], subjects: Sequence[Subject], restore: Callable[[Subject, float], FloatArray]
) -> float:
    """The candidate whose results have the highest mean PSNR on some scans, which are none of those measured on."""

    def quality(candidate: float) -> float:
        return sum(psnr(restore(subject, candidate), subject.scan.image, subject.body) for subject in subjects)

    return max(candidates, key=quality)


def maybe_segmenter(bench: Bench) -> Work[Segmenter | None]:
    """The segmenter, where the study has label maps."""
    return (yield from bench.segmenter()) if bench.contract.labels else None


def autoencoded_truth(bench: Bench, subject: Subject) -> tuple[FloatArray, LabelArray | None]:
    """What the autoencoder makes of the whole scan and its own label map: no result of these models is nearer."""
    return bench.decoded(bench.latents(subject.scan.image, subject.labels))
