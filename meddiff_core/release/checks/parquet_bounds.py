"""A parquet table is read only when its own description fits the release, down to each page.

Arrow reserves what a page's header claims, repeats a dictionary's entry for as many rows as the footer claims, and
follows prefixes that grow with every row; an 11 kB file can take gigabytes. So footer and page headers are read here
first, with a small reader of Thrift's compact encoding, and compared with the rows that the manifest promises.
"""

import io
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from meddiff_core.errors import IntegrityError
from meddiff_core.objects.location import Location
from meddiff_core.release.bounded import describe_error, read_bounded

MOST_COLUMNS = 1000
LONGEST_CELL = 4096
"""Bytes of a cell."""
ROOM = 1 << 20
"""Bytes of a table besides its cells."""
COMPRESSIONS = ("ZSTD", "SNAPPY", "UNCOMPRESSED")
TYPES = ("BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE", "BYTE_ARRAY")
ENCODINGS = (0, 2, 3, 8)
"""Plain, and indices into a dictionary or run lengths: neither makes more bytes than it holds, entries apart."""
MOST_NESTED = 8
_UNCOMPRESSED, _COMPRESSED = 2, 3
_PAGES = {5: (1, 2), 7: (1, 2), 8: (1, 4)}
"""Fields of a page's header that hold the header of its kind, and in it the number of values and the encoding."""


def read_table(path: Location, rows: int) -> pd.DataFrame:
    """`parse_table` of a file."""
    return parse_table(read_bounded(path, ROOM + rows * LONGEST_CELL), path.name, rows)


def parse_table(raw: bytes, name: str, rows: int) -> pd.DataFrame:
    """A table of `rows` flat rows, as every reader with pandas sees it.

    Raises:
        IntegrityError: it is none, claims more than that in its footer or in a page, or is another table to other
            readers.
    """
    try:
        plain = _read_plain(raw, name, _check_footer(raw, name, rows))
        seen = pd.read_parquet(io.BytesIO(raw))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{name}: must be a table in parquet: {describe_error(error)}") from error
    if list(seen.columns) != list(plain.columns) or len(seen) != rows or not isinstance(seen.index, pd.RangeIndex):
        raise IntegrityError(f"{name}: must be the same table with and without what it tells pandas, is not")
    if any(not _values(seen[column]).equals(_values(plain[column])) for column in plain.columns):
        raise IntegrityError(f"{name}: must hold the same values with and without what it tells pandas, does not")
    return seen


def _values(column: "pd.Series[Any]") -> "pd.Series[Any]":
    return column.astype(object).where(column.notna(), None)


def _check_footer(raw: bytes, name: str, rows: int) -> list[str]:
    """Names of the columns of text."""
    footer = pq.ParquetFile(
        pa.BufferReader(raw), thrift_string_size_limit=ROOM, thrift_container_size_limit=100 * MOST_COLUMNS
    ).metadata
    if footer.num_rows != rows:
        raise IntegrityError(f"{name}: must have {rows} rows, has {footer.num_rows}")
    if not 1 <= footer.num_columns <= MOST_COLUMNS or footer.num_row_groups > rows:
        raise IntegrityError(f"{name}: must have 1 to {MOST_COLUMNS} columns, has {footer.num_columns}")
    fields = [footer.schema.column(position) for position in range(footer.num_columns)]
    if flawed := [field.path for field in fields if field.max_repetition_level or field.physical_type not in TYPES]:
        raise IntegrityError(f"{name}: column {flawed[0]} must hold numbers, truths or text, is of another type")
    left = ROOM + rows * footer.num_columns * LONGEST_CELL
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for chunk in map(group.column, range(footer.num_columns)):
            if chunk.compression not in COMPRESSIONS or chunk.num_values != group.num_rows:
                raise IntegrityError(f"{name}: column {chunk.path_in_schema} must hold {group.num_rows} values")
            left -= sum(_page_sizes(raw, chunk, name))
            if left < 0:
                raise IntegrityError(f"{name}: must fit {rows} rows of short cells, claims more")
    if sum(footer.row_group(position).num_rows for position in range(footer.num_row_groups)) != rows:
        raise IntegrityError(f"{name}: must have {rows} rows in all its parts")
    return [field.path for field in fields if field.physical_type == "BYTE_ARRAY"]


