"""Voxelwise and latent linear models of the conditions: the plainest thing that knows age and sex.

One least-squares line per voxel (or latent number) on the conditions, over the train side. It gives the mean given age
and sex, what changes with a condition, and how far a healthy scan strays from that: a task that a table of regression
lines does as well is no use of a generative model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec
from meddiff_core.evidence.intervals import Matrix

RIDGE = 1e-3
"""Of the normal equations, as a share of the number of scans: conditions may hang together."""
SMALLEST_STD = 0.02
"""Of a voxel, as a share of the intensity range: background that never varies would make any rounding an outlier."""
Array = NDArray[np.float32]


@dataclass(frozen=True)
class LinearModel:
    """Coefficients per voxel, and what they leave over."""

    specs: tuple[ConditionSpec, ...]
    coefficients: Array
    """(features, ...): the first is the mean."""
    std: Array
    """(...) of the residuals."""

    @property
    def mean(self) -> Array:
        """Without any condition."""
        first: Array = self.coefficients[0]
        return first

    def expected(self, condition: Condition) -> Array:
        """The mean given a condition; what is not known counts as the training mean."""
        return self._weighted(features_of(condition, self.specs))

    def changed(self, array: Array, condition: Condition, asked: Condition) -> Array:
        """The array with what the lines say of a change of the conditions."""
        step = features_of({**condition, **asked}, self.specs) - features_of(condition, self.specs)
        return np.asarray(array + self._weighted(step), dtype=np.float32)

    def away(self, array: Array, condition: Condition) -> Array:
        """How far from the mean given the condition, in standard deviations of the residuals."""
        return np.asarray((array - self.expected(condition)) / np.maximum(self.std, SMALLEST_STD), dtype=np.float32)

    def _weighted(self, features: Matrix) -> Array:
        return np.asarray(np.tensordot(features, self.coefficients, axes=1), dtype=np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """To be kept."""
        return {"coefficients": torch.from_numpy(self.coefficients), "std": torch.from_numpy(self.std)}

    @classmethod
    def of_tensors(cls, specs: Sequence[ConditionSpec], tensors: dict[str, Tensor]) -> "LinearModel":
        """What `tensors` gave."""
        return cls(tuple(specs), tensors["coefficients"].numpy(), tensors["std"].numpy())


def fit_linear(arrays: Iterable[Array], conditions: Sequence[Condition], specs: Sequence[ConditionSpec]) -> LinearModel:
    """Least squares over one pass of the arrays, which are never in memory together."""
    rows = np.stack([features_of(condition, specs) for condition in conditions])
    crossed: NDArray[np.float64] | None = None
    squares: NDArray[np.float64] | None = None
    for row, array in zip(rows, arrays, strict=True):
        wide = array.astype(np.float64)
        if crossed is None or squares is None:
            crossed, squares = np.zeros((rows.shape[1], *array.shape)), np.zeros(array.shape)
        crossed += row.reshape(-1, *([1] * array.ndim)) * wide
        squares += wide**2
    if crossed is None or squares is None:
        raise ValueError("a linear model must be fitted to one array or more, got none")
    gram = rows.T @ rows + RIDGE * len(rows) * np.diag([0.0] + [1.0] * (rows.shape[1] - 1))
    coefficients = np.linalg.solve(gram, crossed.reshape(len(gram), -1)).reshape(crossed.shape)
    explained = 2 * (coefficients * crossed).sum(0) - np.einsum(
        "i...,ij,j...->...", coefficients, rows.T @ rows, coefficients
    )
    freedom = max(1, len(rows) - rows.shape[1])
    std = np.sqrt(np.maximum(squares - explained, 0) / freedom)
    return LinearModel(tuple(specs), coefficients.astype(np.float32), std.astype(np.float32))


def features_of(condition: Condition, specs: Sequence[ConditionSpec]) -> Matrix:
    """(features,) 1, each number in training standard deviations, and for each category but the first whether it is;
    what is not known is 0, the training mean of a number.
    """
    features = [1.0]
    for spec in specs:
        value = condition.get(spec.name)
        if isinstance(spec, CategoricalCondition):
            features += [float(value == category) for category in spec.categories[1:]]
        else:
            features.append(0.0 if value is None else (float(value) - spec.mean) / max(spec.std, 1e-9))
    return np.array(features)
