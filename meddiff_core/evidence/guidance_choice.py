"""Which weight of the guidance samples follow their conditions with, at no loss of likeness.

No number suits every study: without guidance half of a condition may be lost, with too much of it every volume
exaggerates. So after training a few samples of the validation scans' conditions are measured at each weight, from the
same noise, and the weight is taken whose measured volumes rise with those asked for as they should. What slope and bias
are left, the inverse line takes away (generation/calibration.py), if samples then follow better and are as likely.
Nothing is taken from the holdout.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from meddiff_core.contract import Condition, Frozen
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix
from meddiff_core.evidence.quality.distances import kernel_interval
from meddiff_core.evidence.quality.fidelity import fidelity
from meddiff_core.models.randomness import derive_seed
from meddiff_core.study import CalibrationConfig

WEIGHTS = (1.0, 1.5, 2.0, 3.0)
"""Those that are tried, in turn until more would not help; 1 is none."""
INTERVAL = (0.3, 5.0)
"""Noise levels between which it acts: outside it costs evaluations and variety, and moves no volume of a structure."""
SAMPLES = 32
"""Samples at each weight."""
FLATTEST = 0.1
"""Lowest slope that is inverted: below it every request would become an end of the training range."""
REPEATS, CONFIDENCE = 400, 0.95
"""Of the bootstrap intervals."""
Why = Literal["given", "nothing measurable", "too few scans", "measured"]
WHY: Mapping[Why, str] = {
    "given": "the study gives it",
    "nothing measurable": "no condition is the volume of a structure",
    "too few scans": "there are too few validation scans to compare samples with",
    "measured": "samples were measured",
}


class Interval(Frozen):
    """A figure and its bootstrap interval over samples."""

    value: float
    low: float
    high: float


class Following(Frozen):
    """How the measured volume of a structure goes with the one that was asked for."""

    condition: str
    r: Interval
    slope: Interval
    """Of measured on asked; 1 follows fully."""
    intercept: float
    """Of the same line."""
    bias: Interval
    """Mean of measured minus asked, in standard deviations of what was asked for."""

    @property
    def off(self) -> float:
        """How far the line is from following fully."""
        return abs(self.slope.value - 1) + abs(self.bias.value)

    @property
    def is_off(self) -> bool:
        """Whether more than the noise of few samples is between the line and that, and a line is there at all."""
        exact = self.slope.low <= 1 <= self.slope.high and self.bias.low <= 0 <= self.bias.high
        return self.slope.low >= FLATTEST and not exact


class MeasuredWeight(Frozen):
    """What samples at one weight came to."""

    guidance: float
    calibration: tuple[CalibrationConfig, ...] = ()
    """Lines whose inverse was asked for."""
    following: tuple[Following, ...]
    distance: Interval
    """Kernel distance of their latents to those of the validation scans."""

    @property
    def off(self) -> float:
        """Mean distance of the slopes from 1."""
        return float(np.mean([abs(one.slope.value - 1) for one in self.following]))


class GuidanceChoice(Frozen):
    """guidance.json: weight and interval that samples have, and why."""

    guidance: float
    interval: tuple[float, float] | None
    why: Why
    best_of: int = 1
    """Volumes for each sample, of which the nearest was measured."""
    calibration: tuple[CalibrationConfig, ...] = ()
    """Lines whose inverse the denoiser is asked for."""
    measured: tuple[MeasuredWeight, ...] = ()
    """By rising weight; last, if it was tried, the chosen weight under the calibration that it suggested."""

    @property
    def weights(self) -> list[MeasuredWeight]:
        """Those among which the weight was chosen."""
        return [one for one in self.measured if one.calibration == self.measured[0].calibration]

    @property
    def tried(self) -> MeasuredWeight | None:
        """What the calibration came to, whether it was taken or not."""
        return self.measured[-1] if len(self.weights) < len(self.measured) else None


def measure_weight(
    guidance: float,
    asked: Sequence[Condition],
    volumes: Mapping[str, ArrayLike],
    features: Matrix,
    validation: Matrix,
    seed: int,
    calibration: tuple[CalibrationConfig, ...] = (),
) -> MeasuredWeight:
    """Figures of samples at one weight: `volumes` are those measured, by condition; `features` those of the latents, as
    `validation` are of the validation scans.
    """
    bootstrap = Bootstrap(REPEATS, CONFIDENCE, derive_seed(seed, "guidance"))
    return MeasuredWeight(
        guidance=guidance,
        calibration=calibration,
        following=tuple(_following(name, asked, found, bootstrap) for name, found in volumes.items()),
        distance=_interval(kernel_interval(features, validation, bootstrap)),
    )


def _following(name: str, asked: Sequence[Condition], found: ArrayLike, bootstrap: Bootstrap) -> Following:
    wanted = np.array([np.nan if condition.get(name) is None else condition[name] for condition in asked], np.float64)
    known = np.isfinite(wanted)
    x, y = wanted[known], np.asarray(found, np.float64)[known]
    agreement = fidelity(x, y, bootstrap)
    nothing = Interval(value=0.0, low=0.0, high=0.0)
    slope = nothing if agreement.slope is None else _interval(agreement.slope)
    error, spread = agreement.mean_error, max(float(x.std()), 1e-12) if len(x) else 1.0
    return Following(
        condition=name,
        r=_interval(agreement.r),
        slope=slope,
        intercept=float(y.mean() - slope.value * x.mean()) if len(x) else 0.0,
        bias=nothing if error is None else _interval(error, spread),
    )


def _interval(found: Estimate, unit: float = 1.0) -> Interval:
    return Interval(value=found.value / unit, low=found.low / unit, high=found.high / unit)


def best_weight(measured: Sequence[MeasuredWeight]) -> MeasuredWeight:
    """The slope nearest to 1 among weights whose samples are as near to the validation scans as those of the first,
    which is no guidance, up to the noise of that distance. Of equals the first, which costs least.
    """
    bound = measured[0].distance.high
    return min((one for one in measured if one.distance.value <= bound), key=lambda one: one.off)


def lines_of(measured: MeasuredWeight) -> tuple[CalibrationConfig, ...]:
    """Those of the conditions that samples follow, but not one to one."""
    return tuple(
        CalibrationConfig(condition=one.condition, intercept=one.intercept, slope=one.slope.value)
        for one in measured.following
        if one.is_off
    )


def is_better(calibrated: MeasuredWeight, plain: MeasuredWeight, first: MeasuredWeight) -> bool:
    """Whether samples under a calibration follow better than without, by slope and bias, at no loss of correlation and
    of likeness beyond noise; `first` are those without guidance.
    """
    pairs = list(zip(calibrated.following, plain.following, strict=True))
    follows = sum(one.off for one, _ in pairs) < sum(other.off for _, other in pairs)
    tells = all(one.r.value >= other.r.low for one, other in pairs)
    return follows and tells and calibrated.distance.value <= first.distance.high


def is_settled(measured: Sequence[MeasuredWeight]) -> bool:
    """Whether more guidance would only exaggerate, or has already cost likeness, so that no more has to be tried."""
    last = measured[-1]
    slope = float(np.mean([one.slope.value for one in last.following]))
    return slope >= 1 or last.distance.value > measured[0].distance.high


def describe_choice(choice: GuidanceChoice) -> str | None:
    """One sentence for a methods section; None where nothing was chosen."""
    if not choice.measured:
        return None
    weights = ", ".join(f"{one.guidance:g}" for one in choice.weights)
    taken = next(one for one in choice.weights if one.guidance == choice.guidance)
    return (
        f"The guidance weight of {choice.guidance:g} was chosen among {weights} after training, by {SAMPLES} samples "
        "under conditions of the validation scans at each: of those whose kernel distance to the validation scans is "
        "not above that without guidance by more than its noise, its slope of measured on requested volumes is nearest "
        f"to 1 ({_slopes(taken)}).{_describe_calibration(choice)}"
    )


def _slopes(measured: MeasuredWeight) -> str:
    return ", ".join(f"{one.slope.value:.2f} for {one.condition}" for one in measured.following)


def _describe_calibration(choice: GuidanceChoice) -> str:
    if choice.tried is None:
        return ""
    slopes = _slopes(choice.tried)
    if not choice.calibration:
        return f" To ask for the inverse of the lines brought no gain (slopes {slopes}), and was left out."
    names = " and ".join(line.condition for line in choice.calibration)
    return (
        f" For {names} the denoiser was asked for the inverse of the line, within the training range, which made the "
        f"slope {slopes}. Tables hold what was requested."
    )
