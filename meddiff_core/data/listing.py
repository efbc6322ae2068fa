"""Which files of a folder, a glob, a BIDS dataset or a table are scans, and what each is called.

Every file ends in one list: a scan, a side file that goes with scans, or a refusal with its reason. Entries
of a table and links cannot reach outside their folder.
"""

import glob
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from meddiff_core.data.dicom import DicomSeries, index_dicom, is_dicom
from meddiff_core.data.nifti import is_nifti, stem_of
from meddiff_core.data.tables import is_table, read_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig
from meddiff_core.types import Refusal

SIDE_SUFFIXES = (".json", ".bval", ".bvec", ".tsv", ".csv", ".md", ".rst", ".yaml", ".yml", ".license")
SIDE_NAMES = ("README", "LICENSE", "LICENCE", "CHANGES", "CITATION", "DICOMDIR")
CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "angio", "ct", "CT")
"""Suffixes of BIDS images, the preferred first."""
BIDS_ASIDE = ("derivatives", "sourcedata", "code", "stimuli")


@dataclass(frozen=True)
class Found:
    """A scan that was found, before it has a label map and covariates."""

    case: str
    image: Path
    name: str
    """Path relative to the folder that was searched, for messages."""
    subject: str | None = None
    """None: to be told from the case id and the participants table."""
    label: Path | None = None
    row: dict[str, str] = field(default_factory=dict)
    """Covariates of the scan's own row, where images is a table."""
    slices: tuple[Path, ...] = ()
    """All files of a DICOM series; `image` is the first of them."""
    kind: str = ""


