"""The list of what a release holds: each file's size and SHA-256, and where it all came from.

With it a recipient can distinguish a complete, unaltered release from one that lost a chunk on the way. Who wrote it,
only the signature beside it says (see signing.py), or the digest of the manifest as its maker gave it to you.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from meddiff_core.artefacts import digest_file, files_below, write_json
from meddiff_core.contract import Frozen
from meddiff_core.errors import IntegrityError
from meddiff_core.objects.location import Location, RemotePath, is_file, is_there
from meddiff_core.objects.source import MissingObject
from meddiff_core.release.bounded import read_bounded

MANIFEST = "manifest.json"
TOMBSTONE = "TOMBSTONE.md"
"""What stays beside the manifest of a release that was withdrawn: why."""
SIGNATURE = "manifest.dsse.json"
"""The signature over the manifest; like the manifest itself it is not listed."""
WHOLE = "whole"
"""Folder of a subset with the papers of what it is a part of, as they were: they are about all of its volumes."""
MOST_BYTES = 256 << 20
"""Bytes of a manifest; that of 100,000 volumes has 65 MB."""
MOST_TOMBSTONE = 1 << 16
MOST_SHOWN = 5
FORMAT: Final = "meddiff-release/1"


def _confined(path: str) -> str:
    foreign = "\\" in path or ":" in path or not path.isprintable()
    if foreign or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"a file must be named by a plain path inside the release, is {path!r}")
    return path


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
InsidePath = Annotated[str, AfterValidator(_confined)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=200)]
Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$")]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class FileEntry:
    """One file. No pydantic model, which takes three times the memory: a release of 10,000 volumes has 40,000."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Step(Frozen):
    """A choice of volumes."""

    of: Sha256
    """Manifest of the release that they were chosen from."""
    where: Annotated[str, Field(max_length=1000)] | None
    """Filter, in the language of `--where`."""
    limit: Annotated[int, Field(ge=1)] | None
    """Of those that fulfil it, so many of the first."""
    kept: Annotated[int, Field(ge=1)]

    def describe(self) -> str:
        """`where age > 60, the first 500`."""
        parts = (f"where {self.where}" if self.where else "", f"the first {self.limit}" if self.limit else "")
        return ", ".join(filter(None, parts))


class Subset(Frozen):
    """What a subset is a part of."""

    name: Name
    version: Version
    title: str
    samples: Annotated[int, Field(ge=1)]
    """Volumes of the whole."""
    manifest: Sha256
    """Of the whole."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=16)]
    """The last one is this subset; those before it are subsets that it was taken from."""
    rows: Annotated[tuple[int, ...], Field(min_length=1)]
    """Place of each volume in the whole: chunk `c.N.0.0.0` is the whole's `c.ROWS[N].0.0.0`."""

    @model_validator(mode="after")
    def _is_a_part(self) -> "Subset":
        below = (-1, *self.rows[:-1])
        if any(row <= before for before, row in zip(below, self.rows, strict=True)) or self.rows[-1] >= self.samples:
            raise ValueError("rows must rise and lie within the whole")
        if self.steps[0].of != self.manifest or self.steps[-1].kept != len(self.rows):
            raise ValueError("steps must lead from the whole to its rows")
        return self

    def describe(self) -> str:
        """`500 of 10,000 of NAME VERSION`, and how they were chosen."""
        chosen = [
            ", ".join(
                [*([f"where {one.where}"] if one.where else []), *([f"the first {one.limit}"] if one.limit else [])]
            )
            for one in self.steps
        ]
        return f"{len(self.rows):,} of {self.samples:,} of {self.name} {self.version}: {', then '.join(chosen)}"


