"""A part of all possible conditions: ranges of numbers and sets of categories, as a study gives them.

Whatever asks for a condition is read here, so that a value which training never saw is refused in the same
words everywhere, or, where that is allowed, marked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ContinuousCondition
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import advise

ALLOW = "; `cohort.extrapolation: allow` allows it"


@dataclass(frozen=True)
class Region:
    """A box of conditions. What it does not name is free."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Conditions that it bounds."""
        return {*self.ranges, *self.categories}

    def holds(self, condition: Condition) -> bool:
        """Whether a condition lies in it; one that is not known does not."""
        within = [_is_between(condition.get(name), ends) for name, ends in self.ranges.items()]
        return all(within) and all(condition.get(name) in allowed for name, allowed in self.categories.items())

    def meet(self, other: "Region") -> "Region | None":
        """What lies in both; None if nothing can."""
        ranges = dict(self.ranges)
        for name, (low, high) in other.ranges.items():
            mine = ranges.get(name, (-math.inf, math.inf))
            ranges[name] = max(low, mine[0]), min(high, mine[1])
        categories = dict(self.categories)
        for name, allowed in other.categories.items():
            categories[name] = tuple(level for level in allowed if level in categories.get(name, allowed))
        possible = all(low <= high for low, high in ranges.values()) and all(categories.values())
        return Region(ranges, categories) if possible else None


def _is_between(value: object, ends: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and ends[0] <= value <= ends[1]


def read_region(where: Mapping[str, Any], specs: Sequence[ConditionSpec], key: str, extrapolate: bool) -> Region:
    """The region that `where` describes; `key` is where it is written.

    Raises:
        ConfigurationError: an unknown condition or category, no range, or one that training did not see.
    """
    ranges, categories = {}, {}
    for name, rule in where.items():
        spec = find_spec(name, specs, key)
        if isinstance(spec, ContinuousCondition):
            ranges[name] = read_range(rule, spec, f"{key}.{name}", extrapolate)
        else:
            categories[name] = _read_categories(rule, spec, f"{key}.{name}")
    return Region(ranges, categories)


def find_spec(name: str, specs: Sequence[ConditionSpec], key: str) -> ConditionSpec:
    """The condition of that name; ConfigurationError with the nearest one if there is none."""
    by_name = {spec.name: spec for spec in specs}
    if name not in by_name:
        known = sorted(by_name)
        raise ConfigurationError(f"{key}.{name}: must be one of {known}; {advise(name, known, 'conditions')}")
    return by_name[name]


def read_range(rule: Any, spec: ContinuousCondition, key: str, extrapolate: bool) -> tuple[float, float]:
    """`[low, high]`, where null is the end of the training range, or one number."""
    ends = rule if isinstance(rule, list) else [rule, rule]
    seen = f"[{spec.low:g}, {spec.high:g}]"
    if len(ends) != 2 or rule is None or not all(end is None or _is_number(end) for end in ends):
        raise ConfigurationError(f"{key}: must be [low, high] within {seen}, is {rule!r}")
    low, high = (float(seen if end is None else end) for end, seen in zip(ends, (spec.low, spec.high), strict=True))
    if low > high:
        raise ConfigurationError(f"{key}: must be [low, high] within {seen}, is {rule!r}")
    if not extrapolate and not spec.low <= low <= high <= spec.high:
        raise ConfigurationError(f"{key}: must be [low, high] within {seen}, is {rule!r}{ALLOW}")
    return low, high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_categories(rule: Any, spec: CategoricalCondition, key: str) -> tuple[str, ...]:
    levels = [str(level) for level in (rule if isinstance(rule, list) else [rule])]  # YAML reads 1 as a number
    if not levels or not set(levels) <= set(spec.categories):
        raise ConfigurationError(f"{key}: must be in {list(spec.categories)}, is {rule!r}")
    return tuple(level for level in spec.categories if level in levels)


def describe_region(where: Mapping[str, Any]) -> str:
    """A region in words, as it was written: ends of the training range are values of real subjects, and left out."""
    said = [text for name, rule in where.items() if (text := _describe(name.replace("_", " "), rule))]
    return ", ".join(said) or "anywhere"


def _describe(name: str, rule: Any) -> str:
    if not isinstance(rule, list):
        return f"{name} {_plain(rule)}"
    if None not in rule:
        numbers = len(rule) == 2 and all(_is_number(end) for end in rule)
        return f"{name} {(' to ' if numbers else ' or ').join(map(_plain, rule))}"
    low, high = rule
    if low is None and high is None:
        return ""
    return f"{name} {_plain(low)} or more" if high is None else f"{name} up to {_plain(high)}"


def _plain(value: Any) -> str:
    return f"{value:.10g}" if _is_number(value) else str(value)


def is_extrapolated(condition: Condition, specs: Sequence[ConditionSpec]) -> bool:
    """Whether a number of it lies outside what training saw."""
    ranges = {spec.name: (spec.low, spec.high) for spec in specs if isinstance(spec, ContinuousCondition)}
    known = [name for name in ranges if condition.get(name) is not None]
    return not all(_is_between(condition[name], ranges[name]) for name in known)
