"""Which volumes a cohort asks for: one condition per slot, a pure function of the slot.

Growing a cohort leaves the conditions of its first slots as they were. A condition drawn like the
training set is never a training row: that would hand out a real person's age, sex and anatomy.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ConditionValue, ContinuousCondition
from meddiff_core.data.tables import is_missing, read_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import CohortConfig

CATEGORY_SMOOTHING = 0.05
"""How often a category is drawn from its marginal instead of with its row."""


class CohortDesign:
    """Conditions per slot, from whichever of the three sources the study names."""

    def __init__(
        self, config: CohortConfig, specs: Sequence[ConditionSpec], train: Sequence[Condition], base: Path
    ) -> None:
        self._seed, self._specs, self._train = config.seed, specs, train
        self._distributions = None if config.distributions is None else _checked(config.distributions, specs)
        self._requests = None if config.requests is None else read_requests(base / config.requests, specs)

    def condition(self, slot: int) -> Condition:
        """What slot `slot` of the cohort asks for. A condition that nothing decides is None: the model decides."""
        if self._requests is not None:
            return self._requests[slot % len(self._requests)]
        random = np.random.default_rng(derive_seed(self._seed, "design", slot))
        if self._distributions is not None:
            drawn = {name: _draw(rule, random) for name, rule in self._distributions.items()}
            return {spec.name: drawn.get(spec.name) for spec in self._specs}
        return self._like_train(random)

    def _like_train(self, random: np.random.Generator) -> Condition:
        """A smoothed bootstrap (Silverman & Young 1987): a random row, each number blurred by its bandwidth."""
        for _ in range(100):
            row = self._train[int(random.integers(len(self._train)))]
            drawn = {spec.name: self._blur(row.get(spec.name), spec, random) for spec in self._specs}
            if drawn not in self._train or all(isinstance(spec, CategoricalCondition) for spec in self._specs):
                return drawn
        raise ConfigurationError("cohort.like: every condition drawn was an exact training row; use distributions")

    def _blur(self, value: ConditionValue, spec: ConditionSpec, random: np.random.Generator) -> ConditionValue:
        known = [row[spec.name] for row in self._train if row.get(spec.name) is not None]
        redraw = isinstance(spec, CategoricalCondition) and random.random() < CATEGORY_SMOOTHING
        if value is None or redraw:
            value = known[random.integers(len(known))]
        if isinstance(spec, CategoricalCondition) or isinstance(value, str) or value is None:
            return value
        dimensions = sum(isinstance(other, ContinuousCondition) for other in self._specs)
        bandwidth = spec.std * len(known) ** (-1 / (dimensions + 4))  # Scott's rule
        blurred = _reflect(value + bandwidth * random.standard_normal(), spec.low, spec.high)
        return _significant(blurred, spec.low, spec.high)


def _reflect(value: float, low: float, high: float) -> float:
    """Fold a value that left the range back into it, so that no mass piles up at the ends."""
    if high <= low:
        return low
    position = (value - low) % (2 * (high - low))
    return low + min(position, 2 * (high - low) - position)


def _significant(value: float, low: float, high: float) -> float:
    """To four digits, unless that leaves the range."""
    rounded = float(f"{value:.4g}")
    return rounded if low <= rounded <= high else value


def _checked(distributions: dict[str, Any], specs: Sequence[ConditionSpec]) -> dict[str, Any]:
    by_name = {spec.name: spec for spec in specs}
    for name, rule in distributions.items():
        if name not in by_name:
            raise ConfigurationError(f"cohort.distributions.{name}: must be one of {sorted(by_name)}")
        _check_rule(name, rule, by_name[name])
    return distributions


def _check_rule(name: str, rule: Any, spec: ConditionSpec) -> None:
    key = f"cohort.distributions.{name}"
    if isinstance(spec, CategoricalCondition):
        if not isinstance(rule, dict) or not rule or not set(rule) <= set(spec.categories):
            raise ConfigurationError(f"{key}: must be shares of {list(spec.categories)}, is {rule!r}")
        shares = list(rule.values())
        if not all(isinstance(share, int | float) and 0 <= share < math.inf for share in shares) or not sum(shares):
            raise ConfigurationError(f"{key}: shares must be numbers above 0, is {rule!r}")
        return
    numbers = isinstance(rule, list) and len(rule) == 2 and all(isinstance(end, int | float) for end in rule)
    if not numbers or not spec.low <= rule[0] <= rule[1] <= spec.high:
        raise ConfigurationError(f"{key}: must be [low, high] within [{spec.low:g}, {spec.high:g}], is {rule!r}")


def _draw(rule: Any, random: np.random.Generator) -> ConditionValue:
    if isinstance(rule, dict):
        shares = np.array(list(rule.values()), dtype=float)
        return str(list(rule)[int(random.choice(len(rule), p=shares / shares.sum()))])
    low, high = map(float, rule)
    return _significant(random.uniform(low, high), low, high)


def read_requests(path: Path, specs: Sequence[ConditionSpec]) -> list[Condition]:
    """A table with a row per volume and a column per condition; an empty cell leaves it to the model.

    Raises:
        ConfigurationError: no table, an unknown column, or a value outside the training range, by row.
    """
    table = read_table(path, "cohort.requests")
    by_name = {spec.name: spec for spec in specs}
    if unknown := sorted(set(table.columns) - set(by_name)):
        raise ConfigurationError(f"cohort.requests: column must be one of {sorted(by_name)}, is {unknown[0]!r}")
    if table.empty:
        raise ConfigurationError(f"cohort.requests: must hold a row per volume, {path.name} is empty")
    rows = table.to_dict("records")
    return [
        {str(name): _parse(value, by_name[str(name)], number) for name, value in row.items()}
        for number, row in enumerate(rows, start=1)
    ]


def _parse(cell: str, spec: ConditionSpec, row: int) -> ConditionValue:
    key = f"cohort.requests row {row}: {spec.name}"
    if is_missing(cell):
        return None
    if isinstance(spec, CategoricalCondition):
        if cell not in spec.categories:
            raise ConfigurationError(f"{key} must be in {list(spec.categories)}, is {cell!r}")
        return cell
    try:
        number = float(cell)
    except ValueError as error:
        raise ConfigurationError(f"{key} must be a number, is {cell!r}") from error
    if not spec.low <= number <= spec.high:
        raise ConfigurationError(f"{key} must be in [{spec.low:g}, {spec.high:g}], is {number:g}")
    return number
