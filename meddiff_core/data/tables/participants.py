"""The table of subjects, and which of its rows is which scan's.

Tables write `50772` for the folder `sub-0050772`: ids are matched as they stand, and else up to `sub-`, leading
zeros and letter case, where that leaves one row and one subject. A table that fits no scan stops the study; a
row without a scan, and a scan without a row, are never passed over in silence.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from meddiff_core.contract import ConditionValue
from meddiff_core.data.layouts.listing import FoundImage, plain
from meddiff_core.data.layouts.names import is_part, longest_name_of, tells_visit
from meddiff_core.data.layouts.walking import counted
from meddiff_core.data.tables.cells import Words, is_missing
from meddiff_core.data.tables.covariates import covariates_of, id_column, open_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import DataConfig
from meddiff_core.types import Note

SESSION_COLUMNS = ("session_id", "session", "visit_id", "visit", "viscode", "timepoint", "wave")
UP_TO = "`sub-`, leading zeros, a last `.0` and letter case"
MOST_LISTED = 20
"""Rows without a scan that are listed one by one; more are counted."""


@dataclass(frozen=True)
class Participants:
    """The table of subjects."""

    rows: dict[str, dict[str, str]]
    columns: tuple[str, ...] = ()
    duplicates: frozenset[str] = frozenset()
    """Subjects with two rows that differ."""
    path: Path | None = None
    missing: Words = ()
    """Cells that mean `not known` besides the usual ones."""
    notes: tuple[Note, ...] = ()
    visits: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    """Rows by id and session, where the table has a column of sessions."""
    matches: dict[str, str] = field(default_factory=dict)
    """Id in the table by subject of the scans."""

    @cached_property
    def forms(self) -> dict[str, list[str]]:
        """Ids by what is the same however they are written."""
        return _by_form(self.rows)


def read_participants(path: Path | None, missing: Words | None = None) -> Participants:
    """The table of subjects that the study names or the data set brings, or none.

    Raises:
        ConfigurationError: it cannot be read, or has no column of ids.
    """
    if path is None:
        return Participants({}, missing=missing or ())
    table = open_table(path, "data.participants")
    name = id_column(table.rows, "data.participants")
    notes = [*table.notes]
    records = [
        (plain(row.pop(name)), row)
        for row in ({str(key): str(cell) for key, cell in cells.items()} for cells in table.rows.to_dict("records"))
    ]
    if without := sum(not subject for subject, _ in records):
        notes.append(f"{without} rows have no {name} and are left out")
    return replace(
        _by_subject([record for record in records if record[0]]),
        columns=tuple(column for column in table.rows.columns if column != name),
        path=path,
        missing=missing or (),
        notes=tuple(Note(path.name, note) for note in notes),
    )


def _by_subject(records: Sequence[tuple[str, dict[str, str]]]) -> Participants:
    rows: dict[str, dict[str, str]] = {}
    visits: dict[tuple[str, str], dict[str, str]] = {}
    session = _session_column(records)
    duplicates, twice = set(), set()
    for subject, row in records:
        if rows.setdefault(subject, row) != row:
            duplicates.add(subject)
        visit = subject, _session_form(row.get(session, ""))
        if visits.setdefault(visit, row) != row:
            twice.add(visit)
    known = {visit: row for visit, row in visits.items() if visit[1] and visit not in twice}
    return Participants(rows, duplicates=frozenset(duplicates), visits=known)


def _form(name: str) -> str:
    """An id without what tables and folders write differently."""
    bare = re.sub(r"^0+(?=\d)", "", plain(name).casefold().removeprefix("sub-"))
    return re.sub(r"^(\d+)\.0+$", r"\1", bare)


def _session_column(records: Sequence[tuple[str, dict[str, str]]]) -> str:
    names = {name.casefold(): name for _, row in records[:1] for name in row}
    return next((names[name] for name in SESSION_COLUMNS if name in names), "")


def _session_form(session: str) -> str:
    bare = session.casefold().removeprefix("ses-")
    bare = re.sub(r"^(?:session|visit|timepoint|tp|wave|v)[-_ ]?(?=\d)", "", bare)
    return re.sub(r"^0+(?=\d)", "", bare)


def _by_form(names: Iterable[str]) -> dict[str, list[str]]:
    forms: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        forms[_form(name)].append(name)
    return dict(forms)


def spelling_of(row: str, name: str) -> str:
    """How a name that begins with an id of the table writes it: `01` in `01_T1` for the row `1`."""
    ends = (end for end in range(1, len(name) + 1) if end == len(name) or not name[end].isalnum())
    return next((name[:end] for end in ends if name[:end] == row or _form(name[:end]) == _form(row)), row)


def match_ids(ids: Iterable[str], subjects: Iterable[str]) -> dict[str, str]:
    """Id in the table by subject: the same one, or the only one up to `sub-`, leading zeros and letter case.

    Where two ids or two subjects are the same up to these, only equal ones match.
    """
    rows, scans = _by_form(ids), _by_form(subjects)
    matches: dict[str, str] = {}
    for form in rows.keys() & scans.keys():
        if len(rows[form]) == len(scans[form]) == 1:
            matches[scans[form][0]] = rows[form][0]
        else:
            matches |= {subject: subject for subject in scans[form] if subject in rows[form]}
    return matches


def table_id(name: str, subject: str | None, participants: Participants) -> str | None:
    """Id of the table's row for a scan, None if there is none or more than one.

    Args:
        name: Stem of the scan's file, or its case; the longest id that it begins with is its subject's.
        subject: Whose the scan is by its folder, if that says so.
        participants: The table.
    """
    if subject in participants.rows:
        return subject
    if exact := longest_name_of(participants.rows, name):
        return exact
    forms = participants.forms
    form = _form(subject) if subject is not None and _form(subject) in forms else longest_name_of(forms, _form(name))
    ids = forms[form] if form else []
    return ids[0] if len(ids) == 1 else None


def match_rows(participants: Participants, found: Sequence[FoundImage], config: DataConfig) -> Participants:
    """The table with the rows of all scans matched.

    Raises:
        ConfigurationError: no row is that of a scan, though the study wants covariates of the table.
    """
    if participants.path is None or not participants.rows or not found:
        return participants
    subjects = {str(image.subject) for image in found}
    matches = match_ids(participants.rows, subjects)
    wanted = config.covariates is None or not all(kind.startswith("volume of ") for kind in config.covariates.values())
    if wanted and not matches:
        raise ConfigurationError(
            f"data.participants: {participants.path.name} must have rows for the scans, not one id fits: it has "
            f"{_three(participants.rows)}, the scans are of {_three(subjects)}, which may differ by {UP_TO} alone; "
            f"data.subject finds ids in paths, data.covariates: {{}} does without the table"
        )
    return replace(participants, matches=matches)


def _three(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3])


def _row_id(image: FoundImage, participants: Participants) -> str:
    return participants.matches.get(str(image.subject), str(image.subject))


def _visit(image: FoundImage, participants: Participants) -> dict[str, str] | None:
    """The row of the scan's session, where the path names one."""
    if not participants.visits:
        return None
    words = filter(_is_session, re.split(r"[/_.]", f"{image.name}/{image.case}"))
    rows = ((_row_id(image, participants), _session_form(word)) for word in words)
    return next((participants.visits[row] for row in rows if row in participants.visits), None)