class Manifest(Frozen):
    """manifest.json of a release."""

    format: Literal["meddiff-release/1"]
    name: Name
    version: Version
    title: str
    licence: str
    preset: str
    """Gates that the release passed."""
    samples: Annotated[int, Field(ge=1)]
    counts: dict[str, Any]
    """Candidates, accepted, rejected by reason, flagged."""
    parents: dict[str, str]
    """SHA-256 of the artefacts that it was made from; they stay with their owner."""
    study: dict[str, Any]
    versions: dict[str, str]
    subset: Annotated[Subset | None, Field(exclude_if=lambda value: value is None)] = None
    """Only of a subset: what it is a part of. Counts, parents and study are then those of the whole."""
    files: dict[InsidePath, FileEntry]

    @property
    def papers(self) -> str:
        """Where card, report and evidence of the whole cohort lie: here, or for a subset in a folder of their own."""
        return f"{WHOLE}/" if self.subset else ""

    @model_validator(mode="after")
    def _has_a_file_a_volume(self) -> "Manifest":
        """Each volume is a file, so no reader takes memory for more volumes than there are files."""
        if self.samples > len(self.files):
            raise ValueError(f"there are {len(self.files)} files, too few for so many samples")
        if self.subset and len(self.subset.rows) != self.samples:
            raise ValueError(f"a subset of {self.samples} samples has {len(self.subset.rows)} rows")
        return self

    @model_validator(mode="after")
    def _has_names_for_any_disk(self) -> "Manifest":
        """No two files, nor a file and a folder, that are one where a disk does not know small from large letters."""
        folded = {_folded(name): name for name in self.files}
        if len(folded) != len(self.files):
            one, other = next((folded[_folded(name)], name) for name in self.files if folded[_folded(name)] != name)
            raise ValueError(f"names must differ in more than case, {one!r} and {other!r} do not")
        for both in _folders_of(folded) & folded.keys():
            raise ValueError(f"{folded[both]!r} must be a file or a folder, is both")
        return self


def _folded(name: str) -> str:
    folded = unicodedata.normalize("NFC", name).casefold()
    return name if folded == name else folded


def _folders_of(names: Iterable[str]) -> set[str]:
    folders = set[str]()
    for name in names:
        folder = name.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Size and digest of every file of a release but the manifest and its signature, sorted by path."""
    return {name: describe_file(folder / name) for name in files_below(folder) if name not in (MANIFEST, SIGNATURE)}


def describe_file(path: Path) -> FileEntry:
    """Size and digest of one file."""
    return FileEntry(bytes=path.stat().st_size, sha256=digest_file(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, of whose files there is never a second list in memory."""
    said = manifest.model_dump(mode="json", exclude={"files"})
    write_json(folder / MANIFEST, {**said, "files": manifest.files})


def read_manifest(folder: Location) -> Manifest:
    """The manifest of a release.

    Raises:
        IntegrityError: the folder is no release or a withdrawn one, or its manifest does not follow the format.
    """
    if is_withdrawn(folder):
        raise IntegrityError(f"{name_of(folder)} was withdrawn, its {TOMBSTONE} says why")
    return read_any_manifest(folder)


def is_withdrawn(folder: Location) -> bool:
    """Whether a tombstone stands in the folder."""
    path = folder / TOMBSTONE
    if not isinstance(path, RemotePath):
        return is_file(path)
    try:
        return path.read(MOST_TOMBSTONE).startswith(b"# ")  # some servers have a page of theirs for every name
    except IntegrityError:
        return False


def name_of(folder: Location) -> str:
    """Name of the folder, also where the path to it is `.`."""
    return folder.absolute().name if isinstance(folder, Path) else folder.name


def read_any_manifest(folder: Location) -> Manifest:
    """`read_manifest`, also of a release that was withdrawn."""
    return parse_manifest(manifest_bytes(folder))


def manifest_bytes(folder: Location) -> bytes:
    """The manifest as it lies there.

    Raises:
        IntegrityError: there is none.
    """
    path = folder / MANIFEST
    try:
        if isinstance(path, RemotePath) or is_there(path):
            return read_bounded(path, MOST_BYTES)
    except MissingObject:
        pass
    raise IntegrityError(f"{name_of(folder)} must be a release, a folder with {MANIFEST}; there is none")


def digest_manifest(folder: Location) -> str:
    """SHA-256 of the manifest, which names the release and everything in it."""
    return hashlib.sha256(manifest_bytes(folder)).hexdigest()


def parse_manifest(raw: bytes) -> Manifest:
    """The manifest in some bytes.

    Raises:
        IntegrityError: it does not follow the format.
    """
    try:
        return Manifest.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in found[:MOST_SHOWN]]
        more = f"; and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise IntegrityError(f"{MANIFEST} must follow {FORMAT}: {'; '.join(faults)}{more}") from error