@dataclass(frozen=True)
class Listing:
    """What a search gave."""

    found: tuple[Found, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[Refusal, ...] = ()
    participants: Path | None = None
    """The table that a BIDS dataset brings along."""


def find_images(config: DataConfig, base: Path) -> Listing:
    """Search what `data.images` names."""
    path = base / config.images
    if path.is_dir():
        return _list_bids(path) if _is_bids(path) else _list_folder(path, _labels_folder(config, base))
    if path.is_file() and is_table(path):
        return _list_table(path, has_labels=config.labels is not None)
    if path.is_file():
        return _list_files(path.parent, [path])
    if any(sign in config.images for sign in "*?["):
        return _list_glob(config.images, base)
    raise ConfigurationError(f"data.images: must exist, {path} does not")


def plain(text: str) -> str:
    """One spelling of an accented letter, whichever system wrote the name."""
    return unicodedata.normalize("NFC", text)


def _labels_folder(config: DataConfig, base: Path) -> Path | None:
    return (base / config.labels).resolve() if config.labels else None


def walk(root: Path, without: Path | None = None) -> tuple[list[Path], list[Refusal]]:
    """Files below a folder in order of their path, without hidden ones; links that leave it are refused."""
    files, refused = [], []
    home = root.resolve()
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        links = [name for name in inner if (here / name).is_symlink() and not name.startswith(".")]
        refused += [
            Refusal(_relative(here / name, root), "is a link to a folder, which is not followed") for name in links
        ]
        inner[:] = sorted(name for name in inner if not name.startswith(".") and (here / name).resolve() != without)
        for name in sorted(names):
            path = here / name
            if name.startswith("."):
                continue
            if reason := _unusable(path, home):
                refused.append(Refusal(_relative(path, root), reason))
            else:
                files.append(path)
    return files, refused


def _unusable(path: Path, home: Path) -> str | None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return "name must be UTF-8"
    if not path.resolve().is_relative_to(home):
        return "is a link that leaves the folder"
    return None if path.is_file() else "is not a file, or a link to nothing"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()


def _is_side_file(path: Path) -> bool:
    stem = path.name.split(".")[0].upper()
    return path.suffix.lower() in SIDE_SUFFIXES or any(
        stem == name or stem.startswith(f"{name}-") for name in SIDE_NAMES
    )


def _list_folder(root: Path, labels: Path | None) -> Listing:
    files, refused = walk(root, without=labels)
    listing = _list_files(root, files)
    return replace(listing, refused=(*refused, *listing.refused))


def _list_glob(pattern: str, base: Path) -> Listing:
    root = base
    for part in Path(pattern).parts:
        if any(sign in part for sign in "*?["):
            break
        root = root / part
    files: list[Path] = []
    refused: list[Refusal] = []
    for match in sorted(glob.glob(pattern, root_dir=base, recursive=True)):
        path = base / match
        if path.is_dir() and path.resolve().is_relative_to(root.resolve()):
            below, odd = walk(path)
            files, refused = files + below, refused + odd
        elif reason := _unusable(path, root.resolve()):
            refused.append(Refusal(_relative(path, root), reason))
        else:
            files.append(path)
    listing = _list_files(root, sorted(set(files)))
    return replace(listing, refused=(*refused, *listing.refused))


def _list_files(root: Path, files: Sequence[Path]) -> Listing:
    """NIfTI files and DICOM series among `files`; whatever else is no side file is refused."""
    images = [path for path in files if is_nifti(path)]
    others = [path for path in files if not is_nifti(path) and not _is_side_file(path)]
    slices = [path for path in others if is_dicom(path)]
    foreign = sorted(set(others) - set(slices))
    found = [Found(plain(stem_of(path)), path, _relative(path, root)) for path in images]
    index = index_dicom(slices, root)
    found += [_series(series) for series in index.series]
    odd = [Refusal(_relative(path, root), "is no image that can be read") for path in foreign]
    return Listing(tuple(found), (*odd, *index.refused), index.notes)


def _series(series: DicomSeries) -> Found:
    """The case is named by the folders of the series; the subject by its patient, else the topmost folder."""
    parts = series.name.split("/")
    subject = plain(series.patient or parts[0])
    return Found(plain("_".join(parts)), series.slices[0], series.name, subject, slices=series.slices, kind=series.kind)


def _is_bids(root: Path) -> bool:
    return any(path.is_dir() for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for path in root.glob(pattern))


def _list_bids(root: Path) -> Listing:
    files, refused = walk(root)
    own = [path for path in files if path.relative_to(root).parts[0] not in BIDS_ASIDE]
    images = [path for path in own if is_nifti(path)]
    contrast = _contrast([path for path in images if path.parent.name == "anat"])
    chosen = [path for path in images if path.parent.name == "anat" and _suffix(path) == contrast]
    notes = [
        Refusal(_relative(path, root), f"is left out: the study uses {contrast or 'anatomical'} images of the dataset")
        for path in images
        if path not in chosen
    ]
    found = [Found(plain(stem_of(path)), path, _relative(path, root), _bids_subject(path)) for path in chosen]
    foreign = [path for path in own if not is_nifti(path) and not _is_side_file(path)]
    refused += [Refusal(_relative(path, root), "is no image that can be read") for path in foreign]
    table = root / "participants.tsv"
    return Listing(tuple(found), tuple(refused), tuple(notes), table if table.is_file() else None)


def _suffix(path: Path) -> str:
    return stem_of(path).rsplit("_", 1)[-1]


def _contrast(images: Iterable[Path]) -> str | None:
    there = {_suffix(path) for path in images}
    return next((suffix for suffix in CONTRASTS if suffix in there), None)


def _bids_subject(path: Path) -> str:
    return plain(stem_of(path).split("_")[0])


def _list_table(table: Path, has_labels: bool) -> Listing:
    rows = read_table(table, "data.images")
    if missing := [name for name in ("subject", "image") if name not in rows.columns]:
        has = ", ".join(rows.columns)
        raise ConfigurationError(f"data.images: {table.name} must have the column {missing[0]}, has {has}")
    found, refused = [], []
    for number, cells in enumerate(rows.to_dict("records"), start=1):
        row = {str(name): str(cell) for name, cell in cells.items()}
        try:
            found.append(_table_row(table, row, "label" in rows.columns and not has_labels))
        except ValueError as error:
            refused.append(Refusal(row["image"] or f"row {number}", str(error)))
    return Listing(tuple(found), tuple(refused))


def _table_row(table: Path, row: dict[str, str], needs_label: bool) -> Found:
    if not row["subject"]:
        raise ValueError("table: subject must be given, is empty")
    image, subject = _confined(table, row["image"], "image"), plain(row["subject"])
    if needs_label and not row["label"]:
        raise ValueError("has no label map")
    label = _confined(table, row["label"], "label") if row.get("label") else None
    slices = _only_series(image) if image.is_dir() else ()
    stem = plain(stem_of(image))
    case = stem if stem.startswith(subject) else f"{subject}_{stem}"
    return Found(case, slices[0] if slices else image, row["image"], subject, label, row, slices)


def _only_series(folder: Path) -> tuple[Path, ...]:
    index = index_dicom([path for path in walk(folder)[0] if is_dicom(path)], folder)
    if len(index.series) != 1:
        raise ValueError(f"folder must hold one DICOM series, holds {len(index.series)}")
    return index.series[0].slices


def _confined(table: Path, entry: str, column: str) -> Path:
    """The file that a cell names, if it lies in the folder of the table."""
    if not entry:
        raise ValueError(f"table: {column} must be given, is empty")
    home = table.parent.resolve()
    path = table.parent / entry
    if Path(entry).is_absolute() or ".." in Path(entry).parts or not path.resolve().is_relative_to(home):
        raise ValueError(f"table: {column} must lie in the folder of the table, {entry!r} leaves it")
    if not path.exists():
        raise ValueError(f"table: {column} must exist, {entry!r} does not")
    if not path.is_dir() and not is_nifti(path):
        raise ValueError(f"table: {column} must be NIfTI or a folder of one DICOM series, is {entry!r}")
    return path


def without_twins(images: Sequence[Found]) -> tuple[list[Found], list[Refusal]]:
    """Refuse all images that give one case id: which of them is meant cannot be told."""
    by_case: dict[str, list[str]] = {}
    for found in images:
        by_case.setdefault(found.case, []).append(found.name)
    refused = [
        Refusal(
            name,
            f"two images claim the case id {case!r}: {', '.join(sorted(names))}; name them in a table (subject, image)",
        )
        for case, names in by_case.items()
        if len(names) > 1
        for name in names
    ]
    return [found for found in images if len(by_case[found.case]) == 1], refused
