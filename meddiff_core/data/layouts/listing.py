"""What a search for scans gives: every file becomes a scan, a side file, or a refusal with its reason."""

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from meddiff_core.types import Note, Question, Refusal


@dataclass(frozen=True)
class FoundImage:
    """A scan that was found, before it has a label map and covariates."""

    case: str
    image: Path
    name: str
    """Path relative to the folder that was searched, for messages."""
    subject: str | None = None
    """None: to be found by the rules of `subjects`."""
    label: Path | None = None
    row: dict[str, str] = field(default_factory=dict)
    """Covariates of the scan's own row, where images is a table."""
    rule: str = ""
    """What identified the subject: the table, BIDS, the Patient ID, ..."""
    stem: str = ""
    """Its name without ending and channel: what its subject, kind and label map are found from."""
    kind: str | None = None
    """What it shows; None: to be found from the names."""
    reserve: bool = False
    """Never used unless its kind is chosen by name: phase images and the like."""
    slices: tuple[Path, ...] = ()
    """All files of a DICOM series."""
    participant: str | None = None
    """The id under which the participants table knows its subject, where that is another."""
    channel: int | None = None
    """Of a file of several channels, the one to read."""


@dataclass(frozen=True)
class Listing:
    """What a search gave."""

    found: tuple[FoundImage, ...] = ()
    refused: tuple[Refusal, ...] = ()
    """Scans that cannot be used."""
    unread: tuple[Refusal, ...] = ()
    """Files that are no scans: other formats, links that are not followed."""
    notes: tuple[Note, ...] = ()
    participants: Path | None = None
    """The table that a BIDS dataset brings along."""
    layout: str = ""
    """What the folder was understood as, in a few words."""
    kinds_key: str = "data.kinds"
    """The setting that chooses among kinds of image."""
    chosen_kind: str | None = None
    """The kind that another setting than `data.kinds` has chosen."""
    labels: tuple[Path, ...] | None = None
    """The label maps that a data set brings along; None: those that the study names."""
    label_groups: dict[str, list[int]] = field(default_factory=dict)
    """Names of label values that it brings along."""
    sources: tuple[Path, ...] = ()
    """Tables and descriptions that were read."""
    questions: tuple[Question, ...] = ()


def plain(text: str) -> str:
    """One spelling of an accented letter, whichever system wrote the name."""
    return unicodedata.normalize("NFC", text)
