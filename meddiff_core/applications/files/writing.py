"""What a task leaves behind: a folder a scan, a table of all, and the sentence that all of it is patient data.

A folder appears whole or not at all, and says from what it was made: so a run goes on where it was stopped, a result
can be made again, and nobody takes it for a synthetic volume of a release.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from meddiff_core.applications.kinds import TaskKind
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.artefacts import alone, digest_file, digest_of, write_json, write_text, writing_folder
from meddiff_core.contract import Condition, Frozen
from meddiff_core.data.dataset import as_text
from meddiff_core.errors import ConfigurationError, IntegrityError

RESULT, PICTURE, TABLE, README = "result.json", "picture.png", "results.tsv", "README.txt"
MANIFEST = "manifest.json"
"""Of a release."""
MOST_BYTES = 2**24
"""Of a result.json."""
PATIENT_DATA = (
    "Made from the scan of a person by `meddiff apply`: this is patient data, as the scan is. It is no synthetic "
    "volume, may not be released, and no release takes it in."
)
README_TEXT = f"""{PATIENT_DATA}

Each folder holds the result for one scan: maps as NIfTI on the scan's own grid, a picture, and result.json with
models, seeds and settings. `meddiff apply regenerate FOLDER` makes them again. {TABLE} lists what was done and refused.
"""
Outcome = Literal["done", "refused"]
COLUMNS = ("case", "outcome", "reason", "notes")


class FileUsed(Frozen):
    """A file that a result was made from."""

    path: str
    sha256: str


class MapFile(Frozen):
    """A map of a result."""

    kind: str
    meaning: str
    sha256: str
    """Of the file."""
    voxels_sha256: str


class Result(Frozen):
    """One result, and all that is needed to make it again."""

    statement: str = PATIENT_DATA
    task: str
    case: str
    meddiff: str
    study: str
    """Folder of the study."""
    models: dict[str, str]
    """Digest of each checkpoint."""
    device: str
    settings: TaskSettings
    known: Condition
    """What was told of the subject."""
    subject: Condition = Field(default_factory=dict)
    """What the task was given of it: what was told, and what was measured on its label map."""
    force: bool
    channel: int | None
    files: dict[str, list[FileUsed]]
    """By what they are: scan, labels, foreground, mask."""
    scan: dict[str, Any] = Field(default_factory=dict)
    """Shape, spacing, orientation and the intensities that 0 and 1 stand for."""
    labels: dict[str, int]
    """Value of each structure in maps of labels."""
    figures: dict[str, float | None] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    maps: dict[str, MapFile] = Field(default_factory=dict)

    @property
    def made_from(self) -> str:
        """Digest of all that decides what the result is."""
        files = {name: [one.sha256 for one in used] for name, used in self.files.items()}
        return digest_of(
            {
                "task": self.task,
                "models": self.models,
                "device": self.device.partition(":")[0],
                "settings": self.settings.model_dump(mode="json"),
                "known": self.known,
                "force": self.force,
                "channel": self.channel,
                "files": files,
            }
        )


class Row(Frozen):
    """A line of the table."""

    case: str
    outcome: Outcome
    reason: str = ""
    notes: str = ""
    figures: dict[str, float | None] = Field(default_factory=dict)


def read_result(folder: Path) -> Result:
    """The result in a folder.

    Raises:
        ConfigurationError: there is none.
        IntegrityError: it cannot be read.
    """
    path = folder / RESULT
    if not path.is_file():
        raise ConfigurationError(f"{folder}: must be the folder of a result, has no {RESULT}")
    if path.stat().st_size > MOST_BYTES:
        raise IntegrityError(f"{path}: must have at most {MOST_BYTES} bytes, has {path.stat().st_size}")
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(
            f"{path}: must be what `meddiff apply` wrote, {error.error_count()} of its fields are not"
        ) from error


def is_current(folder: Path, wanted: str) -> Result | None:
    """The result in a folder if it was made from just this, and its files are whole."""
    try:
        found = read_result(folder)
    except (ConfigurationError, IntegrityError):
        return None
    files = {file_of(folder, name): one.sha256 for name, one in found.maps.items()}
    whole = all(path.is_file() and digest_file(path) == digest for path, digest in files.items())
    return found if found.made_from == wanted and whole else None


def file_of(folder: Path, name: str) -> Path:
    """The file of a map."""
    return folder / f"{name}.nii.gz"


def write_result(folder: Path, result: Result, images: Mapping[str, nib.Nifti1Image], picture: bytes | None) -> Result:
    """Write the folder of a case at once; gives the result with the digests of its files."""
    with writing_folder(folder) as partial:
        maps = {}
        for name, image in images.items():
            path = file_of(partial, name)
            nib.save(image, path)
            maps[name] = result.maps[name].model_copy(update={"sha256": digest_file(path)})
        if picture is not None:
            (partial / PICTURE).write_bytes(picture)
        written = result.model_copy(update={"maps": maps})
        write_json(partial / RESULT, written)
    return written


def voxels_digest(array: NDArray[Any]) -> str:
    """Of the values alone, whatever file holds them."""
    from meddiff_core.data.store import digest_volume

    return digest_volume(np.ascontiguousarray(array))


def check_output(output: Path, scans: Sequence[Path]) -> None:
    """Refuse a folder in which results would be taken for something else.

    Raises:
        ConfigurationError: it is not empty and holds no results, or lies among releases or the scans.
    """
    output = output.absolute()
    for above in (output, *output.parents):
        if (above / MANIFEST).is_file() or (above.name == "releases" and (above.parent / "study.yaml").is_file()):
            raise ConfigurationError(f"--output must not lie among releases, results are patient data: {above}")
    for scan in scans:
        if scan.is_dir() and output.resolve().is_relative_to(scan.resolve()):
            raise ConfigurationError(
                f"--output must not lie among the scans: results would be taken for scans, {output}"
            )
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"--output must be a folder, {output} is a file")
    if output.is_dir() and any(output.iterdir()) and not (output / README).is_file():
        raise ConfigurationError(f"--output must be new, empty or of results of `meddiff apply`, {output} is not")


def output_places(kind: TaskKind, output: Path) -> tuple[Path, Path]:
    """The folder of results, and the table.

    Raises:
        ConfigurationError: a table is wanted of a task that gives more.
    """
    if output.suffix.lower() != ".tsv":
        return output, output / TABLE
    if kind.name != "score":
        raise ConfigurationError(f"--output must be a folder for {kind.name}, is {output.name}")
    return output.with_suffix(""), output


def begin_output(output: Path) -> None:
    """Make the folder, with what it is in words."""
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / README, README_TEXT)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A row a scan; scans of earlier runs keep theirs."""
    with alone(path.with_name(f".{path.name}.lock")):
        names = list(dict.fromkeys(name for row in rows for name in row.figures))
        old_names, old = _old_rows(path)
        names += [name for name in old_names if name not in names]
        lines = {line["case"]: line for line in old}
        for row in rows:
            told = {"case": row.case, "outcome": row.outcome, "reason": row.reason, "notes": row.notes}
            figures = {name: "" if value is None else f"{value:.6g}" for name, value in row.figures.items()}
            lines[as_text(row.case)] = {key: _cell(value) for key, value in told.items()} | figures
        buffer = io.StringIO(newline="")
        table = csv.DictWriter(buffer, [*COLUMNS, *names], restval="", delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(lines[case] for case in sorted(lines))
        write_text(path, buffer.getvalue())


def _cell(text: str) -> str:
    return as_text(" ".join(text.split()))


def _old_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Rows of an earlier run; none where the table is not one that was written here."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return [], []
    reader = csv.DictReader(io.StringIO(path.read_text(errors="replace")), delimiter="\t")
    names = list(reader.fieldnames or ())
    if tuple(names[: len(COLUMNS)]) != COLUMNS:
        return [], []
    rows = [{str(key): str(value or "") for key, value in row.items() if key is not None} for row in reader]
    return names[len(COLUMNS) :], rows
