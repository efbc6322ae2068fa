"""A table that names its images one by one, with their subjects, label maps and covariates.

Nothing is guessed: what the table says of a subject holds. Its entries cannot reach outside its folder, unless
links may be followed.
"""

from pathlib import Path

from meddiff_core.data.dicom import index_dicom, is_dicom
from meddiff_core.data.layouts.listing import FoundImage, Listing, plain
from meddiff_core.data.layouts.names import split_name
from meddiff_core.data.layouts.walking import NOT_FETCHED, unusable, walk
from meddiff_core.data.nifti import is_volume, stem_of
from meddiff_core.data.tables.covariates import read_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Refusal


def list_table(table: Path, has_labels: bool, follow_links: bool = False) -> Listing:
    """The scans that a table names; rows that cannot be used are refused.

    Raises:
        ConfigurationError: the table lacks the column subject or image.
    """
    rows = read_table(table, "data.images")
    if missing := [name for name in ("subject", "image") if name not in rows.columns]:
        has = ", ".join(rows.columns)
        raise ConfigurationError(f"data.images: {table.name} must have the column {missing[0]}, has {has}")
    needs_label = "label" in rows.columns and not has_labels
    found, refused = [], []
    for number, cells in enumerate(rows.to_dict("records"), start=1):
        row = {str(column): str(cell) for column, cell in cells.items()}
        try:
            found.append(_table_row(table, row, needs_label, follow_links))
        except ValueError as error:
            refused.append(Refusal(row["image"] or f"row {number}", str(error)))
    return Listing(tuple(found), tuple(refused), layout="table of images", sources=(table,))


def _table_row(table: Path, row: dict[str, str], needs_label: bool, follow_links: bool) -> FoundImage:
    if not row["subject"]:
        raise ValueError("table: subject must be given, is empty")
    image, subject = _confined(table, row["image"], "image", follow_links), plain(row["subject"])
    if needs_label and not row["label"]:
        raise ValueError("has no label map")
    label = _confined(table, row["label"], "label", follow_links) if row.get("label") else None
    slices = _series(image) if image.is_dir() else ()
    stem = plain(stem_of(image))
    return FoundImage(
        case=stem if stem.startswith(subject) else f"{subject}_{stem}",
        image=slices[0] if slices else image,
        name=row["image"],
        subject=subject,
        label=label,
        row=row,
        rule="column `subject` of the table of images",
        stem=stem,
        kind=split_name(stem).kind if not slices else "",
        slices=slices,
    )


def _confined(table: Path, entry: str, column: str, follow_links: bool) -> Path:
    """The file that a cell names, if it lies in the folder of the table."""
    if not entry:
        raise ValueError(f"table: {column} must be given, is empty")
    path = table.parent / entry
    inside = not Path(entry).is_absolute() and ".." not in Path(entry).parts
    if not inside or not (follow_links or path.resolve().is_relative_to(table.parent.resolve())):
        help_ = " by a link, which data.follow_links: true would allow" if inside else ""
        raise ValueError(f"table: {column} must lie in the folder of the table, {entry!r} leaves it{help_}")
    if not path.exists():
        fetched = NOT_FETCHED if path.is_symlink() and unusable(path, table.parent) == NOT_FETCHED else None
        raise ValueError(f"table: {column} {fetched}" if fetched else f"table: {column} must exist, {entry!r} does not")
    if not path.is_dir() and not is_volume(path):
        raise ValueError(f"table: {column} must be NIfTI or a folder of one DICOM series, is {entry!r}")
    return path


def _series(folder: Path) -> tuple[Path, ...]:
    """The slices of the one series in a folder."""
    index = index_dicom([path for path in walk(folder).files if is_dicom(path)], folder)
    if len(index.series) != 1:
        reason = f": {index.refused[0].reason}" if index.refused else ""
        raise ValueError(f"folder must hold one DICOM series, holds {len(index.series)}{reason}")
    return index.series[0].slices
