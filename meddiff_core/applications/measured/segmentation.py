"""Segmentation: label maps of holdout scans whose own are hidden."""

from collections.abc import Iterable, Mapping

import numpy as np

from meddiff_core.applications.measured.bench import Bench, Panel, Subject
from meddiff_core.applications.measured.figures import STATISTICS
from meddiff_core.applications.measured.measurement import Measurement, autoencoded_truth, result_of, spread_of
from meddiff_core.applications.measured.table import Goal, Measure, Value
from meddiff_core.applications.tasks.segment import segment
from meddiff_core.evidence.utility.segmentation import dice_scores
from meddiff_core.types import FloatArray, LabelArray, Progress, Work

TASK, NETWORK, NEAREST = "segment", "U-Net on the same pairs", "nearest training subject's labels"
BOUND = "autoencoder, given the label map"
DICE = "Dice, mean of structures"
FINDS_ERRORS = Measure(name="uncertainty finds wrong voxels (AUROC)")


def measure(bench: Bench) -> Work[list[Value]]:
    """Dice of each structure and of their mean, and whether uncertain voxels are the wrong ones."""
    segmenter = yield from bench.segmenter()
    nearest = _nearest_labels(bench)
    values: list[Value] = []
    for subject in bench.subjects:
        outcome = yield from bench.apply(segment, subject.scan)
        found = {
            TASK: np.asarray(result_of(outcome), np.uint8),
            NETWORK: segmenter(bench.contract.intensity.store(subject.scan.image)),
            NEAREST: nearest[subject.number],
            BOUND: _known(autoencoded_truth(bench, subject)[1]),
        }
        values += _values(bench, subject, found)
        values += _of_spread(subject, found[TASK], spread_of(outcome))
        if subject.number == 0:
            truth = Panel("label map", _known(subject.labels), "labels")
            panels = [Panel(name, found[name], "labels") for name in (TASK, NETWORK)]
            bench.keep_picture(TASK, Panel("scan", subject.scan.image, "intensity"), truth, *panels)
        yield Progress("measure segment", subject.number + 1, len(bench.subjects))
    return values


def _known(labels: LabelArray | None) -> LabelArray:
    assert labels is not None, "segmentation is measured where there are label maps"
    return labels


def _values(bench: Bench, subject: Subject, found: Mapping[str, LabelArray]) -> Iterable[Value]:
    groups = list(bench.contract.labels)
    for method, labels in found.items():
        scores = dice_scores(labels, _known(subject.labels), len(groups))
        yield Value("", Measure(name=DICE), method, subject.number, (float(np.nanmean(scores)),))
        for group, score in zip(groups, scores.tolist(), strict=True):
            if np.isfinite(score):
                yield Value("", Measure(name=f"Dice of {group}"), method, subject.number, (score,))


def _of_spread(subject: Subject, found: LabelArray, spread: FloatArray | None) -> Iterable[Value]:
    if spread is None:
        return
    wrong = (found != _known(subject.labels))[subject.body]
    rows = np.stack([spread[subject.body], wrong], axis=1).astype(np.float64)
    yield Value("", FINDS_ERRORS, TASK, subject.number, (STATISTICS["auroc"](rows),))


def _nearest_labels(bench: Bench) -> list[LabelArray]:
    """Of each scan the label map of the training scan with the smallest squared difference."""
    volumes = bench.dataset.volumes("train")
    best = [(np.inf, 0)] * len(bench.subjects)
    for row, image in enumerate(bench.train_images()):
        for number, subject in enumerate(bench.subjects):
            away = float(np.square(image - subject.scan.image).sum())
            best[number] = min(best[number], (away, row))
    return [_known(volumes.label(row)) for _, row in best]


MEASUREMENT = Measurement(
    task=TASK,
    run=measure,
    baselines=(NETWORK, NEAREST),
    bounds=(BOUND,),
    goals=(Goal(text="mean Dice within 0.05 of the U-Net", setting="", measure=DICE, least=-0.05, over=NETWORK),),
    needs_labels=True,
)
