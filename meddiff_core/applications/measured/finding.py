"""Anomalies: lesions that are planted into holdout scans, found voxel by voxel and scan by scan.

Brightness alone finds a bright lesion; a method that knows what a healthy brain looks like should also find one that is
only blurred or pushed aside. Every method is given the same scans.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from meddiff_core.applications.measured.bench import Bench, Panel, Subject, scan_of
from meddiff_core.applications.measured.figures import average_precision, dice_at_false_positives
from meddiff_core.applications.measured.measurement import Measurement, result_of
from meddiff_core.applications.measured.planted import Kind, Lesion, plant_lesion
from meddiff_core.applications.measured.table import Goal, Measure, Value
from meddiff_core.applications.tasks.anomaly import anomaly
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import FloatArray, Progress, Work

TASK, TEMPLATE = "anomaly", "template, z-score given age and sex"
RESIDUAL, THRESHOLD = "autoencoder residual", "intensity threshold"
CONTRASTS = (1.0, 2.0, 3.0)
TOP = 20
"""Voxels whose mean is the score of a scan: the smallest lesion has 14."""
AUPRC, DICE = Measure(name="AUPRC of voxels"), Measure(name="Dice at 5% false positives")
AUROC = Measure(name="AUROC of scans", statistic="auroc")


def measure(bench: Bench) -> Work[list[Value]]:
    """By voxel within each scan that has a lesion; by scan against the same scans without any."""
    values: list[Value] = []
    for subject in bench.subjects:
        healthy = yield from _maps(bench, subject, subject.scan.image)
        for setting, lesion in _planted(bench, subject):
            maps = yield from _maps(bench, subject, lesion.image)
            values += _values(setting, subject, lesion, maps, healthy)
            if subject.number == 0 and setting in (_contrast(2.0), "blurred"):
                _keep_picture(bench, setting, subject, lesion, maps)
        yield Progress("measure anomaly", subject.number + 1, len(bench.subjects))
    return values


def _contrast(contrast: float) -> str:
    return f"{contrast:g} std brighter or darker"


def _planted(bench: Bench, subject: Subject) -> Iterable[tuple[str, Lesion]]:
    """Brighter and darker by turns; the same place and size at every contrast."""
    seed = derive_seed(bench.seed, "lesion", subject.scan.digest)
    turned: Kind = "darker" if subject.number % 2 else "brighter"
    for contrast in CONTRASTS:
        yield _contrast(contrast), plant_lesion(subject.scan.image, subject.body, turned, contrast, seed)
    for kind in ("blurred", "warped"):
        yield kind, plant_lesion(subject.scan.image, subject.body, kind, 0.0, seed)


def _maps(bench: Bench, subject: Subject, image: FloatArray) -> Work[Mapping[str, FloatArray]]:
    """What each method makes of one scan: the larger, the less healthy."""
    outcome = yield from bench.apply(anomaly, scan_of(image))
    population = yield from bench.population()
    known = {name: value for name, value in subject.condition.items() if not _is_volume(bench, name)}
    encoded = yield from bench.autoencoded(image)
    inside = image[subject.body]
    return {
        TASK: np.abs(np.asarray(result_of(outcome), np.float32)),
        TEMPLATE: np.abs(population.away(image, known)),
        RESIDUAL: np.abs(image - encoded),
        THRESHOLD: np.abs(image - np.float32(np.median(inside))),
    }


def _is_volume(bench: Bench, name: str) -> bool:
    """What nobody knows before a scan is segmented."""
    return any(spec.name == name and getattr(spec, "group", None) is not None for spec in bench.contract.conditions)


def _values(
    setting: str,
    subject: Subject,
    lesion: Lesion,
    maps: Mapping[str, FloatArray],
    healthy: Mapping[str, FloatArray],
) -> Iterable[Value]:
    number, body = subject.number, subject.body
    for method, scores in maps.items():
        yield Value(setting, AUPRC, method, number, (average_precision(scores, lesion.mask, body),))
        yield Value(setting, DICE, method, number, (dice_at_false_positives(scores, lesion.mask, body),))
        yield Value(setting, AUROC, method, number, (_highest(healthy[method], subject), 0.0))
        yield Value(setting, AUROC, method, number, (_highest(scores, subject), 1.0))


def _highest(scores: FloatArray, subject: Subject) -> float:
    return float(np.sort(scores[subject.body])[-TOP:].mean())


def _keep_picture(bench: Bench, setting: str, subject: Subject, lesion: Lesion, maps: Mapping[str, FloatArray]) -> None:
    panels = [Panel(name, np.where(subject.body, scores, 0), "score") for name, scores in maps.items()]
    outline = Panel("where it is", lesion.mask.astype(np.uint8), "labels")
    bench.keep_picture(TASK, Panel(f"lesion, {setting}", lesion.image, "intensity"), outline, *panels)


MEASUREMENT = Measurement(
    task=TASK,
    run=measure,
    baselines=(TEMPLATE, RESIDUAL, THRESHOLD),
    goals=(
        Goal(text="AUPRC 0.3 at 2 standard deviations", setting=_contrast(2.0), measure=AUPRC.name, least=0.3),
        Goal(
            text="AUPRC above the template's at 2 standard deviations",
            setting=_contrast(2.0),
            measure=AUPRC.name,
            least=0.0,
            over=TEMPLATE,
        ),
    ),
)
