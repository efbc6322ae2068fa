"""Arms compared with training on real volumes: tables, metrics, and sentences that say when synthetic data is no help.

Every task is reported in the same words, so that a loss is never reported more softly than a gain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meddiff_core.evidence.intervals import Bootstrap, Estimate
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.quality.effects import short, span
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.evidence.utility.arms import Arm, Design
from meddiff_core.evidence.utility.resampling import Outcome

TASKS = "audit.utility.effort, and label maps or covariates to learn"
TSTR = MetricSpec(
    name="tstr",
    part="utility",
    better=None,
    reference="that of training on the real volumes",
    detail="task",
    requires=TASKS,
)
UTILITY_RATIO = MetricSpec(
    name="utility_ratio",
    part="utility",
    better="higher",
    reference="that of the real volumes",
    detail="task",
    requires=TASKS,
)
UTILITY_GAIN = MetricSpec(name="utility_gain", part="utility", better="higher", detail="task", requires=TASKS)
METRICS = (TSTR, UTILITY_RATIO, UTILITY_GAIN)


@dataclass(frozen=True)
class Task:
    """What was learned, and the figure that says how well."""

    name: str
    """Detail of its metrics: `segmentation`, or a covariate."""
    title: str
    """As it stands in a sentence: `segmentation`, `prediction of age`."""
    figure: str
    """`mean Dice`, `mean absolute error`."""
    higher_is_better: bool
    trivial: float
    """The figure of a prediction that sees no image."""
    terms: str = ""
    """What was held equal between arms, as the end of a sentence: ` at equal steps`."""

    @property
    def opening(self) -> str:
        """The figure at the beginning of a sentence."""
        return self.figure[:1].upper() + self.figure[1:]


def compare_arms(task: Task, outcomes: Mapping[Arm, Outcome], design: Design, bootstrap: Bootstrap) -> Section:
    """Metrics of the arms with as many synthetic volumes as real ones, a table of all, and sentences."""
    alone, added = design.equal
    real = outcomes[design.real]
    ratio = quality_ratio(task, outcomes[alone], real).estimate(bootstrap.confidence)
    gain = improvement(task, outcomes[added], real).estimate(bootstrap.confidence)
    figures = [outcomes[arm].estimate(bootstrap.confidence) for arm in (design.real, alone, added)]
    return Section(
        metrics=_metrics(task, design, ratio, gain, figures),
        tables=[_differences(task, outcomes, design, bootstrap)],
        statements=[_standing_in(task, alone, ratio, figures), _adding(task, added, gain), *_above_trivial(task, real)],
    )


def quality_ratio(task: Task, arm: Outcome, real: Outcome) -> Outcome:
    """1 is as good as real, below 1 is worse, whichever way the figure runs."""
    return arm.over(real) if task.higher_is_better else real.over(arm)


def improvement(task: Task, arm: Outcome, real: Outcome) -> Outcome:
    """Above 0 is better than real alone, whichever way the figure runs."""
    return arm.minus(real) if task.higher_is_better else real.minus(arm)


def with_interval(estimate: Estimate) -> str:
    """`0.812 (0.79 to 0.834)`."""
    return f"{short(estimate.value):g} ({span(estimate)})"


def _metrics(task: Task, design: Design, ratio: Estimate, gain: Estimate, figures: Sequence[Estimate]) -> list[Metric]:
    alone, added = design.equal
    real, synthetic, _ = figures
    seeds = f"{design.seeds} trainings each" if design.seeds > 1 else "one training each, whose luck no interval shows"
    better = "higher" if task.higher_is_better else "lower"
    trained = (
        f"{task.opening} on the holdout after training on {alone.synthetic} synthetic volumes ({seeds}), beside "
        f"{design.real.real} real ones; {better} is better. {task.trivial:.3g} needs no image at all."
    )
    relative = f"{task.opening} after training on synthetic volumes alone, relative to real ones: 1 is as good."
    helped = (
        f"What {added.synthetic} synthetic volumes beside the {added.real} real ones improve in "
        f"{task.figure}{task.terms}: above 0 they help."
    )
    return [
        metric_of(TSTR, synthetic, trained, task.name, real.value),
        metric_of(UTILITY_RATIO, ratio, relative, task.name, reference=1.0),
        metric_of(UTILITY_GAIN, gain, helped, task.name),
    ]


def _differences(task: Task, outcomes: Mapping[Arm, Outcome], design: Design, bootstrap: Bootstrap) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for arm in [*design.alone, *design.added]:
        better = improvement(task, outcomes[arm], outcomes[design.real]).estimate(bootstrap.confidence)
        ratio = quality_ratio(task, outcomes[arm], outcomes[design.real]).estimate(bootstrap.confidence)
        rows.append((arm.name, with_interval(better), with_interval(ratio)))
    return Table(
        part="utility",
        title=f"Utility against real volumes alone: {task.title}",
        caption=f"Improvement of {task.figure} over training on the real volumes (above 0 is better), and ratio to it "
        "(1 is as good), both paired by test subject.",
        columns=("trained on", "improvement", "ratio"),
        rows=tuple(rows),
    )


def _standing_in(task: Task, arm: Arm, ratio: Estimate, figures: Sequence[Estimate]) -> str:
    real, synthetic, _ = figures
    found = f"{task.figure} {with_interval(synthetic)} on the holdout against {with_interval(real)}"
    if ratio.high < 1:
        verdict = "synthetic volumes fall short of real ones"
    elif ratio.low > 1:
        verdict = "synthetic volumes taught more than real ones did"
    else:
        verdict = "no difference from real volumes could be shown"
    return f"For {task.title}, {verdict}: {arm.synthetic} of them give {found}, a ratio of {with_interval(ratio)}."


def _adding(task: Task, arm: Arm, gain: Estimate) -> str:
    if gain.low > 0:
        verdict = "improved"
    elif gain.high < 0:
        verdict = "worsened"
    else:
        verdict = "did not improve"
    return (
        f"Adding {arm.synthetic} synthetic volumes to the {arm.real} real ones {verdict} {task.title}: "
        f"the gain in {task.figure}{task.terms} is {with_interval(gain)}."
    )


def _above_trivial(task: Task, real: Outcome) -> list[str]:
    better = real.value > task.trivial if task.higher_is_better else real.value < task.trivial
    if better:
        return []
    return [
        f"For {task.title} even training on real volumes is no better than a prediction that sees no image "
        f"({task.figure} {real.value:.3g} against {task.trivial:.3g}): this task says nothing of the synthetic volumes."
    ]
