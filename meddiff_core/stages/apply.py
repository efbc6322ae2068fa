"""A task of trained models on scans of patients: from files to results that lie over them.

One pure function a case, over the mapper; a case that was done is skipped, and one that is broken is a row of the table
and never stops the others. Everything written is patient data and says so.
"""

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from meddiff_core.applications.files.conforming import TakenIn, take_in
from meddiff_core.applications.files.intake import ScanFiles, find_scans, read_options
from meddiff_core.applications.files.known import read_contract
from meddiff_core.applications.files.kspace import is_kspace
from meddiff_core.applications.files.picture import plot_result
from meddiff_core.applications.files.placement import OwnGrid, as_nifti, place, refined
from meddiff_core.applications.files.writing import (
    README,
    TABLE,
    FileUsed,
    MapFile,
    Result,
    Row,
    begin_output,
    check_output,
    file_of,
    is_current,
    output_places,
    read_result,
    voxels_digest,
    write_result,
    write_table,
)
from meddiff_core.applications.kinds import TaskKind, kind_of
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.registry import TASKS
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.familiar import check_familiar
from meddiff_core.artefacts import digest_file
from meddiff_core.data.fingerprint import all_refused
from meddiff_core.data.nifti import is_volume
from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused, IntegrityError
from meddiff_core.stages.making import choose_device
from meddiff_core.stages.study_models import StudyModels, find_models
from meddiff_core.types import CaseRef, Mapper, Message, Progress, Refusal, Work, serial_map
from meddiff_core.workspace import Workspace

RESERVED = {README.lower(), TABLE.lower()}
UNSAFE = re.compile(r"[^\w.+=,@-]+|^\.+")
"""Not in the name of a folder: separators, spaces, and dots at the start."""
FAILURES = (ValueError, ArithmeticError, MemoryError, RuntimeError)
"""What a scan that nobody thought of may lead to."""


@dataclass(frozen=True)
class Job:
    """One scan, the task and where its result goes; small, so that it travels to other processes."""

    files: ScanFiles
    kind: TaskKind
    settings: TaskSettings
    force: bool
    models: StudyModels
    folder: Path
    """Of the result."""


@dataclass(frozen=True)
class Applied:
    """What was done, scan by scan."""

    rows: tuple[Row, ...]
    kept: int
    """Results that were there already, of just the same."""
    output: Path
    table: Path

    @property
    def done(self) -> int:
        """Scans with a result."""
        return sum(row.outcome == "done" for row in self.rows)


def apply_task(
    study: Path | str,
    task: str,
    scans: Sequence[str | Path],
    output: Path | str,
    options: Mapping[str, Any] | None = None,
    *,
    mapper: Mapper = serial_map,
    device: str | None = None,
) -> Work[Applied]:
    """Do a task on scans, and write a folder for each below `output`; run it again to go on where it stopped.

    `scans` are files, folders and patterns. `options` are those of the command by their names: `samples`, `labels`,
    `set` and so on, conditions as a dict. For `score`, `output` may be a table, `NAME.tsv`.

    Raises:
        ConfigurationError: an option or a place is wrong, or the study has no models.
        DataRefused: every scan was refused.
    """
    workspace, kind = Workspace.open(study), kind_of(task)
    contract = read_contract(workspace.path("autoencoder"))
    settings, beside = read_options(kind, options or {}, contract)
    folder, table = output_places(kind, Path(output).absolute())
    check_output(folder, [Path(place) for place in scans])
    found = find_scans(scans, beside, contract, settings.extrapolate)
    for note in found.notes:
        yield Message(note)
    models = find_models(workspace, choose_device(device or workspace.study.runtime.device))
    jobs = _jobs(found.scans, kind, settings, beside.force, models, folder)
    begin_output(folder)
    rows = [Row(case=one.case, outcome="refused", reason=one.reason) for one in found.refused]
    results = yield from _run_all(jobs, mapper)
    rows += [row for row, _ in results]
    rows.sort(key=lambda row: row.case)
    write_table(table, rows)
    for row in rows:
        if row.outcome == "refused":
            yield Message(f"{row.case}: refused: {row.reason}")
    if not any(row.outcome == "done" for row in rows):
        if len(rows) == 1:
            raise DataRefused(f"the scan was refused: {rows[0].reason}")
        raise DataRefused(all_refused([Refusal(row.case, row.reason) for row in rows]).replace("data:", "scans:", 1))
    return Applied(tuple(rows), sum(was_kept for _, was_kept in results), folder, table)


