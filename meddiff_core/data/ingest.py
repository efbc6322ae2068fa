"""From what the study names to a sorted list of cases, and from a case to its voxels.

Nothing is dropped in silence: each image that is found becomes a case or a refusal with its reason, and each
row or label map that belongs to none becomes a note. Voxels are read only when a case is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os.path import relpath
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.contract import ConditionValue
from meddiff_core.data.dicom import read_series
from meddiff_core.data.identity.case_ids import with_unique_ids
from meddiff_core.data.identity.kinds import CONDITION, UNNAMED, Chosen, KindOfImage, choose_kinds
from meddiff_core.data.identity.subjects import (
    SubjectRule,
    assign_subjects,
    exclude_subjects,
    join_subjects,
    rules_used,
)
from meddiff_core.data.layouts.labels import give_labels, label_files
from meddiff_core.data.layouts.listing import FoundImage, Listing
from meddiff_core.data.layouts.search import find_images
from meddiff_core.data.layouts.walking import counted, grouped, summarise
from meddiff_core.data.nifti import LabelMap, read_label, read_nifti
from meddiff_core.data.scan import Scan
from meddiff_core.data.tables.covariates import covariate_kinds, ignored_columns, table_questions
from meddiff_core.data.tables.participants import (
    Participants,
    covariates_for,
    match_rows,
    read_participants,
    table_id,
    table_of,
    unmatched,
)
from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, Note, Question, Refusal, Volume

Entry = TypeVar("Entry", Note, Refusal)
LOOKED_FOR = ".nii, .nii.gz, .mgz, DICOM series, BIDS anat images"


@dataclass(frozen=True)
class Inventory:
    """What was found, before any voxel is read."""

    cases: tuple[CaseRef, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[Note, ...]
    kinds: dict[str, str] = field(default_factory=dict)
    """Kind per covariate: continuous, categorical, or `volume of GROUP`."""
    listing: tuple[tuple[str, int, int], ...] = ()
    """Path relative to the study, size and modification time of every file used."""
    questions: tuple[Question, ...] = ()
    """What a person must settle before anything is made; until then `cases` holds all that is open."""
    layout: str = ""
    """What the images were understood as: BIDS, nnU-Net, a flat folder, ..."""
    subject_rules: tuple[SubjectRule, ...] = ()
    """How the cases got their subjects."""
    image_kinds: tuple[KindOfImage, ...] = ()
    """Contrasts, channels and the like that were found, also those that are not used."""
    label_groups: dict[str, list[int]] = field(default_factory=dict)
    """Names of label values that the data set brings along."""
    label_folder: Path | None = None
    """Where the label maps lie that it brings along."""
    names: tuple[str, ...] = ()
    """Every name of a subject: as scans have it, as the table has it, and those that `data.same_subject` joined."""


@dataclass(frozen=True)
class _Described:
    """Cases with their covariates, and what the tables left over."""

    cases: tuple[CaseRef, ...]
    kinds: dict[str, str]
    refused: Sequence[Refusal]
    notes: Sequence[Note]
    questions: Sequence[Question]


def listing_digest(inventory: Inventory) -> str:
    """Digest of the files' paths, sizes and times, and of what was refused; no content is read."""
    said: list[Refusal | Note] = [*inventory.refused, *inventory.notes]
    reasons = [[one.case, one.reason] for one in said]
    return digest_of({"files": inventory.listing, "reasons": reasons})


def require_answers(inventory: Inventory) -> None:
    """Stop where a folder leaves something open.

    Raises:
        ConfigurationError: there are questions; it lists them all, with the settings that answer them.
    """
    if inventory.questions:
        lines = "\n".join(f"  {question.key}: {question.text}" for question in inventory.questions)
        what = counted(len(inventory.questions), "question")
        raise ConfigurationError(f"{what} must be answered in study.yaml before anything is made:\n{lines}")


