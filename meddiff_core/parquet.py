"""Tables as parquet: the same rows, the same bytes, written whole or not at all."""

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from meddiff_core.artefacts import write_bytes


def as_parquet(table: pd.DataFrame | pa.Table) -> bytes:
    """A table as parquet, without the index of a data frame."""
    columns = pa.Table.from_pandas(table, preserve_index=False) if isinstance(table, pd.DataFrame) else table
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, compression="zstd")
    return buffer.getvalue()


def write_parquet(path: Path, table: pd.DataFrame | pa.Table) -> None:
    """Write a table atomically."""
    write_bytes(path, as_parquet(table))
