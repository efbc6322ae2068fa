"""Conditions as a person gives them, `age=75`, against those of the models.

A number outside of what training saw makes a result that nothing supports; a name or a category that it never saw
makes none at all. Both are refused in one place, with what would be allowed.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ConditionValue, Contract
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.study import advise

ALLOW = "; --extrapolate allows it"


def read_contract(autoencoder: Path) -> Contract:
    """The contract that a checkpoint carries, read without its tensors.

    Raises:
        ConfigurationError: there is no checkpoint.
        IntegrityError: it cannot be read.
    """
    path = autoencoder / "facts.json"
    if not path.is_file():
        raise ConfigurationError("autoencoder must be trained, is missing; run `meddiff train` first")
    try:
        return Contract.model_validate(json.loads(path.read_bytes())["contract"])
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"{path} must hold a contract: {type(error).__name__}") from error


def parse_conditions(pairs: Iterable[str], specs: Sequence[ConditionSpec], option: str, extrapolate: bool) -> Condition:
    """Conditions from `NAME=VALUE` each.

    Raises:
        ConfigurationError: another form, a name given twice, or what `checked_conditions` refuses.
    """
    found: Condition = {}
    for pair in pairs:
        name, sign, value = (part.strip() for part in pair.partition("="))
        if not (name and sign and value):
            raise ConfigurationError(f"{option} must be NAME=VALUE, such as age=75, is {pair!r}")
        if name in found:
            raise ConfigurationError(f"{option} must name a condition once, {name} is there twice")
        found[name] = value
    return checked_conditions(found, specs, option, extrapolate)


def checked_conditions(
    given: Mapping[str, ConditionValue], specs: Sequence[ConditionSpec], option: str, extrapolate: bool
) -> Condition:
    """The conditions with numbers as numbers; None, for not known, stays out.

    Raises:
        ConfigurationError: a name or category that training never saw, or a number outside of its range.
    """
    by_name = {spec.name: spec for spec in specs}
    known = {name: value for name, value in given.items() if value is not None}
    for name in known:
        if name not in by_name:
            why = advise(name, sorted(by_name), "conditions") if by_name else "the models have no conditions"
            raise ConfigurationError(f"{option}: {name!r} is no condition of the models; {why}")
    return {name: _checked(value, by_name[name], option, extrapolate) for name, value in known.items()}


def _checked(value: float | str, spec: ConditionSpec, option: str, extrapolate: bool) -> float | str:
    what = f"{option}: {spec.name}"
    if isinstance(spec, CategoricalCondition):
        if str(value) not in spec.categories:
            raise ConfigurationError(f"{what} must be one of {', '.join(spec.categories)}, is {str(value)!r}")
        return str(value)
    try:
        number = float(value)
    except ValueError as error:
        raise ConfigurationError(f"{what} must be a number, is {value!r}") from error
    if not math.isfinite(number):
        raise ConfigurationError(f"{what} must be a finite number, is {number}")
    if not (extrapolate or spec.low <= number <= spec.high):
        raise ConfigurationError(f"{what} must be within {spec.low:g} to {spec.high:g}, is {number:g}{ALLOW}")
    return number
