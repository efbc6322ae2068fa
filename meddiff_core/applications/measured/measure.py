"""All measurements of the tasks, in the order of the table."""

from collections.abc import Sequence

from meddiff_core.applications.measured import (
    counterfactuals,
    finding,
    inpainting,
    restoration,
    scoring,
    segmentation,
)
from meddiff_core.applications.measured.bench import Bench
from meddiff_core.applications.measured.counterfactuals import volume_conditions
from meddiff_core.applications.measured.measurement import Measurement
from meddiff_core.applications.measured.table import TaskTable, tabulate
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Message, Work

ALL: Sequence[Measurement] = (
    segmentation.MEASUREMENT,
    inpainting.MEASUREMENT,
    restoration.SUPER_RESOLVE,
    restoration.RECONSTRUCT,
    restoration.DENOISE,
    counterfactuals.MEASUREMENT,
    finding.MEASUREMENT,
    scoring.MEASUREMENT,
)
NAMES = tuple(one.task for one in ALL)


def chosen(only: Sequence[str]) -> list[Measurement]:
    """Those of some names, or all.

    Raises:
        ConfigurationError: a name that is none of them.
    """
    if unknown := [name for name in only if name not in NAMES]:
        raise ConfigurationError(f"--only must name some of {', '.join(NAMES)}, names {unknown[0]!r}")
    return [one for one in ALL if not only or one.task in only]


def measure_task(bench: Bench, measurement: Measurement) -> Work[TaskTable | None]:
    """A task beside its baselines; None where the study cannot show it, and it is said why."""
    if (why := _impossible(bench, measurement)) is not None:
        yield Message(f"{measurement.task}: not measured, {why}")
        return None
    values = yield from measurement.run(bench)
    goals = measurement.goals(bench) if callable(measurement.goals) else measurement.goals
    table = tabulate(measurement.task, values, measurement.roles, goals, bench.bootstrap(), measurement.notes)
    for comparison in table.losses:
        where = f"{comparison.setting}: " if comparison.setting else ""
        yield Message(f"{table.task} loses to {comparison.baseline} ({where}{comparison.measure})")
    return table


def _impossible(bench: Bench, measurement: Measurement) -> str | None:
    if measurement.needs_labels and not bench.contract.labels:
        return "the study has no label maps"
    if measurement.needs_volumes and not volume_conditions(bench):
        return "no condition of the study is the volume of a structure"
    return None
