"""Tables as parquet: the same rows, the same bytes."""

import io
from pathlib import Path

import pandas as pd

from meddiff_core.artefacts import write_bytes


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, without its index."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())