def discover(config: DataConfig, base: Path) -> Inventory:
    """Find every case of a study; paths of the configuration are relative to `base`.

    Raises:
        ConfigurationError: a path, column, kind or subject that the study names does not exist.
        DataRefused: nothing that could be a scan was found.
    """
    listing = find_images(config, base)
    _check_found(listing, base / config.images, base / config.labels if config.labels else None)
    named = base / config.participants if config.participants else None
    table = read_participants(named or listing.participants, config.missing)
    assigned = assign_subjects(listing.found, config.subject, partial(table_id, participants=table))
    images, excluded = exclude_subjects(join_subjects(assigned.found, config.same_subject, base), config.exclude)
    wanted = config.kinds if listing.chosen_kind is None else [listing.chosen_kind, *(config.kinds or [])]
    chosen = choose_kinds(images, wanted, listing.kinds_key)
    unique, duplicates = with_unique_ids(chosen.found)
    labelled, unlabelled, unused = _with_labels(config, base, unique, listing)
    described = _describe(config, table, labelled, chosen)
    refused = [
        *listing.refused,
        *grouped(listing.unread),
        *assigned.refused,
        *excluded,
        *duplicates,
        *unlabelled,
        *described.refused,
    ]
    tables = [*listing.sources, *([table.path] if table.path else []), *_table_of_subjects(config, base)]
    return Inventory(
        cases=described.cases,
        refused=_in_order(refused),
        notes=_in_order([*listing.notes, *assigned.notes, *chosen.notes, *unused, *described.notes]),
        kinds=described.kinds,
        listing=_stat_files(described.cases, tables, base),
        questions=(*listing.questions, *assigned.questions, *chosen.questions, *described.questions),
        layout=listing.layout,
        subject_rules=rules_used(chosen.found),
        image_kinds=chosen.kinds,
        label_groups=listing.label_groups,
        label_folder=listing.labels[0].parent if listing.labels else None,
        names=tuple(sorted({name for image in assigned.found for name in (image.subject, image.participant) if name})),
    )


def _check_found(listing: Listing, source: Path, labels: Path | None) -> None:
    if not listing.found and not listing.refused:
        inside = labels is not None and labels.resolve().is_relative_to(source.resolve())
        apart = [f"{labels}, which data.labels names and where no scans are looked for"] if inside else []
        instead = "; ".join([*([summarise(listing.unread)] if listing.unread else []), *_first(listing.notes), *apart])
        raise DataRefused(
            f"data.images: no scans in {source}, looked for {LOOKED_FOR}" + (f"; found {instead}" if instead else "")
        )


def _first(notes: Sequence[Note]) -> list[str]:
    return [note.reason for note in notes[:3]]


def _in_order(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.case, entry.reason)))


def _table_of_subjects(config: DataConfig, base: Path) -> list[Path]:
    return [base / config.same_subject] if isinstance(config.same_subject, str) else []


def _with_labels(
    config: DataConfig, base: Path, found: list[FoundImage], listing: Listing
) -> tuple[list[FoundImage], list[Refusal], list[Note]]:
    if config.labels is None and listing.labels is None:
        if config.mask == "label" and found and not any(image.label for image in found):
            raise ConfigurationError("data.mask: label needs label maps, the table of images has no column label")
        return found, [], []
    own = [image for image in found if image.label]
    open_ = [image for image in found if not image.label]
    folder = base / (config.labels or config.images)
    labels, links = (listing.labels, []) if listing.labels else label_files(folder, listing.found, config.follow_links)
    matched, refused, notes = give_labels(open_, labels, folder)
    return own + matched, refused, [*links, *notes]


def _describe(
    config: DataConfig, participants: Participants, found: Sequence[FoundImage], chosen: Chosen
) -> _Described:
    """Give each scan what the tables say of it, and the condition that several kinds of image become."""
    rows = [_as_participant(image) for image in found]
    participants = match_rows(participants, rows, config)
    table = table_of(rows, participants)
    own = _without_condition(config, table) if chosen.several else config
    kinds = covariate_kinds(own, table)
    cases, misfits = _cases(found, participants, kinds, declared=own.covariates is not None)
    if chosen.several:
        kinds, cases = kinds | {CONDITION: "categorical"}, [_with_kind(case) for case in cases]
    rows_unused = unmatched(participants, [_as_participant(image) for image in chosen.found])
    return _Described(
        cases=tuple(sorted(cases, key=lambda case: case.case)),
        kinds=kinds,
        refused=misfits,
        notes=[*participants.notes, *ignored_columns(own, table), *rows_unused],
        questions=table_questions(own, table),
    )


