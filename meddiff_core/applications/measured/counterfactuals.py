"""Counterfactuals: structures of holdout scans asked to be larger and smaller, and measured by another network.

The task's own label map would follow a request that the image does not. So what changed is read off the image by the
audit's segmenter, which never saw the models.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from meddiff_core.applications.measured.bench import Bench, InMemory, Panel, Subject, scan_of
from meddiff_core.applications.measured.figures import psnr
from meddiff_core.applications.measured.measurement import Measurement, autoencoded_truth, result_of
from meddiff_core.applications.measured.table import Goal, Measure, Value
from meddiff_core.applications.scans import Mask
from meddiff_core.applications.tasks.counterfactual import counterfactual
from meddiff_core.contract import Condition, ContinuousCondition
from meddiff_core.evidence.features.contrastive import ContrastiveFeatures
from meddiff_core.evidence.utility.segmentation import Segmenter
from meddiff_core.generation.best_of import structure_volumes
from meddiff_core.types import FloatArray, LabelArray, Progress, Work

TASK, VOXELS, LATENTS = "counterfactual", "voxelwise linear model", "latent linear model"
BOUND = "autoencoder"
FACTORS = (0.6, 1.6)
"""Of the subject's own volume, within the range that training saw."""
AROUND = 2
"""Voxels around a structure that may change with it."""
R = Measure(name="asked against measured change (r)", statistic="r")
SLOPE = Measure(name="slope", better=None, statistic="slope")
NULL = Measure(name="its own value asked: PSNR (dB)", better=None)
BACK = Measure(name="there and back: PSNR (dB)")
OUTSIDE = Measure(name="mean change outside the structure", better="lower")
IDENTITY = Measure(name="recognised among the holdout (share)")


@dataclass(frozen=True)
class _Asked:
    """A change of a subject's structure."""

    spec: ContinuousCondition
    subject: Subject
    value: float
    own: float

    @property
    def condition(self) -> Condition:
        """What is asked for."""
        return {self.spec.name: self.value}


def measure(bench: Bench) -> Work[list[Value]]:
    """Of every condition that is the volume of a structure."""
    segmenter, identities = (yield from bench.segmenter()), (yield from bench.identities())
    whose = _Recogniser(bench, identities)
    values: list[Value] = []
    for subject in bench.subjects:
        for spec in volume_conditions(bench):
            for asked in _asked_of(bench, subject, spec):
                made = yield from _results(bench, asked)
                values += _values(bench, asked, made, segmenter, whose)
                if asked.value > asked.own:
                    values += yield from _own_asked(bench, asked)
                    values += yield from _back(bench, asked, made)
                    _keep_picture(bench, asked, made)
        yield Progress("measure counterfactual", subject.number + 1, len(bench.subjects))
    return values


def volume_conditions(bench: Bench) -> list[ContinuousCondition]:
    """Conditions that are the volume of a structure."""
    specs = [spec for spec in bench.contract.conditions if isinstance(spec, ContinuousCondition)]
    return [spec for spec in specs if spec.group in bench.contract.labels]


def _asked_of(bench: Bench, subject: Subject, spec: ContinuousCondition) -> Iterable[_Asked]:
    own = subject.condition.get(spec.name)
    if isinstance(own, int | float):
        for factor in FACTORS:
            yield _Asked(spec, subject, float(np.clip(factor * own, spec.low, spec.high)), float(own))


def _applied(bench: Bench, image: FloatArray, known: Condition, asked: Condition) -> Work[FloatArray]:
    scan = replace(scan_of(image), condition=known)
    outcome = yield from bench.apply(counterfactual, scan, asked=asked, extrapolate=True)
    return np.asarray(np.clip(result_of(outcome), 0, 1), dtype=np.float32)


def _own_asked(bench: Bench, asked: _Asked) -> Work[list[Value]]:
    """What changes although nothing should."""
    subject = asked.subject
    own: Condition = {asked.spec.name: asked.own}
    same = yield from _applied(bench, subject.scan.image, subject.condition, own)
    images = {TASK: same, BOUND: autoencoded_truth(bench, subject)[0]}
    return [
        Value(asked.spec.name, NULL, name, subject.number, (psnr(image, subject.scan.image, subject.body),))
        for name, image in images.items()
    ]


