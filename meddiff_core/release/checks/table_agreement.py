"""Every copy of a table's values must be the same: parquet, tsv, the columns in the store, and what is said of them.

Whoever changes one copy of a fact and hashes the release again is found here; so is a writer that lost a row.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numcodecs.vlen import VLenUTF8

from meddiff_core.data.frames import decompress
from meddiff_core.errors import IntegrityError
from meddiff_core.objects.location import Location
from meddiff_core.release.array_names import array_names
from meddiff_core.release.bounded import describe_error, read_bounded, read_object
from meddiff_core.release.checks.layout import Layout
from meddiff_core.release.checks.parquet_bounds import LONGEST_CELL, ROOM
from meddiff_core.release.manifest import Manifest
from meddiff_core.release.ome import AXES, COHORT, affine_of
from meddiff_core.release.participants_table import IDENTIFIER, TABLE, TEXT, as_tsv

MISSING = "n/a"
TRUTHS = {True: "true", False: "false"}
SIDECAR, CROISSANT = "participants.json", "croissant.json"


def check_tables(folder: Location, table: pd.DataFrame) -> Iterator[str]:
    """Whether the table as text is the one in parquet, and each column is explained."""
    text = _read_text(folder / TEXT, len(table))
    if len(text) != len(table):
        yield f"{TEXT}: must have {len(table)} rows, has {len(text)}"
        return
    if list(table.columns) != list(text.columns) or IDENTIFIER not in table:
        yield f"{TEXT}: must have the columns of {TABLE}, {IDENTIFIER} among them"
        return
    if not table[IDENTIFIER].is_unique:
        yield f"{TABLE}: {IDENTIFIER} must be another in each row"
    again = _parse(as_tsv(table).encode())
    for name in table.columns:
        if (row := _first_unlike(table[name], again[name], text[name])) is not None:
            what = "" if name == IDENTIFIER else f", in row {row} it is not"
            yield f"{TEXT}: {name} must be that of {TABLE}{what}"
    if list(read_object(folder / SIDECAR)) != list(table.columns):
        yield f"{SIDECAR}: must explain the columns of {TABLE}, explains others"


def check_croissant(folder: Location, manifest: Manifest) -> Iterator[str]:
    """Whether the digests that the catalogue's metadata repeat are those of the manifest."""
    listed = read_object(folder / CROISSANT).get("distribution")
    for one in listed if isinstance(listed, list) else []:
        entry = manifest.files.get(str(one.get("contentUrl"))) if isinstance(one, dict) else None
        if entry and one.get("sha256", entry.sha256) != entry.sha256:
            yield f"{CROISSANT}: the digest of {one['contentUrl']} must be that of the manifest, is another"


def _read_text(path: Location, rows: int) -> pd.DataFrame:
    return _parse(read_bounded(path, ROOM + rows * LONGEST_CELL))


def _parse(raw: bytes) -> pd.DataFrame:
    """Cells as text. pandas would take a cell too many in each row for an index, and pass over empty lines.

    Raises:
        IntegrityError: a line has another number of cells than the first.
    """
    try:
        head, *rows = csv.reader(io.StringIO(raw.decode(), newline=""), delimiter="\t", strict=True)
    except (csv.Error, ValueError) as error:
        raise IntegrityError(f"{TEXT}: must be tab-separated text: {describe_error(error)}") from error
    if flawed := [line for line, row in enumerate(rows, start=2) if len(row) != len(head)]:
        raise IntegrityError(f"{TEXT}: must have {len(head)} cells in each line, has others in line {flawed[0]}")
    return pd.DataFrame(rows, columns=head, dtype=object)


def _first_unlike(column: "pd.Series[Any]", written: "pd.Series[Any]", found: "pd.Series[Any]") -> int | None:
    """The first row whose text is not its value: as it is written today, or in the plain way of older releases."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    for row, (value, today, text) in enumerate(zip(column, written, found, strict=True)):
        if text != today and text != _plain(value) and not (numeric and _is_number(text, value)):
            return row
    return None


def _plain(value: Any) -> str:
    if pd.isna(value):
        return MISSING
    return TRUTHS[bool(value)] if isinstance(value, bool | np.bool_) else str(value)


def _is_number(text: str, value: Any) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def check_columns(layout: Layout, table: pd.DataFrame) -> Iterator[str]:
    """Whether the store's arrays beside the volumes are the table's columns and the grid's coordinates, and no more."""
    names = array_names(map(str, table.columns))
    for name, path in names.items():
        try:
            yield from _check_column(layout, path, name, table[name])
        except IntegrityError as error:
            yield str(error)
    volumes = [*layout.image.paths, *(layout.labels.paths if layout.labels else ())]
    for path in sorted(layout.arrays.keys() - {*names.values(), *volumes, *"xyz"}):
        yield f"{COHORT}/{path}: must be a level, a column or an axis, is none"
    for axis, (name, size, spacing) in enumerate(
        zip("xyz", layout.contract.size, layout.contract.spacing_mm, strict=True)
    ):
        if (array := layout.arrays.get(name)) is None:
            continue
        wanted = affine_of(layout.contract)[axis, 3] + spacing * np.arange(size)
        if array.shape != (size,) or array.chunks != (size,) or array.data_type != "float64":
            yield f"{COHORT}/{name}: must hold {size} positions, holds {array.data_type} of shape {array.shape}"
        elif array.dimension_names != (name,) or array.attributes.keys() - {"units", "long_name"}:
            yield f"{COHORT}/{name}: must lie along {name} and have units and a long_name alone, does not"
        elif not np.allclose(layout.read_numbers(name, (0,)), wanted, rtol=1e-9, atol=1e-9):
            yield f"{COHORT}/{name}: must hold the positions of the contract's grid, holds others"


def _check_column(layout: Layout, path: str, name: str, column: "pd.Series[Any]") -> Iterator[str]:
    if (array := layout.arrays.get(path)) is None:
        yield f"{COHORT}/{path}: must hold the column {name}, is missing"
        return
    rows = len(column)
    values = stored_values(column)
    kind = "string" if values.dtype == object else values.dtype.name
    if array.shape != (rows,) or array.chunks != (rows,) or array.data_type != kind:
        yield f"{COHORT}/{path}: must hold the {rows} values of the column {name} as {kind}"
    elif array.dimension_names != (AXES[0],) or array.attributes != {"column": name}:
        yield f"{COHORT}/{path}: must lie along {AXES[0]} and be marked as the column {name} alone, is not"
    elif not _is_held(layout, path, values):
        yield f"{COHORT}/{path}: must hold the values of the column {name} in {TABLE}, holds others"


def stored_values(column: "pd.Series[Any]") -> Any:
    """The values as a store holds them: text with `n/a`, or numbers."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy()
    return column.astype(object).where(column.notna(), MISSING).astype(str).to_numpy(dtype=object)


def _is_held(layout: Layout, path: str, values: Any) -> bool:
    """Text is compared as bytes: their number is known from the table before any of them is decompressed."""
    if values.dtype == object:
        expected = bytes(VLenUTF8().encode(values))
        try:
            return decompress(layout.read_chunk(path, (0,)), len(expected)) == expected
        except IntegrityError as error:
            raise IntegrityError(f"{COHORT}/{path}: {error}") from error
    found = layout.read_numbers(path, (0,))
    return bool(np.array_equal(found, values, equal_nan=values.dtype.kind == "f"))