def _is_session(word: str) -> bool:
    return word.startswith("ses-") or (tells_visit(word) and not is_part(word))


def row_of(image: FoundImage, participants: Participants) -> dict[str, str]:
    """What the table says of a scan's subject, and over it what the scan's own row says; empty if not known."""
    row = _visit(image, participants) or participants.rows.get(_row_id(image, participants), {})
    cells = {**row, **image.row}
    return {name: "" if is_missing(cell, participants.missing) else cell for name, cell in cells.items()}


def table_of(found: Sequence[FoundImage], participants: Participants) -> pd.DataFrame:
    """Covariates of every scan as written, empty where there is no row."""
    own = next((list(image.row) for image in found), [])
    columns = list(dict.fromkeys([*participants.columns, *own]))
    return pd.DataFrame([row_of(image, participants) for image in found], columns=columns, dtype=str).fillna("")


def covariates_for(
    image: FoundImage, participants: Participants, kinds: Mapping[str, str], declared: bool = True
) -> dict[str, ConditionValue]:
    """Covariates of a scan; `declared`: whether a person named the kinds.

    Raises:
        ValueError: two rows claim its subject and session, or a cell is not of its column's declared kind.
    """
    if _row_id(image, participants) in participants.duplicates and _visit(image, participants) is None:
        raise ValueError(f"two rows claim the subject {image.subject!r} and differ")
    return covariates_of(row_of(image, participants), kinds, declared)


def unmatched(participants: Participants, found: Sequence[FoundImage]) -> list[Note]:
    """Rows without a scan, scans without a row where there is a table, and how many of each were matched."""
    if participants.path is None:
        return []
    ids = {str(image.subject): _row_id(image, participants) for image in found}
    used = set(ids.values())
    idle = [row for row in participants.rows if row not in used]
    unused_rows = [Note(row, "row of the participants table has no scan") for row in idle]
    if len(idle) > MOST_LISTED:
        unused_rows = [Note(participants.path.name, f"{len(idle)} rows have no scan, such as {', '.join(idle[:3])}")]
    without = [
        Note(image.case, _why_without(str(image.subject), participants.forms))
        for image in found
        if ids[str(image.subject)] not in participants.rows
    ]
    return [*unused_rows, *without, *_summary(participants, ids, bool(unused_rows or without))]


def _why_without(subject: str, forms: Mapping[str, Sequence[str]]) -> str:
    lost = "its covariates are missing"
    if _form(subject) in forms:
        return f"subject {subject!r} has no row of its own: up to {UP_TO} several rows or subjects are the same; {lost}"
    return f"subject {subject!r} has no row in the participants table; {lost}"


def _summary(participants: Participants, ids: Mapping[str, str], partly: bool) -> list[Note]:
    matched = {subject: row for subject, row in ids.items() if row in participants.rows}
    alike = sum(subject != row for subject, row in matched.items())
    if participants.path is None or not (partly or alike):
        return []
    who = f"{len(matched)} of {counted(len(ids), 'subject')} {'has' if len(ids) == 1 else 'have'}"
    reason = f"{who} one of the {len(participants.rows)} ids of the table"
    return [Note(participants.path.name, reason + (f", {alike} of them up to {UP_TO}" if alike else ""))]
