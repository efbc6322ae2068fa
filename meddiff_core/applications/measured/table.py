"""Measured values to a table: every method with its interval over subjects, and whether the task beats its baselines.

The best baseline of each figure is what a task is held against, pair by pair on the same subjects. Where it is not
beaten the table says that the task loses, in the same words in which it says that another one wins.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meddiff_core.applications.measured.figures import STATISTICS, Statistic
from meddiff_core.contract import Frozen
from meddiff_core.evidence.intervals import Bootstrap, Matrix

Role = Literal["task", "baseline", "bound"]
"""`bound`: what was told the truth, such as an autoencoder that saw the whole scan. It is beside the race."""
Verdict = Literal["wins", "loses", "not told apart"]
COLUMNS = ("task", "setting", "measured", "method", "value", "low", "high", "subjects", "against the best baseline")


class Measure(Frozen):
    """A figure of merit."""

    name: str
    better: Literal["higher", "lower"] | None = "higher"
    """None where neither end is good, such as a share that should be 0.8; then nothing wins."""
    statistic: Statistic = "mean"


@dataclass(frozen=True)
class Value:
    """One measured value, or one row of what the statistic takes."""

    setting: str
    measure: Measure
    method: str
    subject: int
    values: tuple[float, ...]


class Goal(Frozen):
    """What a task should reach, and how it is told."""

    text: str
    setting: str
    measure: str
    least: float
    """The smallest value, or difference from `over`, that reaches it."""
    most: float | None = None
    """The largest one."""
    over: str | None = None
    """The method that it is a difference from."""


class Line(Frozen):
    """A method under a setting, by one figure."""

    setting: str
    measure: Measure
    method: str
    role: Role
    value: float
    low: float
    high: float
    subjects: int


class Comparison(Frozen):
    """The task against its best baseline, by one figure."""

    setting: str
    measure: str
    baseline: str
    gain: float
    """Above 0 the task is better, whichever way the figure runs."""
    low: float
    high: float
    verdict: Verdict


class Reached(Frozen):
    """A goal, and what came of it."""

    goal: Goal
    value: float
    reached: bool


class TaskTable(Frozen):
    """All that was measured of one task."""

    task: str
    lines: tuple[Line, ...]
    comparisons: tuple[Comparison, ...]
    goals: tuple[Reached, ...]
    notes: tuple[str, ...] = ()

    @property
    def losses(self) -> list[Comparison]:
        """Where a baseline is better."""
        return [one for one in self.comparisons if one.verdict == "loses"]


class TasksMeasured(Frozen):
    """A whole run: `tasks.json`."""

    models: str
    """Digest of both checkpoints."""
    side: str
    """Where the scans are from."""
    scans: int
    samples: int
    tasks: tuple[TaskTable, ...] = ()

    def with_task(self, table: TaskTable, order: Sequence[str]) -> "TasksMeasured":
        """With another task, or the same one measured again, where `order` has it."""
        others = [one for one in self.tasks if one.task != table.task]
        tasks = sorted([*others, table], key=lambda one: order.index(one.task))
        return self.model_copy(update={"tasks": tuple(tasks)})

    def goes_on_from(self, other: "TasksMeasured") -> bool:
        """Whether what the other one holds was measured in the same way."""
        return self == other.model_copy(update={"tasks": self.tasks})


def tabulate(
    task: str,
    values: Sequence[Value],
    roles: Mapping[str, Role],
    goals: Sequence[Goal],
    bootstrap: Bootstrap,
    notes: Iterable[str] = (),
) -> TaskTable:
    """One line per setting, figure and method, in the order in which they came; `roles` by method."""
    groups: dict[tuple[str, str], dict[str, list[Value]]] = {}
    for value in values:
        groups.setdefault((value.setting, value.measure.name), {}).setdefault(value.method, []).append(value)
    lines = [_line(method, roles, bootstrap) for group in groups.values() for method in group.values()]
    compared = [one for group in groups.values() if (one := _compare(group, roles, bootstrap)) is not None]
    reached = [found for goal in goals if (found := _judge(goal, groups, roles)) is not None]
    return TaskTable(
        task=task, lines=tuple(lines), comparisons=tuple(compared), goals=tuple(reached), notes=tuple(notes)
    )


def _line(found: Sequence[Value], roles: Mapping[str, Role], bootstrap: Bootstrap) -> Line:
    first = found[0]
    resampled = _resampled(found, _draws(found, bootstrap))
    low, high = _bounds(resampled, bootstrap)
    return Line(
        setting=first.setting,
        measure=first.measure,
        method=first.method,
        role=roles[first.method],
        value=_rounded(_whole(found)),
        low=low,
        high=high,
        subjects=len(_by_subject(found)),
    )


def _compare(
    group: Mapping[str, Sequence[Value]], roles: Mapping[str, Role], bootstrap: Bootstrap
) -> Comparison | None:
    """None where there is no baseline, or no end of the figure is good."""
    own = [found for method, found in group.items() if roles[method] == "task"]
    others = {method: found for method, found in group.items() if roles[method] == "baseline"}
    if not own or not others or own[0][0].measure.better is None:
        return None
    measure, sign = own[0][0].measure, 1.0 if own[0][0].measure.better == "higher" else -1.0
    best = max(others, key=lambda method: sign * _whole(others[method]))
    draws = _draws(own[0], bootstrap)
    gains = sign * (_resampled(own[0], draws) - _resampled(others[best], draws))
    low, high = _bounds(gains, bootstrap)
    verdict: Verdict = "wins" if low > 0 else "loses" if high < 0 else "not told apart"
    return Comparison(
        setting=own[0][0].setting,
        measure=measure.name,
        baseline=best,
        gain=_rounded(sign * (_whole(own[0]) - _whole(others[best]))),
        low=low,
        high=high,
        verdict=verdict,
    )


def _judge(
    goal: Goal, groups: Mapping[tuple[str, str], Mapping[str, Sequence[Value]]], roles: Mapping[str, Role]
) -> Reached | None:
    """None where it was not measured."""
    group = groups.get((goal.setting, goal.measure), {})
    own = next((found for method, found in group.items() if roles[method] == "task"), None)
    if own is None or (goal.over is not None and goal.over not in group):
        return None
    value = _whole(own) - (0.0 if goal.over is None else _whole(group[goal.over]))
    return Reached(
        goal=goal, value=_rounded(value), reached=goal.least <= value and (goal.most is None or value <= goal.most)
    )


def _by_subject(found: Iterable[Value]) -> dict[int, list[tuple[float, ...]]]:
    rows: dict[int, list[tuple[float, ...]]] = {}
    for value in found:
        rows.setdefault(value.subject, []).append(value.values)
    return rows


def _whole(found: Sequence[Value]) -> float:
    return STATISTICS[found[0].measure.statistic](np.array([value.values for value in found], np.float64))


Draws = Sequence[Sequence[int]]
"""Subjects of each resample."""


def _draws(found: Sequence[Value], bootstrap: Bootstrap) -> Draws:
    subjects = sorted(_by_subject(found))
    random = np.random.default_rng(bootstrap.seed)
    chosen = random.integers(len(subjects), size=(bootstrap.repeats, len(subjects)))
    return [[subjects[place] for place in row] for row in chosen.tolist()]


def _resampled(found: Sequence[Value], draws: Draws) -> Matrix:
    """(repeats,) the statistic of resampled subjects, all values of a subject together."""
    rows = {subject: np.array(values, np.float64) for subject, values in _by_subject(found).items()}
    statistic = STATISTICS[found[0].measure.statistic]
    return np.array([statistic(np.concatenate([rows[subject] for subject in draw])) for draw in draws])


def _bounds(resampled: Matrix, bootstrap: Bootstrap) -> tuple[float, float]:
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return _rounded(low), _rounded(high)


def _rounded(value: float) -> float:
    return float(f"{float(value):.4g}")


def table_rows(table: TaskTable) -> list[tuple[str, ...]]:
    """Cells as text, one row a line of the table; the comparison stands in the row of the task itself."""
    compared = {(one.setting, one.measure): one for one in table.comparisons}
    rows: list[tuple[str, ...]] = []
    for line in table.lines:
        found = compared.get((line.setting, line.measure.name)) if line.role == "task" else None
        words = "" if found is None else f"{found.verdict}: {found.gain:+.3g} ({found.low:.3g} to {found.high:.3g})"
        method = line.method if line.role != "bound" else f"{line.method} (told the truth)"
        figures = (f"{line.value:.4g}", f"{line.low:.4g}", f"{line.high:.4g}", str(line.subjects))
        rows.append((table.task, line.setting, line.measure.name, method, *figures, words))
    return rows


def as_tsv(measured: TasksMeasured) -> str:
    """The table for a spreadsheet."""
    rows = [COLUMNS, *(row for table in measured.tasks for row in table_rows(table))]
    return "".join("\t".join(row) + "\n" for row in rows)


def as_markdown(measured: TasksMeasured) -> str:
    """The table for a reader: settings below each other, methods beside each other."""
    parts = [f"{measured.scans} scans of the {measured.side} side, {measured.samples} samples each, 95% intervals over "
             "subjects. **Bold**: the task. A bound was told the truth."]  # fmt: skip
    return "\n\n".join([*parts, *map(_markdown_of, measured.tasks)]) + "\n"


def _markdown_of(table: TaskTable) -> str:
    compared = {(one.setting, one.measure): one for one in table.comparisons}
    blocks = [f"## {table.task}"]
    methods = list(dict.fromkeys((line.method, line.role) for line in table.lines))
    headers = ["", *(_named(method, role) for method, role in methods), "against the best baseline"]
    body = [f"| {' | '.join(headers)} |", "|---|" + "---:|" * len(methods) + "---|"]
    for setting, measure in dict.fromkeys((line.setting, line.measure.name) for line in table.lines):
        here = {one.method: one for one in table.lines if (one.setting, one.measure.name) == (setting, measure)}
        cells = [_cell(here.get(method)) for method, _ in methods]
        found = compared.get((setting, measure))
        body.append(f"| {f'{setting}: ' if setting else ''}{measure} | {' | '.join(cells)} | {_words(found)} |")
    blocks.append("\n".join(body))
    goals = [
        f"- {'reached' if one.reached else '**not reached**'}: {one.goal.text} ({one.value:.3g})" for one in table.goals
    ]
    blocks += ["\n".join(goals)] if goals else []
    blocks += ["\n".join(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n\n".join(blocks)


def _named(method: str, role: Role) -> str:
    return f"**{method}**" if role == "task" else f"{method} (bound)" if role == "bound" else method


def _cell(line: Line | None) -> str:
    return "" if line is None else f"{line.value:.3g} [{line.low:.3g}, {line.high:.3g}]"


def _words(found: Comparison | None) -> str:
    if found is None:
        return ""
    verdict = f"**{found.verdict}**" if found.verdict == "loses" else found.verdict
    return f"{verdict} ({found.baseline}): {found.gain:+.3g} [{found.low:.3g}, {found.high:.3g}]"
