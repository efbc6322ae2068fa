"""The parts that a cohort is made up of, and which slot belongs to which.

Slots are apportioned one by one, such that after every slot each cell has its quota rounded down or up. So the
first slots of a larger cohort are those of a smaller one, and counts are met exactly at the size that they
add up to.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.joint import SmoothedJoint
from meddiff_core.generation.region import Region, describe_region, find_spec, read_region
from meddiff_core.study import CellConfig, CohortConfig

ROUNDS = 200
"""Rounds of raking; it converges within a few."""
FINEST = 10**6
"""Largest denominator of a share, so that 0.333333 is a third and rounding errors are gone."""


@dataclass(frozen=True)
class Cell:
    """A part of a cohort."""

    name: str
    share: Fraction
    joint: SmoothedJoint


@dataclass(frozen=True)
class CellCount:
    """Volumes of a cell: wanted and accepted."""

    name: str
    wanted: int
    accepted: int
    even: bool = False
    """Whether too few training volumes lie in it to be imitated, so that it was sampled evenly."""


def read_cells(config: CohortConfig, specs: Sequence[ConditionSpec], train: Sequence[Condition]) -> list[Cell]:
    """Cells of a cohort that is like the training set; none if nothing narrows it.

    Raises:
        ConfigurationError: a cell asks for what there is not, or lies outside `cohort.where`.
    """
    extrapolate = config.extrapolation == "allow"
    everywhere = read_region(config.where, specs, "cohort.where", extrapolate)
    if config.shares:
        return _raked_cells(config.shares, everywhere, specs, train)
    cells = config.cells or ([CellConfig(where=config.where, share=1)] if config.where else [])
    found = []
    for number, (cell, share) in enumerate(zip(cells, _shares(cells, config.size), strict=True)):
        key = f"cohort.cells.{number}.where"
        region = read_region(cell.where, specs, key, extrapolate).meet(everywhere)
        if region is None:
            raise ConfigurationError(f"{key}: must lie within cohort.where, is {describe_region(cell.where)}")
        found.append(Cell(describe_region(cell.where), share, SmoothedJoint(specs, train, region)))
    return found


def _shares(cells: Sequence[CellConfig], size: int) -> list[Fraction]:
    """Shares of the whole cohort, with sum 1: counts are exact, and shares divide what they leave."""
    left = 1 - Fraction(sum(cell.count or 0 for cell in cells), size)
    among = sum(Fraction(cell.share).limit_denominator(FINEST) for cell in cells if cell.share)
    return [
        Fraction(cell.share).limit_denominator(FINEST) * left / among if cell.share else Fraction(cell.count or 0, size)
        for cell in cells
    ]


def _raked_cells(
    shares: Mapping[str, Mapping[str, float]],
    everywhere: Region,
    specs: Sequence[ConditionSpec],
    train: Sequence[Condition],
) -> list[Cell]:
    """A cell per combination of categories: together as often as in training, each as often as wanted."""
    for name, wanted in shares.items():
        _check_shares(name, wanted, find_spec(name, specs, "cohort.shares"), everywhere)
    wanted_levels = {name: [level for level, share in wanted.items() if share] for name, wanted in shares.items()}
    combinations = [dict(zip(shares, levels, strict=True)) for levels in product(*wanted_levels.values())]
    regions = [
        Region(everywhere.ranges, dict(everywhere.categories) | {name: (level,) for name, level in one.items()})
        for one in combinations
    ]
    joints = [SmoothedJoint(specs, train, region) for region in regions]
    weights = rake(combinations, [joint.probability for joint in joints], shares)
    names = [describe_region(one) for one in combinations]
    return [Cell(name, weight, joint) for name, weight, joint in zip(names, weights, joints, strict=True)]


def _check_shares(name: str, wanted: Mapping[str, float], spec: ConditionSpec, everywhere: Region) -> None:
    key = f"cohort.shares.{name}"
    if not isinstance(spec, CategoricalCondition):
        raise ConfigurationError(f"{key}: must be categories, is numbers; use cohort.cells with ranges of {name}")
    possible = everywhere.categories.get(name, spec.categories)
    if not wanted or not set(wanted) <= set(possible):
        raise ConfigurationError(f"{key}: must be shares of {list(possible)}, is {dict(wanted)!r}")
    if not sum(wanted.values()):
        raise ConfigurationError(f"{key}: shares must be numbers above 0, is {dict(wanted)!r}")


def rake(
    combinations: Sequence[Mapping[str, str]], weights: Sequence[float], targets: Mapping[str, Mapping[str, float]]
) -> list[Fraction]:
    """Weights of combinations, scaled until each name's levels have their target shares (Deming & Stephan 1940)."""
    found = np.maximum(np.asarray(weights, dtype=float), 1e-12)
    margins = [
        (np.array([combination[name] == level for combination in combinations]), share / sum(wanted.values()))
        for name, wanted in targets.items()
        for level, share in wanted.items()
        if share
    ]
    for _ in range(ROUNDS):
        for chosen, share in margins:
            found[chosen] *= share / found[chosen].sum()
    exact = [Fraction(weight).limit_denominator(FINEST) for weight in found.tolist()]
    return [weight / sum(exact) for weight in exact]


def apportion(shares: Sequence[Fraction]) -> Iterator[int]:
    """The cell of slot 0, 1, 2, ...: the quota method (Balinski & Young 1975), for shares that add up to 1.

    After n slots cell i has floor(n * share) or ceil(n * share) of them.
    """
    whole = math.lcm(*(share.denominator for share in shares))
    parts = [int(share * whole) for share in shares]  # the same in integers, for 100,000 slots
    given, slots = [0] * len(parts), 0
    while True:
        slots += 1
        below = [cell for cell, part in enumerate(parts) if given[cell] * whole < slots * part]
        chosen = max(below, key=lambda cell: parts[cell] / (given[cell] + 1))
        given[chosen] += 1
        yield chosen
