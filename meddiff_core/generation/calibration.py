"""What a denoiser is asked for, so that its samples measure what was asked of the study.

A denoiser follows a number by a line of its own: large structures come out too small, small ones too large. Where the
line is known its inverse is asked for. Tables, the choice of the best of n, and the audit go by what was asked of the
study, so a wrong line shows there.
"""

from collections.abc import Sequence

from meddiff_core.contract import Condition, ConditionSpec, ContinuousCondition
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import CalibrationConfig


def calibrated(condition: Condition, lines: Sequence[CalibrationConfig], specs: Sequence[ConditionSpec]) -> Condition:
    """The condition with numbers at which each line is at those that were asked for, or as near as the training range
    allows: beyond it a network was never asked.

    Raises:
        ConfigurationError: a line of something that is no number among the conditions.
    """
    numbers = {spec.name: spec for spec in specs if isinstance(spec, ContinuousCondition)}
    if unknown := [line.condition for line in lines if line.condition not in numbers]:
        known = f"one of {sorted(numbers)}" if numbers else "left out where no condition is a number"
        raise ConfigurationError(f"sampling.calibration must be {known}, is {unknown[0]!r}")
    changed = {
        line.condition: _inverse(condition[line.condition], line, numbers[line.condition])
        for line in lines
        if condition.get(line.condition) is not None
    }
    return {**condition, **changed}


def _inverse(value: float | str | None, line: CalibrationConfig, spec: ContinuousCondition) -> float:
    wanted = float(value or 0)
    low, high = min(spec.low, wanted), max(spec.high, wanted)  # a study may ask for extrapolation
    return min(max((wanted - line.intercept) / line.slope, low), high)
