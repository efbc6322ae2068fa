"""Checkpoint selection: the weights with the best samples, from before the training began to memorise.

A diffusion model's loss says little of its samples, and goes on falling while a small training set is memorised.
So samples are scored as the training goes, against real volumes of both sides, and the weights are asked whether
they know their training subjects, as the audit will ask. Every decision follows from the curve of these scores
alone, so a resumed training decides what an uninterrupted one does.
"""

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import FiniteFloat

from meddiff_core.contract import Frozen
from meddiff_core.models.checkpoint import Tensors, load_checkpoint, prefixed, unprefixed
from meddiff_core.models.conditions import ConditionVectors
from meddiff_core.types import Latents, Sigma

MARGIN = 0.05
"""How far `nearer_train_low` must lie above 0.5: less is of no consequence, even where it is certain."""


MEMBERSHIP_LIMIT = 0.75
"""Upper bound of the area of a membership attack beyond which weights are not selected: what an audit allows that asks
about weights (`evidence/presets.py`)."""


class MembershipScore(Frozen):
    """How well an attack on some weights tells training subjects from others."""

    auc: FiniteFloat
    """Area under its ROC curve: 0.5 is chance."""
    low: FiniteFloat
    """Lower confidence bound."""
    high: FiniteFloat
    """Upper confidence bound."""

    @property
    def betrays(self) -> bool:
        """Whether it is beyond chance and may be beyond what an audit allows. With few subjects the upper bound is
        high whatever the weights are, which says nothing.
        """
        return self.low > 0.5 and self.high > MEMBERSHIP_LIMIT


UNKNOWN = MembershipScore(auc=0.5, low=0.0, high=1.0)
"""Membership where it was not measured."""
Denoise = Callable[[Latents, Sigma, ConditionVectors], Latents]
"""As `Denoiser` does it: standardised latents with noise of standard deviation sigma to their expectation without."""


@runtime_checkable
class MembershipAttack(Protocol):
    """Asks weights about training and validation subjects."""

    def __call__(self, denoise: Denoise, early: Denoise, device: str) -> MembershipScore:
        """`early` are the weights from early in the same training, which show how difficult each volume is."""


class SampleScore(Frozen):
    """How samples of some weights compare with real volumes."""

    validation_distance: FiniteFloat
    """Kernel distance to validation volumes: 0 in the mean for a perfect model, and then negative as often."""
    train_distance: FiniteFloat
    """Kernel distance to training volumes. Far below the other one it is a sign of memorisation, not of quality."""
    nearer_train: FiniteFloat
    """How much more a training volume attracts samples than a validation volume: 0.5 is alike, 1 is only it."""
    nearer_train_low: FiniteFloat
    """Lower confidence bound of `nearer_train`."""


@runtime_checkable
class SampleScorer(Protocol):
    """Compares samples with real volumes."""

    def __call__(self, samples: Latents) -> SampleScore:
        """`samples` are standardised latents, generated from the same noise each time."""


class ScoredCheckpoint(SampleScore):
    """One point of the curve: the score of one average of weights after some steps."""

    step: int
    """Steps done."""
    average: str
    """Name of the average of weights."""
    membership: MembershipScore = UNKNOWN
    """What the weights betray."""

    @property
    def memorises(self) -> bool:
        """Whether training volumes attract these samples more than validation volumes do, or the weights betray the
        training subjects, beyond chance.
        """
        return self.nearer_train_low > 0.5 + MARGIN or self.membership.betrays


class SelectionRecord(Frozen):
    """How a checkpoint was selected, as `choice` among its facts."""

    step: int
    average: str
    curve: tuple[ScoredCheckpoint, ...]


class SelectedWeights(NamedTuple):
    """The weights that are kept, and the point of the curve that they are from."""

    step: int
    average: str
    weights: Tensors


