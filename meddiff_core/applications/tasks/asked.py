"""Conditions that a person asks for, checked against what training saw, and the conditions that a scan has.

A denoiser gives some volume for any number. Outside what it was trained on nobody has measured what that volume is
worth, so a condition there is refused unless extrapolation is wanted.
"""

import math
from collections.abc import Mapping

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ContinuousCondition, Contract
from meddiff_core.errors import ConfigurationError


def check_asked(asked: Condition, contract: Contract, extrapolate: bool = False) -> Condition:
    """The conditions that were asked for, numbers as floats.

    Raises:
        ConfigurationError: an unknown name, a category that training never saw, or a number out of its range.
    """
    specs = {spec.name: spec for spec in contract.conditions}
    for name in asked:
        if name not in specs:
            known = sorted(specs) or "none: the models were trained without conditions"
            raise ConfigurationError(f"asked condition must be one of {known}, is {name!r}")
    return {name: _checked(value, specs[name], extrapolate) for name, value in asked.items()}


def _checked(value: float | str | None, spec: ConditionSpec, extrapolate: bool) -> float | str:
    if isinstance(spec, CategoricalCondition):
        if value not in spec.categories:
            raise ConfigurationError(f"asked {spec.name} must be one of {list(spec.categories)}, is {value!r}")
        return str(value)
    if isinstance(value, str | bool) or value is None or not math.isfinite(value):
        raise ConfigurationError(f"asked {spec.name} must be a finite number, is {value!r}")
    if spec.group is not None and value < 0:
        raise ConfigurationError(f"asked {spec.name} must be a volume of 0 mm3 or more, is {value:g}")
    if not extrapolate and not spec.low <= value <= spec.high:
        raise ConfigurationError(
            f"asked {spec.name} must be in [{spec.low:g}, {spec.high:g}], what training saw, is {value:g}; "
            "allow it with extrapolate, unmeasured as it is"
        )
    return float(value)


def own_condition(
    known: Condition | None, volumes: Mapping[str, float], asked: Condition, contract: Contract
) -> Condition:
    """What a scan has: what is known of it, and its own volumes (by label group) where others are asked for.

    A volume that nobody asks for stays unknown where it is: it may then change along with what is asked for.
    """
    wanted = volume_conditions(asked, contract)
    own: Condition = {name: volumes[str(spec.group)] for name, spec in wanted.items() if spec.group in volumes}
    return own | {name: value for name, value in (known or {}).items() if value is not None}


def volume_conditions(asked: Condition, contract: Contract) -> dict[str, ContinuousCondition]:
    """Those of the asked conditions that are volumes of structures with labels."""
    return {
        spec.name: spec
        for spec in contract.conditions
        if isinstance(spec, ContinuousCondition) and spec.group in contract.labels and spec.name in asked
    }
