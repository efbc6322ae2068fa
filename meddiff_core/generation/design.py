"""Which volumes a cohort asks for: one condition per slot, a pure function of the slot.

Growing a cohort leaves the conditions of its first slots as they were. A condition sampled like the
training set is never a training row where one of them is a number: that would give away a real person's age, sex and
anatomy. Categories alone repeat from person to person, and may.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ConditionValue
from meddiff_core.data.tables.cells import is_missing
from meddiff_core.data.tables.covariates import read_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.cells import CellCount, apportion, read_cells
from meddiff_core.generation.joint import SmoothedJoint, significant
from meddiff_core.generation.region import ALLOW, find_spec, read_range
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import CohortConfig

EVENLY = "sampled evenly, because too few training volumes lie there"


class CohortDesign:
    """Conditions per slot, from whichever source the study names."""

    def __init__(
        self, config: CohortConfig, specs: Sequence[ConditionSpec], train: Sequence[Condition], base: Path
    ) -> None:
        extrapolate = config.extrapolation == "allow"
        self._size, self._seed, self._specs = config.size, config.seed, specs
        self._distributions = _read_distributions(config.distributions, specs, extrapolate)
        table = config.requests
        self._requests = None if table is None else read_requests(base / table, specs, extrapolate)
        self._like_train = SmoothedJoint(specs, train)
        self._cells = read_cells(config, specs, train)
        self._apportioned, self._cell_of_slot = apportion([cell.share for cell in self._cells]), list[int]()

    def condition(self, slot: int) -> Condition:
        """What slot `slot` of the cohort asks for. A condition that nothing decides is None: the model decides."""
        if self._requests is not None:
            return self._requests[slot % len(self._requests)]
        random = np.random.default_rng(derive_seed(self._seed, "design", slot))
        if self._distributions is not None:
            chosen = {name: _choose(rule, random) for name, rule in self._distributions.items()}
            return {spec.name: chosen.get(spec.name) for spec in self._specs}
        joint = self._cells[self._cell(slot)].joint if self._cells else self._like_train
        return joint.sample(random)

    def tally(self, accepted: Iterable[int]) -> list[CellCount]:
        """Wanted volumes per cell beside those at the accepted slots; nothing if the cohort has no cells."""
        if not self._cells:
            return []
        wanted = Counter(map(self._cell, range(self._size)))
        found = Counter(map(self._cell, accepted))
        return [
            CellCount(cell.name, wanted[number], found[number], cell.joint.even)
            for number, cell in enumerate(self._cells)
        ]

    def notes(self) -> list[str]:
        """What a person should know before the cohort is sampled."""
        return [f"{cell.name}: {EVENLY}" for cell in self._cells if cell.joint.even]

    def _cell(self, slot: int) -> int:
        while len(self._cell_of_slot) <= slot:
            self._cell_of_slot.append(next(self._apportioned))
        return self._cell_of_slot[slot]


def _read_distributions(
    distributions: Mapping[str, Any] | None, specs: Sequence[ConditionSpec], extrapolate: bool
) -> dict[str, Any] | None:
    if distributions is None:
        return None
    return {
        name: _read_rule(rule, find_spec(name, specs, "cohort.distributions"), extrapolate)
        for name, rule in distributions.items()
    }


def _read_rule(rule: Any, spec: ConditionSpec, extrapolate: bool) -> Any:
    key = f"cohort.distributions.{spec.name}"
    if not isinstance(spec, CategoricalCondition):
        return read_range(rule, spec, key, extrapolate)
    if not isinstance(rule, dict) or not rule or not set(rule) <= set(spec.categories):
        raise ConfigurationError(f"{key}: must be shares of {list(spec.categories)}, is {rule!r}")
    shares = list(rule.values())
    if not all(isinstance(share, int | float) and 0 <= share < math.inf for share in shares) or not sum(shares):
        raise ConfigurationError(f"{key}: shares must be numbers above 0, is {rule!r}")
    return rule


def _choose(rule: Any, random: np.random.Generator) -> ConditionValue:
    if isinstance(rule, dict):
        shares = np.array(list(rule.values()), dtype=float)
        return str(list(rule)[int(random.choice(len(rule), p=shares / shares.sum()))])
    low, high = rule
    return significant(random.uniform(low, high), low, high)


def read_requests(path: Path, specs: Sequence[ConditionSpec], extrapolate: bool = False) -> list[Condition]:
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
        {str(name): _parse(value, by_name[str(name)], number, extrapolate) for name, value in row.items()}
        for number, row in enumerate(rows, start=1)
    ]


def _parse(cell: str, spec: ConditionSpec, row: int, extrapolate: bool) -> ConditionValue:
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
    seen = f"[{spec.low:g}, {spec.high:g}]"
    if not math.isfinite(number):
        raise ConfigurationError(f"{key} must be in {seen}, is {number:g}")
    if not extrapolate and not spec.low <= number <= spec.high:
        raise ConfigurationError(f"{key} must be in {seen}, is {number:g}{ALLOW}")
    return number