def _page_sizes(raw: bytes, chunk: Any, name: str) -> Iterator[int]:
    """Uncompressed bytes that the header of each page of a column claims."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    if not 4 <= start <= end <= len(raw):
        raise IntegrityError(f"{name}: column {chunk.path_in_schema} must lie inside the file")
    while start < end:
        header, start = _struct(raw, start, 0)
        sizes = [header.get(field, -1) for field in (_UNCOMPRESSED, _COMPRESSED)]
        if not all(isinstance(size, int) and size >= 0 for size in sizes) or not _is_plain(header, chunk.num_values):
            raise IntegrityError(f"{name}: column {chunk.path_in_schema} has a page of an unknown kind")
        yield sizes[0]
        start += sizes[1]
    if start != end:
        raise IntegrityError(f"{name}: column {chunk.path_in_schema} must end where its last page does")


def _is_plain(header: dict[int, Any], values: int) -> bool:
    """Whether a page has one header of its kind, with no more values than its column and an encoding that is known."""
    kinds = [(header[field], *places) for field, places in _PAGES.items() if isinstance(header.get(field), dict)]
    return len(kinds) == 1 and all(
        0 <= kind.get(count, -1) <= values and kind.get(encoding) in ENCODINGS for kind, count, encoding in kinds
    )


def _read_plain(raw: bytes, file: str, texts: list[str]) -> pd.DataFrame:
    """The table without its metadata; the entries of each dictionary are measured before they are repeated."""
    table = pq.ParquetFile(pa.BufferReader(raw), read_dictionary=texts).read(use_threads=False)
    table = table.replace_schema_metadata(None)
    if len(set(table.column_names)) != table.num_columns:
        raise IntegrityError(f"{file}: must have columns of different names, has two of one name")
    for position, column in enumerate(table.columns):
        name = table.column_names[position]
        if pa.types.is_dictionary(column.type) and column.type.value_type in (pa.string(), pa.large_string()):
            table = table.set_column(position, name, _repeat(column, name, file))
        elif not (
            pa.types.is_integer(column.type)
            or pa.types.is_floating(column.type)
            or column.type in (pa.bool_(), pa.null())  # null: text of which none is known
        ):
            raise IntegrityError(f"{file}: column {name} must hold numbers, truths or text, holds {column.type}")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _repeat(column: pa.ChunkedArray, name: str, file: str) -> pa.ChunkedArray:
    entries = [entry for chunk in column.chunks for entry in chunk.dictionary.to_pylist() if entry is not None]
    if any(len(entry.encode()) > LONGEST_CELL for entry in entries):
        raise IntegrityError(f"{file}: a cell of {name} must have at most {LONGEST_CELL} bytes, has more")
    return column.cast(pa.string())


def _struct(raw: bytes, place: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of a Thrift struct by their numbers, and where it ends."""
    if depth > MOST_NESTED:
        raise IntegrityError("a page must have a shallow header, has a deep one")
    fields: dict[int, Any] = {}
    number = 0
    while (head := _byte(raw, place)) != 0:
        place += 1
        if head >> 4:
            number += head >> 4
        else:
            number, place = _signed(raw, place)
        fields[number], place = _value(raw, place, head & 15, depth)
    return fields, place + 1


def _value(raw: bytes, place: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of a struct; of binaries, numbers with a point and lists only the end matters."""
    match kind:
        case 1 | 2:
            return kind == 1, place
        case 3:
            return _byte(raw, place), place + 1
        case 4 | 5 | 6:
            return _signed(raw, place)
        case 7:
            return None, place + 8
        case 8:
            length, place = _varint(raw, place)
            return None, place + length
        case 9 | 10:
            return None, _list_end(raw, place, depth)
        case 12:
            return _struct(raw, place, depth + 1)
        case _:
            raise IntegrityError("a page must have a header that can be read, has another")


def _list_end(raw: bytes, place: int, depth: int) -> int:
    head, place = _byte(raw, place), place + 1
    count = head >> 4
    if count == 15:
        count, place = _varint(raw, place)
    for _ in range(count):
        _, place = (None, place + 1) if head & 15 in (1, 2) else _value(raw, place, head & 15, depth + 1)
        _byte(raw, place - 1)
    return place


def _signed(raw: bytes, place: int) -> tuple[int, int]:
    number, place = _varint(raw, place)
    return (number >> 1) ^ -(number & 1), place


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        part, place = _byte(raw, place), place + 1
        number |= (part & 127) << shift
        if part < 128:
            return number, place
    raise IntegrityError("a page must have a header that can be read, has another")


def _byte(raw: bytes, place: int) -> int:
    if not 0 <= place < len(raw):
        raise IntegrityError("a page must have its header inside the file, has not")
    return raw[place]
