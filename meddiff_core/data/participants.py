"""The table of subjects, and which of its rows is which scan's.

A row that belongs to no scan, and a scan without a row, are never passed over in silence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from meddiff_core.contract import ConditionValue
from meddiff_core.data.listing import Found, plain
from meddiff_core.data.names import longest_name_of
from meddiff_core.data.tables import covariates_of, id_column, read_table
from meddiff_core.types import Refusal


@dataclass(frozen=True)
class Participants:
    """The table of subjects."""

    rows: dict[str, dict[str, str]]
    columns: tuple[str, ...] = ()
    twins: frozenset[str] = frozenset()
    """Subjects with two rows that differ."""
    path: Path | None = None


def read_participants(path: Path | None) -> Participants:
    """The table of subjects that the study names or the data set brings, or none.

    Raises:
        ConfigurationError: it cannot be read, or has no column of ids.
    """
    if path is None:
        return Participants({})
    table = read_table(path, "data.participants")
    name = id_column(table, "data.participants")
    rows: dict[str, dict[str, str]] = {}
    twins = set()
    for cells in table.to_dict("records"):
        row = {str(column): str(cell) for column, cell in cells.items()}
        subject = plain(row.pop(name))
        if rows.setdefault(subject, row) != row:
            twins.add(subject)
    return Participants(rows, tuple(column for column in table.columns if column != name), frozenset(twins), path)


def table_id(name: str, subject: str | None, participants: Participants) -> str | None:
    """Id of the table's row for a scan: its subject's, or the longest that its name begins with; None if none is."""
    return subject if subject in participants.rows else longest_name_of([row for row in participants.rows if row], name)


def row_of(image: Found, participants: Participants) -> dict[str, str]:
    """What the table says of a scan's subject, and over it what the scan's own row says."""
    return {**participants.rows.get(str(image.subject), {}), **image.row}


def table_of(found: Sequence[Found], participants: Participants) -> pd.DataFrame:
    """Covariates of every scan as written, empty where there is no row."""
    own = next((list(image.row) for image in found), [])
    columns = list(dict.fromkeys([*participants.columns, *own]))
    return pd.DataFrame([row_of(image, participants) for image in found], columns=columns, dtype=str).fillna("")


def covariates_for(image: Found, participants: Participants, kinds: Mapping[str, str]) -> dict[str, ConditionValue]:
    """Covariates of a scan.

    Raises:
        ValueError: two rows claim its subject, or a cell is not of its column's kind.
    """
    if image.subject in participants.twins:
        raise ValueError(f"two rows claim the subject {image.subject!r} and differ")
    return covariates_of(row_of(image, participants), kinds)


def unmatched(participants: Participants, found: Sequence[Found]) -> list[Refusal]:
    """Rows without a scan, and scans without a row where there is a table."""
    subjects = {str(image.subject) for image in found}
    lonely = [
        Refusal(subject, "row of the participants table has no scan")
        for subject in participants.rows
        if subject not in subjects
    ]
    if participants.path is None:
        return lonely
    return lonely + [
        Refusal(
            image.case, f"subject {image.subject!r} has no row in the participants table; its covariates are missing"
        )
        for image in found
        if image.subject not in participants.rows
    ]
