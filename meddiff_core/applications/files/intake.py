"""From what a person points at to a list of scans, each with the files that belong to it; no voxel is read.

Files, folders and patterns are understood as a study's are. Nothing is dropped in silence: each file that looks like
a scan becomes one or a refusal, and a scan that finds no mask of its own does not run without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from meddiff_core.applications.files.known import checked_conditions
from meddiff_core.applications.kinds import TaskKind
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.contract import Condition, ConditionSpec, Contract, Frozen
from meddiff_core.data.identity.case_ids import with_unique_ids
from meddiff_core.data.layouts.labels import give_labels, label_files
from meddiff_core.data.layouts.listing import FoundImage
from meddiff_core.data.layouts.search import find_images
from meddiff_core.data.layouts.walking import summarise
from meddiff_core.data.nifti import is_volume
from meddiff_core.data.tables.participants import (
    Participants,
    covariates_for,
    match_ids,
    read_participants,
    table_id,
)
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.study import DataConfig, advise
from meddiff_core.types import CaseRef, Refusal

KSPACE = ".npy"
SIGNS = "*?["


class Beside(Frozen):
    """What a person gives beside the scans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Path | None = None
    """Label map of the scan, or a folder of them."""
    foreground: Path | None = None
    """Mask of the subject, or a folder of them, where the models want the rest of a scan masked away."""
    mask: Path | None = None
    """Mask of what is to be filled, or a folder of them."""
    participants: Path | None = None
    """Table of what is known of the subjects."""
    known: Condition = Field(default_factory=dict)
    """What is known of every subject; goes before the table."""
    force: bool = False
    """Go on with a scan that the models take for one from elsewhere."""


@dataclass(frozen=True)
class ScanFiles:
    """One scan and what belongs to it."""

    case: CaseRef
    """With its label map, and what is known of its subject as covariates."""
    mask: Path | None = None
    foreground: Path | None = None


@dataclass(frozen=True)
class Found:
    """All scans that were pointed at."""

    scans: tuple[ScanFiles, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...]


def read_options(kind: TaskKind, given_options: Mapping[str, Any], contract: Contract) -> tuple[TaskSettings, Beside]:
    """Settings of a task from options by name, those of the command; conditions by name.

    Raises:
        ConfigurationError: an option that the task does not take, or a value that it cannot have.
    """
    given = {name: value for name, value in given_options.items() if value is not None}
    if unknown := [name for name in given if name not in kind.options]:
        near = advise(unknown[0], kind.options, "options")
        raise ConfigurationError(f"{kind.name}: takes no option {unknown[0]}; {near}")
    extrapolate = bool(given.get("extrapolate", False))
    for name in ("known", "set"):
        if name in given:
            given[name] = checked_conditions(given[name], contract.conditions, f"--{name}", extrapolate)
    if kind.name == "counterfactual" and not given.get("set"):
        raise ConfigurationError("counterfactual: --set must say what shall be otherwise, such as --set age=75")
    if kind.name == "inpaint" and not given.get("mask"):
        raise ConfigurationError("inpaint: --mask must be given: a mask of what is to be filled, or a folder of them")
    if kind.needs_labels and not contract.labels:
        raise ConfigurationError(f"{kind.name}: models must have been trained with label maps, these have none")
    beside = {name: given.pop(name) for name in Beside.model_fields if name in given}
    try:
        settings = TaskSettings.model_validate({kind.renamed.get(name, name): value for name, value in given.items()})
        return settings, Beside.model_validate(beside)
    except ValidationError as error:
        first = error.errors()[0]
        options = {setting: option for option, setting in kind.renamed.items()}
        name = options.get(str(first["loc"][0]), str(first["loc"][0]))
        raise ConfigurationError(f"{kind.name}: --{name}: {first['msg']}, is {first['input']!r}") from error


def find_scans(places: Sequence[str | Path], beside: Beside, contract: Contract, extrapolate: bool = False) -> Found:
    """Scans in files, folders and patterns, in the order of their names.

    Raises:
        ConfigurationError: a place or a file beside the scans does not exist, or could be meant in several ways.
        DataRefused: there is no scan.
    """
    images, refused, notes = _search(places)
    unique, twice = with_unique_ids(images)
    refused += twice
    files = [ScanFiles(_case(image)) for image in unique]
    by_case = {image.case: image for image in unique}
    for option in ("labels", "foreground", "mask"):
        path = getattr(beside, option)
        if path is not None:
            own, lacking, idle = _files_beside(f"--{option}", path, list(by_case.values()))
            refused += lacking
            notes += idle
            files = [_with(one, option, own[one.case.case]) for one in files if one.case.case in own]
    table = _table(beside.participants) if beside.participants else None
    described: list[ScanFiles] = []
    for one in files:
        try:
            known = _known(by_case[one.case.case], table, beside, contract.conditions, extrapolate)
            described.append(replace(one, case=replace(one.case, covariates=dict(known))))
        except (ConfigurationError, ValueError) as error:
            refused.append(Refusal(one.case.case, str(error)))
    if table is not None and not any(one.case.covariates for one in described):
        notes.append(f"{table.path.name if table.path else 'the table'} has no row of a scan")
    described.sort(key=lambda one: one.case.case)
    return Found(tuple(described), tuple(refused), tuple(notes))