def _as_participant(image: FoundImage) -> FoundImage:
    """A scan under the name that the participants table may know its subject by."""
    return image if image.participant is None else replace(image, subject=image.participant)


def _without_condition(config: DataConfig, table: pd.DataFrame) -> DataConfig:
    """Settings for the table alone, where several kinds of image become a condition of their own.

    Raises:
        ConfigurationError: the table has a column of the condition's name.
    """
    if CONDITION in table.columns:
        raise ConfigurationError(
            f"data.kinds: several kinds become the condition `{CONDITION}`, which is a column of the table already; "
            "give the column another name"
        )
    if config.covariates is None:
        return config
    others = {name: kind for name, kind in config.covariates.items() if name != CONDITION}
    return config.model_copy(update={"covariates": others})


def _cases(
    found: Sequence[FoundImage], participants: Participants, kinds: Mapping[str, str], declared: bool
) -> tuple[list[CaseRef], list[Refusal]]:
    cases, refused = [], []
    for image in found:
        try:
            values = covariates_for(_as_participant(image), participants, kinds, declared)
        except ValueError as error:
            refused.append(Refusal(image.case, str(error)))
        else:
            cases.append(_case(image, values))
    return cases, refused


def _case(image: FoundImage, covariates: dict[str, ConditionValue]) -> CaseRef:
    return CaseRef(
        case=image.case,
        subject=str(image.subject),
        image=image.image,
        label=image.label,
        covariates=covariates,
        slices=image.slices,
        kind=image.kind or "",
        channel=image.channel,
    )


def _with_kind(case: CaseRef) -> CaseRef:
    return replace(case, covariates=case.covariates | {CONDITION: case.kind or UNNAMED})


def _stat_files(cases: Sequence[CaseRef], tables: Sequence[Path], base: Path) -> tuple[tuple[str, int, int], ...]:
    files = {*tables, *(path for case in cases for path in _files_of(case))}
    stats = [(Path(relpath(path, base)).as_posix(), path.stat()) for path in files]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def _files_of(case: CaseRef) -> list[Path]:
    return [*(case.slices or [case.image]), *([case.label] if case.label else [])]


def digest_case(case: CaseRef) -> tuple[str, str | None]:
    """Digests of a case's image and label map; CaseRefused where a file is gone."""
    try:
        return _digest_image(case), digest_file(case.label) if case.label else None
    except OSError as error:
        raise CaseRefused(case.case, f"image or label map is gone: {type(error).__name__}") from error


def _digest_image(case: CaseRef) -> str:
    """SHA-256 of a file, with its channel if one is read, or of the digests of a series' files in any order."""
    if case.slices:
        return digest_of(sorted(digest_file(path) for path in case.slices))
    digest = digest_file(case.image)
    return digest if case.channel is None else digest_of([digest, case.channel])


def read_scan(case: CaseRef) -> Scan:
    """A case's image and what its file said; CaseRefused where it cannot be used."""
    try:
        if case.slices:
            return read_series(case.case, case.slices)
        return read_nifti(case.case, case.image, case.channel)
    except CaseRefused:
        raise
    except Exception as error:  # a file made to break readers must not stop the other cases
        raise CaseRefused(case.case, f"image cannot be read: {type(error).__name__}: {error}") from error


def load_image(case: CaseRef) -> Volume:
    """A case's image, RAS+; CaseRefused where it cannot be used."""
    return read_scan(case).volume


def load_label(case: CaseRef, image: Volume) -> NDArray[np.int32]:
    """Values of a case's label map on the grid of `image`, RAS+; CaseRefused where it cannot be used."""
    return load_label_map(case, image).values


def load_label_map(case: CaseRef, image: Volume) -> LabelMap:
    """A case's label map and what was repaired in it; CaseRefused where it cannot be used."""
    if case.label is None:
        raise CaseRefused(case.case, "has no label map")
    try:
        return read_label(case.case, case.label, image)
    except CaseRefused:
        raise
    except Exception as error:  # as above
        raise CaseRefused(case.case, f"label map cannot be read: {type(error).__name__}: {error}") from error