def _jobs(
    scans: Sequence[ScanFiles],
    kind: TaskKind,
    settings: TaskSettings,
    force: bool,
    models: StudyModels,
    folder: Path,
) -> list[Job]:
    jobs = []
    for files in scans:
        own = folder / folder_name(files.case.case)
        if own.is_dir() and (own / "result.json").is_file() and (task := _task_of(own)) not in (None, kind.name):
            raise ConfigurationError(f"--output holds results of {task}, {own.name} among them; give another folder")
        jobs.append(Job(files, kind, settings, force, models, own))
    if twice := len(jobs) - len({job.folder for job in jobs}):
        raise ConfigurationError(f"scans must have names that make different folders, {twice} do not; rename them")
    return jobs


def _task_of(folder: Path) -> str | None:
    try:
        return read_result(folder).task
    except (ConfigurationError, IntegrityError):
        return None


def folder_name(case: str) -> str:
    """A case's name as that of a folder, whatever a file was called."""
    name = UNSAFE.sub("_", case)[:120] or "_"
    return f"_{name}" if name.lower() in RESERVED else name


def _run_all(jobs: Sequence[Job], mapper: Mapper) -> Work[list[tuple[Row, bool]]]:
    """The first that can be done here, so that what is measured of the models once is measured once; the others over
    the mapper.
    """
    results: list[tuple[Row, bool]] = []
    while len(results) < len(jobs) and not any(row.outcome == "done" for row, _ in results):
        results.append((yield from _run(jobs[len(results)])))
    first = len(results)
    for number, (_, result) in enumerate(mapper(run_to_end, jobs[first:]), start=first + 1):
        results.append(result)
        yield Progress(f"{jobs[0].kind.name}: scans", number, len(jobs))
    return results


def run_to_end(job: Job) -> tuple[Row, bool]:
    """The same without a word on the way: what a mapper applies."""
    work = _run(job)
    while True:
        try:
            next(work)
        except StopIteration as end:
            row, was_kept = end.value
            return row, was_kept


def _run(job: Job) -> Work[tuple[Row, bool]]:
    """The row of a scan, and whether its result was there already; it is written if not."""
    case = job.files.case.case
    try:
        asked = _asked(job)
        if (found := is_current(job.folder, asked.made_from)) is not None:
            return _row(found), True
        made = yield from make_result(job)
        return _row(made.write(job.folder)), False
    except CaseRefused as refused:
        return Row(case=case, outcome="refused", reason=refused.reason), False
    except FAILURES as error:
        return Row(case=case, outcome="refused", reason=f"failed: {type(error).__name__}: {error}"), False


def _row(result: Result) -> Row:
    return Row(case=result.case, outcome="done", notes="; ".join(result.notes), figures=result.figures)


@dataclass(frozen=True)
class MadeResult:
    """A result that was not yet written."""

    result: Result
    own: OwnGrid
    outcome: Outcome
    placed: dict[str, NDArray[Any]]
    """RAS+."""

    def write(self, folder: Path) -> Result:
        """Write the folder of the case."""
        images = {name: as_nifti(array, self.own) for name, array in self.placed.items()}
        title = f"{self.result.task}   {self.result.case}"
        picture = plot_result(title, self.own, self.outcome.maps, self.placed)
        return write_result(folder, self.result, images, picture)


def make_result(job: Job) -> Work[MadeResult]:
    """Read a scan, do the task on it, and bring what it gives back onto the scan's grid.

    Raises:
        CaseRefused: the scan does not fit the models.
    """
    asked, contract = _asked(job), job.models.contract
    taken = take_in(job.files, job.kind, contract)
    calibration = job.models.calibration()
    case, models = job.files.case.case, calibration.models
    far = yield from check_familiar(case, models, taken.scan, calibration, job.kind, job.force)
    taken = replace(taken, notes=(*taken.notes, *far))
    outcome = yield from TASKS[job.kind.name](models, taken.scan, job.settings, calibration)
    own = taken.own if taken.scan.coarse is None else refined(taken.own, taken.scan.coarse)
    placed = {name: place(one, own, taken.scan.image, job.kind) for name, one in outcome.maps.items()}
    return MadeResult(_told(asked, taken, outcome, placed), own, outcome, placed)


def _told(asked: Result, taken: TakenIn, outcome: Outcome, placed: Mapping[str, NDArray[Any]]) -> Result:
    own = taken.own
    scan = {
        "shape": list(own.shape),
        "spacing_mm": [round(float(length), 6) for length in own.volume.spacing_mm],
        "orientation": own.orientation,
        "intensity_of_0": own.low,
        "intensity_of_1": own.high,
    }
    maps = {
        name: MapFile(kind=one.kind, meaning=one.meaning, sha256="", voxels_sha256=voxels_digest(placed[name]))
        for name, one in outcome.maps.items()
    }
    figures = {name: float(value) if math.isfinite(value) else None for name, value in outcome.figures.items()}
    known = taken.scan.condition or {}
    notes = (*taken.notes, *outcome.notes)
    return asked.model_copy(
        update={"scan": scan, "maps": maps, "figures": figures, "notes": notes, "subject": dict(known)}
    )


