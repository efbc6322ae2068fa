"""Trained models to what their tasks are worth: each beside plain baselines, on the sealed holdout.

The audit opens the holdout too, after training. What is measured here may therefore choose nothing: no setting of a
task, no checkpoint, no threshold. Pictures show a patient and stay in the study; the table holds figures alone.
"""

from collections.abc import Sequence
from pathlib import Path

from meddiff_core.applications.measured.bench import MOST_SCANS, Bench, subjects_of
from meddiff_core.applications.measured.measure import NAMES, chosen, measure_task
from meddiff_core.applications.measured.table import TasksMeasured, as_markdown, as_tsv
from meddiff_core.artefacts import digest_file, write_json, write_text
from meddiff_core.data.dataset import Dataset
from meddiff_core.errors import ConfigurationError
from meddiff_core.stages.making import Made, Resources
from meddiff_core.stages.study_models import find_models
from meddiff_core.stages.task_pictures import plot_task
from meddiff_core.types import Message, Work
from meddiff_core.workspace import Workspace

JSON, TSV, MARKDOWN = "tasks.json", "tasks.tsv", "tasks.md"
FEWEST = 2
"""Scans of one subject each, without which there is no interval."""
FOR_BASELINES = 4
"""Validation scans on which free numbers of baselines are chosen."""
HOLDOUT = (
    "the holdout is opened, as the audit opens it: choose no setting, no checkpoint and no threshold by what comes out"
)


def measure_study(
    workspace: Workspace,
    resources: Resources,
    only: Sequence[str] = (),
    scans: int | None = None,
    samples: int = 4,
) -> Work[Made]:
    """Measure the tasks of a study, and write tasks.json, a table and a picture a task.

    Raises:
        ConfigurationError: the holdout has too few subjects, or `only` names no task.
    """
    bench = open_bench(workspace, resources.device, scans, samples)
    yield Message(HOLDOUT)
    measured, pictures = _begun(workspace.folder, bench), list[Path]()
    for measurement in chosen(only):
        table = yield from measure_task(bench, measurement)
        if table is not None:
            measured = measured.with_task(table, NAMES)
            _write(workspace.folder, measured)
            pictures += plot_task(workspace.folder / "figures", bench, table.task)
    losses = sum(len(table.losses) for table in measured.tasks)
    summary = {"tasks": len(measured.tasks), "scans": measured.scans, "losses": losses}
    path = workspace.folder / JSON
    if not measured.tasks:
        raise ConfigurationError("--only must name a task that this study can show, none of these can be measured")
    return Made(digest_file(path), summary, (path, *pictures))


def _begun(folder: Path, bench: Bench) -> TasksMeasured:
    """The table with the tasks that were measured before, on the same scans of the same models."""
    empty = TasksMeasured(models=bench.models.digest, side=bench.side, scans=len(bench.subjects), samples=bench.samples)
    try:
        before = read_tasks(folder)
    except (OSError, ValueError):
        return empty
    return before if empty.goes_on_from(before) else empty


def _write(folder: Path, measured: TasksMeasured) -> None:
    """After each task: what is measured stays, whatever stops the next one."""
    write_json(folder / JSON, measured)
    write_text(folder / TSV, as_tsv(measured))
    write_text(folder / MARKDOWN, as_markdown(measured))


def open_bench(workspace: Workspace, device: str, scans: int | None, samples: int) -> Bench:
    """Models, scans and room for baselines of a study."""
    models = find_models(workspace, device)
    dataset = Dataset.open(workspace.folder)
    if differences := dataset.contract.differences(models.contract):
        raise ConfigurationError(f"data set and models must share a contract; {'; '.join(differences)}")
    subjects = subjects_of(dataset, "holdout", MOST_SCANS if scans is None else scans)
    if len(subjects) < FEWEST:
        raise ConfigurationError(f"{FEWEST} subjects or more must be measured for an interval, are {len(subjects)}")
    validation = subjects_of(dataset, "validation", FOR_BASELINES)
    return Bench(models.calibration(), dataset, subjects, validation, samples, workspace.study.seed)


def read_tasks(folder: Path) -> TasksMeasured:
    """What was measured last in a study's folder."""
    return TasksMeasured.model_validate_json((folder / JSON).read_bytes())


def describe_tasks(study: Path) -> str:
    """The table that was written last, and where it lies."""
    folder = Workspace.open(study).folder
    places = {"tasks": JSON, "table": TSV, "to read": MARKDOWN, "pictures": "figures"}
    lines = [f"{name:<9}{folder / place}" for name, place in places.items()]
    return "\n".join([as_markdown(read_tasks(folder)), *lines])
