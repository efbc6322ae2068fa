"""Everything that a measurement of a task stands on: models, scans of each side, and baselines fitted on train.

What is fitted is kept with the calibration of the models, and in memory for the run. The scans that are measured on
are in no fit, no choice of a setting, and no training.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.calibration import Calibration, Tensors
from meddiff_core.applications.measured.linear import LinearModel, fit_linear
from meddiff_core.applications.measured.networks import Filler, filler_of, segmenter_of
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import GridScan, Mask
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.contract import Condition, Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.split.sides import Side
from meddiff_core.data.store import digest_volume
from meddiff_core.evidence.features.contrastive import ContrastiveFeatures, fit_contrastive
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.utility.segmentation import Segmenter
from meddiff_core.models.images import to_images
from meddiff_core.models.inference.packed import one_thread
from meddiff_core.types import FloatArray, LabelArray, Latents, Message, StoredArray, Volumes, Work

AIR = 0.02
"""Intensity up to which a voxel is none of the body."""
MOST_SCANS = 24
"""Of the holdout; more would be hours."""


Task = Callable[[Models, GridScan, TaskSettings, Calibration], Work[Outcome]]


@dataclass(frozen=True)
class Subject:
    """One scan that is measured on."""

    number: int
    """From 0."""
    row: int
    """Among the volumes of its side."""
    scan: GridScan
    """The image alone, as a task may see it."""
    labels: LabelArray | None
    condition: Condition
    body: Mask


@dataclass(frozen=True)
class InMemory:
    """Stored images as a `Volumes` set."""

    images: Sequence[StoredArray]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> StoredArray:
        return self.images[index]

    def label(self, index: int) -> LabelArray | None:
        return None


@dataclass(frozen=True)
class Panel:
    """A volume of a picture."""

    title: str
    volume: NDArray[Any]
    kind: str
    """As of an outcome's map."""