def _results(bench: Bench, asked: _Asked) -> Work[Mapping[str, FloatArray]]:
    image, known = asked.subject.scan.image, asked.subject.condition
    made = yield from _applied(bench, image, known, asked.condition)
    voxels, latents = (yield from bench.population()), (yield from bench.latent_population())
    labels = yield from bench.guessed_labels(image)
    before = bench.latents(image, labels)
    after = latents.changed(before[0].numpy(), known, asked.condition)
    return {
        TASK: made,
        VOXELS: np.where(asked.subject.body, np.clip(voxels.changed(image, known, asked.condition), 0, 1), image),
        LATENTS: bench.changed_by_latents(image, before, after),
    }


def _values(
    bench: Bench, asked: _Asked, made: Mapping[str, FloatArray], segmenter: Segmenter, whose: "_Recogniser"
) -> Iterable[Value]:
    number, name, image = asked.subject.number, asked.spec.name, asked.subject.scan.image
    before = segmenter(bench.contract.intensity.store(image))
    for method, changed in made.items():
        after = segmenter(bench.contract.intensity.store(changed))
        step = _volume(bench, asked, after) - _volume(bench, asked, before)
        for measure in (R, SLOPE):
            yield Value(name, measure, method, number, (asked.value - asked.own, step))
        outside = ~_near(bench, asked, before, after) & asked.subject.body
        yield Value(name, OUTSIDE, method, number, (float(np.abs(changed - image)[outside].mean()),))
        yield Value(name, IDENTITY, method, number, (float(whose(changed) == asked.subject.row),))


def _volume(bench: Bench, asked: _Asked, labels: LabelArray) -> float:
    return structure_volumes(labels, bench.contract)[str(asked.spec.group)]


def _near(bench: Bench, asked: _Asked, before: LabelArray, after: LabelArray) -> Mask:
    value = 1 + list(bench.contract.labels).index(str(asked.spec.group))
    structure = (before == value) | (after == value)
    return np.asarray(ndimage.binary_dilation(structure, iterations=AROUND))


def _back(bench: Bench, asked: _Asked, made: Mapping[str, FloatArray]) -> Work[list[Value]]:
    """From the larger structure to the subject's own volume again."""
    known, image = {**asked.subject.condition, **asked.condition}, asked.subject.scan.image
    own: Condition = {asked.spec.name: asked.own}
    back = yield from _applied(bench, made[TASK], known, own)
    voxels = yield from bench.population()
    straight = np.clip(voxels.changed(made[VOXELS], known, own), 0, 1)
    quality = {TASK: back, VOXELS: straight}
    where, number = asked.subject.body, asked.subject.number
    return [
        Value(asked.spec.name, BACK, method, number, (psnr(found, image, where),)) for method, found in quality.items()
    ]


def _keep_picture(bench: Bench, asked: _Asked, made: Mapping[str, FloatArray]) -> None:
    if asked.subject.number == 0:
        image = asked.subject.scan.image
        panels = [Panel(f"{name}, {asked.value:.0f}", one, "intensity") for name, one in made.items()]
        change = Panel("its change", made[TASK] - image, "difference")
        first = Panel(f"{asked.spec.name} {asked.own:.0f}", image, "intensity")
        bench.keep_picture(TASK, first, panels[0], change, *panels[1:])


class _Recogniser:
    """An image to the row of the side whose own image is nearest, by the audit's copy detector."""

    def __init__(self, bench: Bench, features: ContrastiveFeatures) -> None:
        volumes = bench.dataset.volumes(bench.side)
        self._features, self._contract = features, bench.contract
        self._known = features(volumes, range(len(volumes)))

    def __call__(self, image: FloatArray) -> int:
        seen = self._features(InMemory((self._contract.intensity.store(image),)), [0])
        return int((self._known @ seen[0]).argmax())


def goals_of(bench: Bench) -> list[Goal]:
    """Of each condition that is a volume, and of what shall not change."""
    same = "own value asked: within 0.5 dB of the autoencoder"
    goals: list[Goal] = []
    for name in [spec.name for spec in volume_conditions(bench)]:
        goals.append(Goal(text=same, setting=name, measure=NULL.name, least=-0.5, over=BOUND))
        goals.append(Goal(text=f"r of {name} 0.8", setting=name, measure=R.name, least=0.8))
        goals.append(Goal(text=f"slope of {name} 0.7 to 1.2", setting=name, measure=SLOPE.name, least=0.7, most=1.2))
        goals.append(Goal(text="95% recognised", setting=name, measure=IDENTITY.name, least=0.95))
    return goals


MEASUREMENT = Measurement(
    task=TASK,
    run=measure,
    baselines=(VOXELS, LATENTS),
    bounds=(BOUND,),
    goals=goals_of,
    needs_volumes=True,
)
