"""Digests, atomic writes, and the ledger that says which artefact was made from what.

An artefact is current when the digests of everything it was made from are those of today; that record,
on disk beside the data, is the truth about what a restart still has to do. A reader never sees half a file.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict

from meddiff_core.errors import IntegrityError

STATE = ".meddiff"
"""Folder in a study for what can be made again: the ledger apart, nobody misses it."""
SMALL = 2**18
"""Bytes of a file that is read at once."""
MOST_PIECES = 4096
"""Of JSON that is being written, so many pieces in memory: a piece is a few characters."""


def canonical_json(value: Any) -> str:
    """The one spelling of `value` that is hashed: sorted keys, no spaces, no NaN."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value or a pydantic model."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < SMALL:  # the buffer that a large one needs takes longer than its hash
            return hashlib.sha256(file.readall()).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its POSIX path relative to it, sorted."""
    return {name: digest_file(folder / name) for name in files_below(folder)}


def files_below(folder: Path) -> list[str]:
    """Every file below `folder` by its POSIX path relative to it, sorted; as text, since a release has many."""
    found = []
    for inside, _, names in os.walk(folder):
        start = Path(inside).relative_to(folder).as_posix()
        prefix = "" if start == "." else f"{start}/"
        found += [f"{prefix}{name}" for name in names if os.path.isfile(os.path.join(inside, name))]
    return sorted(found)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old bytes or the new ones, never a part."""
    _write_pieces(path, (data,))


def _write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value, a pydantic model or what holds some as indented JSON, atomically; never all of it in memory."""
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    _write_pieces(path, _encoded(chain(encoder.iterencode(value), "\n")))


def _encoded(pieces: Iterator[str]) -> Iterator[bytes]:
    while joined := "".join(islice(pieces, MOST_PIECES)):
        yield joined.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


@contextmanager
def writing_folder(final: Path) -> Iterator[Path]:
    """An empty folder to write in, which appears under the name `final` when the block ends well, or not at all.

    Who comes while another process writes it waits, and then writes it again.
    """
    partial = final.with_name(f".{final.name}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    with alone(final.with_name(f".{final.name}.lock")):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            publish_folder(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that ends with the process, and leaves no file behind unless the process is killed.

    Raises:
        BlockingIOError: another process holds it, where nobody shall `wait`.
    """
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_at(file, path):  # the holder before took it away
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def publish_folder(partial: Path, final: Path) -> None:
    """Make a finished folder appear under its name, replacing an older one of that name.

    A kill between the two renames leaves no folder, which a restart makes again; never a mixture.
    """
    for path in chain((partial,), partial.rglob("*")):
        _sync(path)
    outdated = final.with_name(f".{final.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.rename(outdated)
    partial.rename(final)
    shutil.rmtree(outdated, ignore_errors=True)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Record(BaseModel):
    """What one artefact was made from, and the digest of what was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    inputs: dict[str, str]
    """Digest of each thing that it was made from, by a name that a person understands."""
    digest: str
    summary: dict[str, Any] = {}
    """Small figures for the status page: counts, sizes, seconds."""


class Ledger:
    """The records of one study, one JSON file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Record | None:
        """The record of an artefact, or None when it was never finished."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            return None
        try:
            return Record.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise IntegrityError(f"{path.name} must be a record of an artefact: {error}") from error

    def write(self, record: Record) -> Record:
        """Record a finished artefact; call it after its bytes are safe."""
        write_json(self.folder / f"{record.name}.json", record)
        return record

    def forget(self, name: str) -> None:
        """Drop a record, so that its artefact counts as missing."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)


def changed_inputs(record: Record, inputs: Mapping[str, str]) -> list[str]:
    """Names of the inputs that are no longer those of the record, sorted."""
    names = record.inputs.keys() | inputs.keys()
    return sorted(name for name in names if record.inputs.get(name) != inputs.get(name))