@dataclass(frozen=True)
class Bench:
    """What the measurements share."""

    calibration: Calibration
    dataset: Dataset
    subjects: Sequence[Subject]
    """One scan of each subject that is measured."""
    validation: Sequence[Subject]
    """A few, for free numbers of baselines."""
    samples: int
    seed: int
    side: Side = "holdout"
    fitted: dict[str, Any] = field(default_factory=dict)
    """What was fitted in this run, by name."""
    pictures: dict[str, list[list[Panel]]] = field(default_factory=dict)
    """By task, rows of panels of the first scan. They show a patient."""

    @property
    def models(self) -> Models:
        """The networks that are measured."""
        return self.calibration.models

    @property
    def contract(self) -> Contract:
        """Of the models."""
        return self.models.contract

    def settings(self, **changes: Any) -> TaskSettings:
        """Of a task: its own, but for the samples."""
        return TaskSettings(samples=self.samples, seed=self.seed, **changes)

    def train_images(self) -> Iterator[FloatArray]:
        """Intensities 0 to 1 of the train side, one after the other."""
        volumes = self.dataset.volumes("train")
        return (self.contract.intensity.unit(volumes.image(row)) for row in range(len(volumes)))

    def segmenter(self) -> Work[Segmenter]:
        """The audit's network, trained on the same pairs; only where there are label maps."""
        if "segmenter" not in self.fitted:
            pairs = self.dataset.volumes("train")
            self.fitted["segmenter"] = yield from segmenter_of(self.calibration, pairs, self.seed)
        found: Segmenter = self.fitted["segmenter"]
        return found

    def filler(self) -> Work[Filler]:
        """A network that was trained to fill holes."""
        if "filler" not in self.fitted:
            images = list(self.train_images())
            bodies = [body_of(image) for image in images]
            self.fitted["filler"] = yield from filler_of(self.calibration, images, bodies, self.seed)
        found: Filler = self.fitted["filler"]
        return found

    def population(self) -> Work[LinearModel]:
        """Voxelwise lines on the conditions."""
        return (yield from self._linear("population", self.train_images))

    def latent_population(self) -> Work[LinearModel]:
        """The same of latents, of scans with their own label maps."""
        return (yield from self._linear("latent-population", self._train_latents))

    def _linear(self, name: str, arrays: Callable[[], Iterable[FloatArray]]) -> Work[LinearModel]:
        specs = self.contract.conditions

        def fit(models: Models, _: list[GridScan]) -> Work[Tensors]:
            yield Message(f"fit the {name} of the train side")
            return fit_linear(arrays(), self.dataset.conditions("train"), specs).tensors()

        if name not in self.fitted:
            tensors = yield from self.calibration.kept(f"measured-{name}", fit)
            self.fitted[name] = LinearModel.of_tensors(specs, dict(tensors))
        found: LinearModel = self.fitted[name]
        return found

    def _train_latents(self) -> Iterator[FloatArray]:
        volumes = self.dataset.volumes("train")
        for row in range(len(volumes)):
            image = self.contract.intensity.unit(volumes.image(row))
            yield self.latents(image, volumes.label(row))[0].numpy()

    def identities(self) -> Work[ContrastiveFeatures]:
        """The copy detector of the audit, which tells whose a scan is."""
        if "identities" not in self.fitted:
            volumes = self.dataset.volumes("train")
            self.fitted["identities"] = yield from fit_contrastive(volumes, self.contract, self.seed)
        found: ContrastiveFeatures = self.fitted["identities"]
        return found

    def latents(self, image: FloatArray, labels: LabelArray | None) -> Latents:
        """Standardised latents (1, z, u, v, w) of an image and, where the study has them, its label map."""
        stored = self.contract.intensity.store(image)[None]
        with one_thread():
            return self.models.encode(to_images(stored, None if labels is None else labels[None], self.contract))

    @torch.no_grad()
    def decoded(self, latents: Latents) -> tuple[FloatArray, LabelArray | None]:
        """Image and most likely labels of latents (1, z, u, v, w)."""
        with one_thread():
            found = self.models.decode(latents)
        labels = found.labels[0].argmax(0).to(torch.uint8).numpy() if found.labels.shape[1] else None
        return found.image[0].clamp(0, 1).numpy(), labels

    def changed_by_latents(self, image: FloatArray, before: Latents, after: FloatArray) -> FloatArray:
        """An image with the difference that other latents (z, u, v, w) make; the rest keeps its own texture."""
        changed = self.decoded(torch.from_numpy(after)[None])[0] - self.decoded(before)[0]
        return np.asarray(np.clip(image + changed, 0, 1), dtype=np.float32)

    def guessed_labels(self, image: FloatArray) -> Work[LabelArray | None]:
        """What the segmenter sees in an image whose label map nobody gives."""
        if not self.contract.labels:
            return None
        segmenter = yield from self.segmenter()
        return segmenter(self.contract.intensity.store(image))

    def autoencoded(self, image: FloatArray) -> Work[FloatArray]:
        """What the autoencoder makes of an image and the segmenter's labels of it."""
        labels = yield from self.guessed_labels(image)
        return self.decoded(self.latents(image, labels))[0]

    def apply(self, task: Task, scan: GridScan, **changes: Any) -> Work[Outcome]:
        """The result of a task; of its own progress nothing but messages, or it would drown the measurement's."""
        work = task(self.models, scan, self.settings(**changes), self.calibration)
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                found: Outcome = end.value
                return found
            if isinstance(event, Message):
                yield event

    def bootstrap(self) -> Bootstrap:
        """Of every interval."""
        return Bootstrap(400, 0.95, self.seed)

    def keep_picture(self, task: str, *panels: Panel) -> None:
        """A row of a task's picture."""
        self.pictures.setdefault(task, []).append(list(panels))


def scan_of(image: FloatArray, **more: Any) -> GridScan:
    """An image as a task sees it; seeds come of its voxels."""
    stored = np.ascontiguousarray(image, dtype=np.float32)
    return GridScan(stored, np.ones(stored.shape, bool), digest_volume(stored), **more)


def body_of(image: FloatArray) -> Mask:
    """Voxels of the body without holes: the largest piece above air."""
    pieces, count = ndimage.label(image > AIR)
    if count == 0:
        return np.zeros(image.shape, bool)
    largest = int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    return np.asarray(ndimage.binary_fill_holes(pieces == largest))


def subjects_of(dataset: Dataset, side: Side, most: int) -> list[Subject]:
    """The first scan of each of some subjects of a side, evenly through it."""
    volumes, conditions = dataset.volumes(side), dataset.conditions(side)
    first = {subject: row for row, subject in reversed(list(enumerate(dataset.subjects(side))))}
    rows = sorted(first.values())
    chosen = sorted({rows[int(place)] for place in np.linspace(0, len(rows) - 1, min(most, len(rows))).round()})
    return [_subject(number, volumes, row, conditions[row], dataset.contract) for number, row in enumerate(chosen)]


def _subject(number: int, volumes: Volumes, row: int, condition: Condition, contract: Contract) -> Subject:
    image = contract.intensity.unit(volumes.image(row))
    known: Condition = {name: value for name, value in condition.items() if value is not None}
    return Subject(number, row, scan_of(image), volumes.label(row), known, body_of(image))