def _search(places: Sequence[str | Path]) -> tuple[list[FoundImage], list[Refusal], list[str]]:
    images: list[FoundImage] = []
    refused: list[Refusal] = []
    notes: list[str] = []
    for place in map(str, places):
        if paths := _kspace_files(place):
            images += [FoundImage(path.stem, path, path.name, stem=path.stem) for path in paths]
            continue
        try:
            listing = find_images(DataConfig(images=str(Path(place).absolute())), Path("/"))
        except ConfigurationError as error:
            raise ConfigurationError(str(error).replace("data.images", "scan")) from error
        said = [one.reason for one in listing.notes] + ([summarise(listing.unread)] if listing.unread else [])
        usual = [image for image in listing.found if not image.reserve]
        if not usual and not listing.refused:
            raise DataRefused(f"{place}: no scan{f'; found: {_plain(said)}' if said else _why_none(Path(place))}")
        _check_one_kind(place, usual)
        images += usual
        refused += listing.refused
        notes += [f"{place}: {_plain([text])}" for text in said]
    return images, refused, notes


def _plain(said: Sequence[str]) -> str:
    return "; ".join(said).replace("data.labels names a folder of label maps to use", "--labels takes label maps")


def _why_none(place: Path) -> str:
    """A label map is none by its name; whatever else is not a volume, by its content."""
    if place.is_file() and is_volume(place):
        return ": by its name it is a label map or a mask; rename it if it is none"
    return ", looked for .nii, .nii.gz, .mgz and DICOM"


def _check_one_kind(place: str, images: Sequence[FoundImage]) -> None:
    """Contrasts that a layout or DICOM tells apart are not mixed: the models know one."""
    kinds = sorted({image.kind for image in images if image.kind})
    if len(kinds) > 1:
        listed = ", ".join(kinds[:6])
        raise ConfigurationError(
            f"{place}: images are of {len(kinds)} kinds ({listed}); name those to use by a pattern"
        )


def _kspace_files(place: str) -> list[Path]:
    if not place.endswith(KSPACE):
        return []
    path = Path(place)
    if path.is_file():
        return [path]
    root = Path(path.anchor) if path.is_absolute() else Path()
    found = sorted(root.glob(str(path.relative_to(path.anchor)))) if any(sign in place for sign in SIGNS) else []
    if not found:
        raise ConfigurationError(f"scan: must exist, {place} does not")
    return found


def _case(image: FoundImage) -> CaseRef:
    return CaseRef(
        case=image.case,
        subject=image.subject or image.case,
        image=image.image.absolute(),
        label=image.label,
        slices=tuple(path.absolute() for path in image.slices),
        kind=image.kind or "",
        channel=image.channel,
    )


def _with(files: ScanFiles, option: str, path: Path) -> ScanFiles:
    path = path.absolute()
    if option == "labels":
        return replace(files, case=replace(files.case, label=path))
    return replace(files, mask=path) if option == "mask" else replace(files, foreground=path)


def _files_beside(
    option: str, path: Path, images: Sequence[FoundImage]
) -> tuple[dict[str, Path], list[Refusal], list[str]]:
    """A file by case: the one that was given, or those of a folder by their names."""
    if path.is_file():
        if len(images) > 1:
            raise ConfigurationError(f"{option} must be a folder where there are {len(images)} scans, is a file")
        return {image.case: path for image in images}, [], []
    if not path.is_dir():
        raise ConfigurationError(f"{option} must exist, {path} does not")
    paths, _ = label_files(path, images)
    matched, refused, idle = give_labels([replace(image, label=None) for image in images], paths, path)
    lacking = [Refusal(one.case, f"{option}: {one.reason.replace('label map', 'file')}") for one in refused]
    notes = [f"{option}: {len(idle)} files belong to no scan"] if idle else []
    return {image.case: image.label for image in matched if image.label}, lacking, notes


def _table(path: Path) -> Participants:
    try:
        return read_participants(path)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("data.participants", "--participants")) from error


def _known(
    image: FoundImage, table: Participants | None, beside: Beside, specs: Sequence[ConditionSpec], extrapolate: bool
) -> Condition:
    """What is known of a subject: by the options, and else by the table."""
    found: Condition = {}
    columns = set() if table is None else set(table.columns)
    kinds = {spec.name: spec.kind for spec in specs if spec.name in columns}
    if table is not None and (row := table_id(image.stem or image.case, image.subject, table)):
        whose = replace(table, matches={**match_ids([row], [str(image.subject)]), str(image.subject): row})
        found = covariates_for(image, whose, kinds, declared=True)
    return checked_conditions({**found, **beside.known}, specs, "what is known of the subject", extrapolate)
