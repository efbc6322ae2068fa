"""From what the study names to a sorted list of cases, and from a case to its voxels.

Nothing is dropped in silence: each image that is found becomes a case or a refusal with its reason, and each
row or label map that belongs to none becomes a note. Voxels are read only when a case is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import relpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.data.dicom import files_of_series, read_series
from meddiff_core.data.labels import give_labels, label_files, longest_name_of
from meddiff_core.data.listing import Found, find_images, without_twins
from meddiff_core.data.nifti import LabelMap, is_nifti, read_label, read_nifti
from meddiff_core.data.participants import Participants, covariates_for, read_participants, table_of, unmatched
from meddiff_core.data.scan import Scan
from meddiff_core.data.tables import covariate_kinds, ignored_columns
from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, Refusal, Volume

LOOKED_FOR = ".nii, .nii.gz, DICOM series, BIDS anat images"


@dataclass(frozen=True)
class Inventory:
    """What was found, before any voxel is read."""

    cases: tuple[CaseRef, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[Refusal, ...]
    kinds: dict[str, str] = field(default_factory=dict)
    """Kind per covariate: continuous, categorical, or `volume of GROUP`."""
    listing: tuple[tuple[str, int, int], ...] = ()
    """Path relative to the study, size and modification time of every file used."""


def listing_digest(inventory: Inventory) -> str:
    """Digest of the files' paths, sizes and times, and of what was refused; no content is read."""
    odd = [[refusal.case, refusal.reason] for refusal in (*inventory.refused, *inventory.notes)]
    return digest_of({"files": inventory.listing, "odd": odd})


def discover(config: DataConfig, base: Path) -> Inventory:
    """Find every case of a study; paths of the configuration are relative to `base`.

    Raises:
        ConfigurationError: a path or column that the study names does not exist.
        DataRefused: nothing that could be a scan was found.
    """
    listing = find_images(config, base)
    source = base / config.images
    if not listing.found and not (source.is_file() and listing.refused):
        others = f"; found {len(listing.refused)} other files" if listing.refused else ""
        raise DataRefused(f"data.images: no scans in {source}, looked for {LOOKED_FOR}{others}")
    named = base / config.participants if config.participants else None
    participants = read_participants(named or listing.participants)
    images = _with_subjects(listing.found, participants)
    unique, twins = without_twins(images)
    found, unlabelled, notes = _with_labels(config, base, unique)
    table = table_of(found, participants)
    kinds = covariate_kinds(config, table)
    cases, misfits = _cases(found, participants, kinds)
    tables = [path for path in (source, participants.path) if path is not None and path.is_file()]
    return Inventory(
        cases=tuple(sorted(cases, key=lambda case: case.case)),
        refused=_in_order([*listing.refused, *twins, *unlabelled, *misfits]),
        notes=_in_order([*listing.notes, *notes, *ignored_columns(config, table), *unmatched(participants, images)]),
        kinds=kinds,
        listing=_stat_files(cases, tables, base),
    )


def _in_order(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
    return tuple(sorted(refusals, key=lambda refusal: (refusal.case, refusal.reason)))


def _with_subjects(found: Sequence[Found], participants: Participants) -> list[Found]:
    known = [subject for subject in participants.rows if subject]
    return [replace(image, subject=_subject(image, known)) for image in found]


def _subject(image: Found, known: Sequence[str]) -> str:
    """Of the table or BIDS; else the longest known id that the name begins with; else all up to the first `_`."""
    if image.row or (image.subject or "").startswith("sub-"):
        return str(image.subject)
    return longest_name_of(known, image.case) or image.subject or image.case.split("_")[0]


def _with_labels(
    config: DataConfig, base: Path, found: list[Found]
) -> tuple[list[Found], list[Refusal], list[Refusal]]:
    if config.labels is None:
        if config.mask == "label" and found and not any(image.label for image in found):
            raise ConfigurationError("data.mask: label needs label maps, the table of images has no column label")
        return found, [], []
    own = [image for image in found if image.label]
    open_ = [image for image in found if not image.label]
    labels = label_files(base / config.labels, found)
    matched, refused, notes = give_labels(open_, [str(image.subject) for image in open_], labels)
    return own + matched, refused, notes


def _cases(
    found: Sequence[Found], participants: Participants, kinds: Mapping[str, str]
) -> tuple[list[CaseRef], list[Refusal]]:
    cases, refused = [], []
    for image in found:
        try:
            values = covariates_for(image, participants, kinds)
            cases.append(CaseRef(image.case, str(image.subject), image.image, image.label, values))
        except ValueError as error:
            refused.append(Refusal(image.case, str(error)))
    return cases, refused


def _stat_files(cases: Sequence[CaseRef], tables: Sequence[Path], base: Path) -> tuple[tuple[str, int, int], ...]:
    files = {*tables, *(path for case in cases for path in _files_of(case))}
    stats = [(Path(relpath(path, base)).as_posix(), path.stat()) for path in files]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def _files_of(case: CaseRef) -> list[Path]:
    return [*scan_files(case.image), *([case.label] if case.label else [])]


def scan_files(image: Path) -> list[Path]:
    """The files that hold one image: itself, or the slices of its series."""
    return [image] if is_nifti(image) else files_of_series(image)


def digest_scan(image: Path) -> str:
    """SHA-256 of a file, or of the digests of a series' files, whatever their names."""
    files = scan_files(image)
    return digest_file(image) if is_nifti(image) else digest_of(sorted(digest_file(path) for path in files))


def digest_case(case: CaseRef) -> tuple[str, str | None]:
    """Digests of a case's image and label map; CaseRefused where a file is gone."""
    try:
        return digest_scan(case.image), digest_scan(case.label) if case.label else None
    except (OSError, StopIteration) as error:
        raise CaseRefused(case.case, f"image or label map is gone: {type(error).__name__}") from error


def read_scan(case: CaseRef) -> Scan:
    """A case's image and what its file said; CaseRefused where it cannot be used."""
    try:
        return read_nifti(case.case, case.image) if is_nifti(case.image) else read_series(case.case, case.image)
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