class CheckpointSelection:
    """Keeps the curve of scores, and the weights of its best point."""

    def __init__(self, steps: int, patience: int) -> None:
        """`patience` is the number of validations without a better one after which the training ends."""
        self.warm_up, self.patience = steps // 20, patience
        self._points: list[ScoredCheckpoint] = []
        self._weights: Tensors = {}

    def consider(
        self, step: int, average: str, score: SampleScore, weights: Tensors, membership: MembershipScore = UNKNOWN
    ) -> None:
        """Add the score of an average after `step` steps; its weights are copied if they are the best so far."""
        point = ScoredCheckpoint(step=step, average=average, membership=membership, **score.model_dump())
        self._points.append(point)
        if best_of(self._points) is self._points[-1]:
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Every score, in the order in which they were made."""
        return [point.model_dump() for point in self._points]

    @property
    def chosen(self) -> SelectedWeights:
        """The best weights so far. Ask only after something was considered."""
        best = best_of(self._points)
        return SelectedWeights(best.step, best.average, self._weights)

    @property
    def finished(self) -> bool:
        """Whether memorisation has set in, or nothing was better for `patience` validations after the warm-up."""
        if memorisation_onset(self._points) is not None:
            return True
        since = best_of(self._points).step if self._points else 0
        later = {point.step for point in self._points if point.step > max(since, self.warm_up)}
        return len(later) >= self.patience

    def record(self) -> SelectionRecord:
        """The selection as the facts of a checkpoint hold it."""
        step, average, _ = self.chosen
        return SelectionRecord(step=step, average=average, curve=tuple(self._points))

    def state(self) -> Tensors:
        """Curve and weights, from which `restore` goes on."""
        averages = list(dict.fromkeys(point.average for point in self._points))
        figures = [_figures(point) for point in self._points]
        places = [[point.step, averages.index(point.average)] for point in self._points]
        return {
            "figures": torch.tensor(figures, dtype=torch.float64).reshape(-1, len(SCORES) + len(BOUNDS)),
            "places": torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
            **prefixed("average", {name: torch.tensor(position) for position, name in enumerate(averages)}),
            **prefixed("weights", self._weights),
        }

    def restore(self, state: Tensors) -> None:
        """Put back what `state` gave."""
        averages = {int(position): name for name, position in unprefixed("average", state).items()}
        rows = zip(state["places"].tolist(), state["figures"].tolist(), strict=True)
        self._points = [
            ScoredCheckpoint(
                step=step,
                average=averages[position],
                membership=MembershipScore(**dict(zip(BOUNDS, figures[len(SCORES) :], strict=True))),
                **dict(zip(SCORES, figures[: len(SCORES)], strict=True)),
            )
            for (step, position), figures in rows
        ]
        self._weights = unprefixed("weights", state)


SCORES, BOUNDS = tuple(SampleScore.model_fields), tuple(MembershipScore.model_fields)
"""Figures of a point of the curve, in the order in which a resume point keeps them."""


def _figures(point: ScoredCheckpoint) -> list[float]:
    return [*(getattr(point, name) for name in SCORES), *(getattr(point.membership, name) for name in BOUNDS)]


def best_of(points: Sequence[ScoredCheckpoint]) -> ScoredCheckpoint:
    """The smallest distance to validation among those that do not memorise, the earliest of equals.

    If all of them memorise, the first: it has seen the least of the training set.
    """
    sound = [point for point in points if not point.memorises]
    return min(sound, key=lambda point: point.validation_distance) if sound else points[0]


def memorisation_onset(points: Sequence[ScoredCheckpoint]) -> int | None:
    """The first step from which all averages memorise, at two validations in a row; None if there is none."""
    validations = [(step, all(point.memorises for point in at)) for step, at in groupby(points, lambda p: p.step)]
    return next((step for (step, memorised), (_, again) in pairwise(validations) if memorised and again), None)


def read_selection(folder: Path) -> SelectionRecord | None:
    """The selection of a denoiser's checkpoint; None where no samples were scored, as in an imported model."""
    _, facts = load_checkpoint(folder)
    return SelectionRecord.model_validate(facts["choice"]) if "choice" in facts else None


def describe_selection(record: SelectionRecord) -> str:
    """One sentence for a methods section."""
    kept = f"The weights of the denoiser after {record.step} steps were kept"
    scored = f"of {len(record.curve)} checkpoints that were scored by a few samples each"
    if all(point.memorises for point in record.curve):
        return f"{kept}, the first {scored}: all showed more of the training volumes than chance allows."
    nearest = f"{kept}: {scored}, its samples came nearest to the validation volumes"
    onset = memorisation_onset(record.curve)
    return f"{nearest}." if onset is None else f"{nearest} before memorisation set in at step {onset}."