def _asked(job: Job) -> Result:
    """All of a result that is known before it is made.

    Raises:
        CaseRefused: a file is gone.
    """
    case = job.files.case
    try:
        files = {name: [_used(path) for path in paths] for name, paths in _paths(job.files).items()}
    except OSError as error:
        raise CaseRefused(case.case, f"a file is gone or cannot be read: {type(error).__name__}") from error
    return Result(
        task=job.kind.name,
        case=case.case,
        meddiff=_version(),
        study=str(job.models.folder),
        models=job.models.digests,
        device=job.models.device,
        settings=job.settings,
        known=dict(case.covariates),
        force=job.force,
        channel=case.channel,
        files=files,
        labels={name: value for value, name in enumerate(job.models.contract.labels, start=1)},
    )


def _paths(files: ScanFiles) -> dict[str, list[Path]]:
    found: dict[str, list[Path | None]] = {
        "scan": list(files.case.slices) or [files.case.image],
        "labels": [files.case.label],
        "foreground": [files.foreground],
        "mask": [files.mask],
    }
    return {name: kept for name, paths in found.items() if (kept := [path for path in paths if path is not None])}


def _used(path: Path) -> FileUsed:
    return FileUsed(path=str(path), sha256=digest_file(path))


def _version() -> str:
    try:
        return importlib.metadata.version("meddiff")
    except importlib.metadata.PackageNotFoundError:
        return "from a source tree"


@dataclass(frozen=True)
class Regenerated:
    """How a map that was made again compares with the one that lies there."""

    name: str
    share: float
    """Of voxels that differ."""
    largest: float

    def describe(self) -> str:
        """One line for a person."""
        if self.share == 0:
            return f"{self.name}: every voxel is the same"
        return f"{self.name}: {self.share:.2%} of voxels differ, by up to {self.largest:.4g}"


def regenerate_result(
    folder: Path, study: Path | None = None, device: str | None = None
) -> Work[tuple[Regenerated, ...]]:
    """Make the result in `folder` again from what its result.json names, and compare each map; writes nothing.

    Raises:
        ConfigurationError: it is no folder of a result, or its study is gone.
        IntegrityError: models or files are not those that it was made from, or a map was altered.
        CaseRefused: the scan cannot be read any more.
    """
    result = read_result(folder)
    workspace = Workspace.open(study or result.study)
    models = find_models(workspace, choose_device(device or workspace.study.runtime.device))
    if other := [name for name, digest in result.models.items() if models.digests.get(name) != digest]:
        raise IntegrityError(f"{', '.join(other)} must be what the result was made from, is another")
    job = Job(_files_of(result), kind_of(result.task), result.settings, result.force, models, folder)
    for name, used in _asked(job).files.items():
        if [one.sha256 for one in used] != [one.sha256 for one in result.files[name]]:
            raise IntegrityError(f"{name} must be the file that the result was made from, it has changed")
    made = yield from make_result(job)
    return tuple(_compare(folder, name, result, made) for name in result.maps)


def _files_of(result: Result) -> ScanFiles:
    paths = {name: [Path(one.path) for one in used] for name, used in result.files.items()}
    single = {name: found[0] for name, found in paths.items() if name != "scan"}
    single_file = is_volume(paths["scan"][0]) or is_kspace(paths["scan"][0])
    slices = () if single_file else tuple(paths["scan"])
    case = CaseRef(
        case=result.case,
        subject=result.case,
        image=paths["scan"][0],
        label=single.get("labels"),
        covariates=dict(result.known),
        slices=slices,
        channel=result.channel,
    )
    return ScanFiles(case, single.get("mask"), single.get("foreground"))


def _compare(folder: Path, name: str, result: Result, made: MadeResult) -> Regenerated:
    path = file_of(folder, name)
    if not path.is_file() or digest_file(path) != result.maps[name].sha256:
        raise IntegrityError(f"{path.name} must be as it was written, it is gone or altered")
    if name not in made.placed:
        return Regenerated(name, 1.0, math.inf)
    old = np.asarray(nib.Nifti1Image.from_filename(path).dataobj, np.float64)
    new = np.asarray(as_nifti(made.placed[name], made.own).dataobj, np.float64)
    if old.shape != new.shape:
        return Regenerated(name, 1.0, math.inf)
    apart = np.abs(old - new)
    return Regenerated(name, float((apart > 0).mean()), float(apart.max()))
