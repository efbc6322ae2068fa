"""Which weights of a training are kept: those whose samples are best, from before it began to copy.

A diffusion model's loss says little of its samples, and goes on falling while a small training set is
learned by heart. So samples are judged as the training goes, against real volumes of both sides. All that
is decided follows from the curve of judgements alone, so a resumed training decides what a whole one does.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import FiniteFloat

from meddiff_core.contract import Frozen
from meddiff_core.models.checkpoint import Tensors, load_checkpoint, prefixed, unprefixed
from meddiff_core.types import Latents

MARGIN = 0.05
"""How far `nearer_train_low` must lie above 0.5: less is of no consequence, even where it is certain."""


class Judgement(Frozen):
    """What samples say of the weights that drew them."""

    validation_distance: FiniteFloat
    """Kernel distance to validation volumes: 0 in the mean for a perfect model, and then negative as often."""
    train_distance: FiniteFloat
    """The same to training volumes. Far below the other one is a sign of copies, not of quality."""
    nearer_train: FiniteFloat
    """How much more a training volume attracts samples than a validation volume: 0.5 is alike, 1 is only it."""
    nearer_train_low: FiniteFloat
    """Lower bound of it."""


@runtime_checkable
class Judge(Protocol):
    """Compares samples with real volumes."""

    def __call__(self, samples: Latents) -> Judgement:
        """`samples` are standardised latents, drawn from the same noise each time."""


class Point(Judgement):
    """A judgement's place on the curve."""

    step: int
    """Steps done."""
    average: str
    """Which of the averages of weights."""

    @property
    def copies(self) -> bool:
        """Whether training volumes attract these samples more than validation volumes do, beyond chance."""
        return self.nearer_train_low > 0.5 + MARGIN


class ChoiceRecord(Frozen):
    """What a checkpoint says of how it was chosen, as `choice` among its facts."""

    step: int
    average: str
    curve: tuple[Point, ...]


class Chosen(NamedTuple):
    """The weights that are kept, and where on the curve they are from."""

    step: int
    average: str
    weights: Tensors


class Choice:
    """Keeps the curve, and the weights of its best point."""

    def __init__(self, steps: int, patience: int) -> None:
        """`patience` is the number of validations without a better one after which there is no use in going on."""
        self.warm_up, self.patience = steps // 20, patience
        self._points: list[Point] = []
        self._weights: Tensors = {}

    def consider(self, step: int, average: str, judgement: Judgement, weights: Tensors) -> None:
        """Take in the judgement of an average after `step` steps; weights are copied if they are the best so far."""
        self._points.append(Point(step=step, average=average, **judgement.model_dump()))
        if best_of(self._points) is self._points[-1]:
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Every judgement, in the order in which they were made."""
        return [point.model_dump() for point in self._points]

    @property
    def chosen(self) -> Chosen:
        """The best weights so far. Ask only after something was considered."""
        best = best_of(self._points)
        return Chosen(best.step, best.average, self._weights)

    @property
    def finished(self) -> bool:
        """Whether it began to copy, or has not become better for `patience` validations after the warm-up."""
        if departure(self._points) is not None:
            return True
        since = best_of(self._points).step if self._points else 0
        later = {point.step for point in self._points if point.step > max(since, self.warm_up)}
        return len(later) >= self.patience

    def record(self) -> ChoiceRecord:
        """For the facts of the checkpoint."""
        step, average, _ = self.chosen
        return ChoiceRecord(step=step, average=average, curve=tuple(self._points))

    def state(self) -> Tensors:
        """Curve and weights, from which `restore` goes on."""
        averages = list(dict.fromkeys(point.average for point in self._points))
        figures = [[getattr(point, name) for name in Judgement.model_fields] for point in self._points]
        places = [[point.step, averages.index(point.average)] for point in self._points]
        return {
            "figures": torch.tensor(figures, dtype=torch.float64).reshape(-1, len(Judgement.model_fields)),
            "places": torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
            **prefixed("average", {name: torch.tensor(position) for position, name in enumerate(averages)}),
            **prefixed("weights", self._weights),
        }

    def restore(self, state: Tensors) -> None:
        """Put back what `state` gave."""
        averages = {int(position): name for name, position in unprefixed("average", state).items()}
        rows = zip(state["places"].tolist(), state["figures"].tolist(), strict=True)
        self._points = [
            Point(step=step, average=averages[position], **dict(zip(Judgement.model_fields, figures, strict=True)))
            for (step, position), figures in rows
        ]
        self._weights = unprefixed("weights", state)


def best_of(points: Sequence[Point]) -> Point:
    """The smallest distance to validation among those that do not copy, the earliest of equals.

    If all of them copy, the first: it has seen the least of the training set.
    """
    sound = [point for point in points if not point.copies]
    return min(sound, key=lambda point: point.validation_distance) if sound else points[0]


def departure(points: Sequence[Point]) -> int | None:
    """The step since which all averages copy, seen at two validations in a row; None while that has not come."""
    validations = [(step, all(point.copies for point in at)) for step, at in groupby(points, lambda p: p.step)]
    return next((step for (step, copies), (_, again) in pairwise(validations) if copies and again), None)


def read_choice(folder: Path) -> ChoiceRecord | None:
    """From a denoiser's checkpoint; None where nothing was judged, as in an imported model."""
    _, facts = load_checkpoint(folder)
    return ChoiceRecord.model_validate(facts["choice"]) if "choice" in facts else None


def describe_choice(record: ChoiceRecord) -> str:
    """One sentence for a methods section."""
    kept = f"The weights of the denoiser after {record.step} steps were kept"
    judged = f"of {len(record.curve)} that were judged by a few samples each"
    if all(point.copies for point in record.curve):
        return f"{kept}, the first {judged}: the samples of all lay nearer to training volumes than chance allows."
    nearest = f"{kept}: {judged}, these came nearest to the validation volumes"
    since = departure(record.curve)
    return f"{nearest}." if since is None else f"{nearest} before samples moved to training volumes at step {since}."
