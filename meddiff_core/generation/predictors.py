"""What a volume's latents tell of conditions that no label map shows: age, sex.

A ridge regression on the coarse layout of the latents, fitted on training volumes (Hoerl & Kennard 1970), with which
volumes of one condition are compared. How far it can be trusted is measured on validation volumes and kept with it:
what it cannot tell there chooses none. It predicts from the latents that the denoiser made, so that, as for label maps,
others must judge whether the image followed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, Frozen
from meddiff_core.models.checkpoint import load_checkpoint, save_checkpoint
from meddiff_core.types import Latents

CELLS = 4
"""Cells along each axis whose means are the features."""
PENALTIES = np.geomspace(1e-1, 1e5, 25)
"""Of the ridge, in units of a feature's variance over the training volumes; chosen by leaving one out."""
RELIABLE = 0.5
"""Correlation on validation volumes below which a condition chooses no volume."""
FEWEST = 8
"""Volumes of each side with a known value, below which nothing is said."""

Matrix = NDArray[np.float64]


class Target(Frozen):
    """A number that is predicted, and how well: of a condition, or whether it has one of its categories."""

    condition: str
    category: str | None = None
    std: float
    """Standard deviation over the training volumes."""
    r: float
    """Correlation of predicted and known, over validation volumes."""
    slope: float
    """Of predicted on known values there; a ridge shrinks towards the mean."""
    intercept: float

    @property
    def weight(self) -> float:
        """Of its squared difference: the share of variance that it tells, or 0 where that is too little."""
        return self.r**2 if self.r >= RELIABLE and self.slope > 0 else 0.0

    def squared(self, predicted: float, value: float) -> float:
        """Weighted squared difference of what was predicted and what is predicted of volumes that have a value, in
        standard deviations."""
        away = (predicted - self.intercept) / self.slope - value
        return self.weight * (away / self.std) ** 2

    def known(self, condition: Condition) -> float | None:
        """The number that it should be under a condition."""
        value = condition.get(self.condition)
        if value is None or self.category is None:
            return None if value is None else float(value)
        return float(value == self.category)


@dataclass(frozen=True)
class Predictors:
    """Ridge regressions with common features."""

    targets: tuple[Target, ...]
    weights: Matrix
    """(features + 1, targets); the last row is the intercept."""

    @property
    def conditions(self) -> list[str]:
        """Names of those that count."""
        return list(dict.fromkeys(target.condition for target in self.targets if target.weight))

    def useful(self, condition: Condition) -> bool:
        """Whether something of a condition can be told."""
        return bool(list(self._asked(condition)))

    def distance(self, latents: Latents, condition: Condition) -> float:
        """Weighted squared differences of one volume's latents (1, z, u, v, w) and a condition, in standard deviations
        of the training volumes.
        """
        asked = list(self._asked(condition))
        if not asked:
            return 0.0
        predicted = (_with_one(latent_features(latents)) @ self.weights)[0].tolist()
        return sum(target.squared(predicted[column], value) for column, target, value in asked)

    def _asked(self, condition: Condition) -> Iterator[tuple[int, Target, float]]:
        """Column, target and number of each that counts; of a category the one that was asked for."""
        for column, target in enumerate(self.targets):
            value = target.known(condition)
            if target.weight and value is not None and (target.category is None or value == 1):
                yield column, target, value


NONE = Predictors((), np.zeros((1, 0)))
"""Of no condition."""


def latent_features(latents: Latents) -> Matrix:
    """(n, d) means over a coarse grid, each volume by itself."""
    i, j, k = (min(CELLS, side) for side in latents.shape[2:])
    each = [functional.adaptive_avg_pool3d(one.double(), (i, j, k)).flatten(1) for one in latents.cpu().split(1)]
    return np.asarray(torch.cat(each).numpy())


def fit_predictors(
    specs: Sequence[ConditionSpec],
    train: tuple[Matrix, Sequence[Condition]],
    validation: tuple[Matrix, Sequence[Condition]],
) -> Predictors:
    """Regressions of every condition that is no structure's volume, from features and conditions of both sides."""
    found: list[tuple[Target, Matrix]] = []
    for name, category in _names(specs):
        blank = Target(condition=name, category=category, std=1.0, r=0.0, slope=0.0, intercept=0.0)
        (x, y), (other_x, other_y) = (_known(blank, *side) for side in (train, validation))
        if min(len(y), len(other_y)) < FEWEST or not y.std() or not other_y.std():
            continue
        weights = _ridge(x, y)
        predicted = _with_one(other_x) @ weights
        slope = float(np.cov(predicted, other_y, bias=True)[0, 1] / other_y.var())
        told = {"std": float(y.std()), "slope": slope, "intercept": float(predicted.mean() - slope * other_y.mean())}
        r = slope * other_y.std() / max(float(predicted.std()), 1e-12)
        found.append((blank.model_copy(update=told | {"r": float(r)}), weights))
    columns = [weights for _, weights in found]
    return Predictors(tuple(target for target, _ in found), np.stack(columns, 1) if columns else np.zeros((1, 0)))


def _names(specs: Sequence[ConditionSpec]) -> Iterator[tuple[str, str | None]]:
    for spec in specs:
        if isinstance(spec, CategoricalCondition):
            yield from ((spec.name, category) for category in spec.categories)
        elif spec.group is None:
            yield spec.name, None


def _known(target: Target, features: Matrix, conditions: Sequence[Condition]) -> tuple[Matrix, Matrix]:
    values = [target.known(condition) for condition in conditions]
    rows = [row for row, value in enumerate(values) if value is not None]
    return features[rows], np.array([values[row] for row in rows], np.float64)


def _ridge(x: Matrix, y: Matrix) -> Matrix:
    """(features + 1,) weights, with the penalty whose predictions of each left-out row are best."""
    centre, spread = x.mean(0), np.maximum(x.std(0), 1e-12)
    u, s, vt = np.linalg.svd((x - centre) / spread, full_matrices=False)
    centred, along = y - y.mean(), u.T @ (y - y.mean())

    def left_out(penalty: float) -> float:
        shrunk = s**2 / (s**2 + penalty)
        leverage = (u**2 * shrunk).sum(1) + 1 / len(y)
        return float(np.square((centred - u @ (shrunk * along)) / np.maximum(1 - leverage, 1e-9)).mean())

    best = min(PENALTIES * len(y) / max(1, len(s)), key=left_out)
    weights = vt.T @ (s / (s**2 + best) * along) / spread
    return np.append(weights, y.mean() - centre @ weights)


def _with_one(features: Matrix) -> Matrix:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def save_predictors(folder: Path, predictors: Predictors) -> None:
    """As a checkpoint."""
    facts: dict[str, Any] = {"targets": [target.model_dump(mode="json") for target in predictors.targets]}
    save_checkpoint(folder, {"weights": torch.from_numpy(predictors.weights)}, facts)


def load_predictors(folder: Path) -> Predictors:
    """What `save_predictors` wrote; of no condition where there is no such folder."""
    if not folder.exists():
        return NONE
    tensors, facts = load_checkpoint(folder)
    return Predictors(tuple(map(Target.model_validate, facts["targets"])), np.asarray(tensors["weights"].numpy()))


def reliability(predictors: Predictors) -> Mapping[str, float]:
    """Correlation on validation volumes, by the name of the condition and, if any, the category."""
    return {f"{one.condition} {one.category or ''}".strip(): one.r for one in predictors.targets}
