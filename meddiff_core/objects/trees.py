"""A file or folder as objects under their SHA-256: packs of files, and a list of the packs that is put last.

Who has the digest of a list has all of it, verified, or an error: never a mixture, and never a part that another
writer left. A shard is one pack, so one put; a folder of many small files is few.
"""

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from meddiff_core.artefacts import canonical_json, digest_file, files_below
from meddiff_core.errors import IntegrityError
from meddiff_core.objects.source import PIECE, ObjectStorage, altered
from meddiff_core.objects.storage import put_object

PACK = 32 << 20
"""Bytes after which a pack is full; a larger file has one of its own."""
MOST_LIST = 16 << 20
"""Bytes of a list of packs."""


class Pack(BaseModel):
    """An object that holds files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Tree(BaseModel):
    """The list of packs of a file or a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packs: tuple[Pack, ...]

    @property
    def bytes(self) -> int:
        """Of all packs, which are about those of the files."""
        return sum(pack.bytes for pack in self.packs)


@dataclass(frozen=True)
class TreeStore:
    """Trees in a storage. `scratch` is a folder for one pack at a time."""

    storage: ObjectStorage
    scratch: Path

    def put(self, folder: Path, names: Sequence[str]) -> str:
        """Put the named files below a folder; gives the digest of their list. What is there already is not sent."""
        packs = []
        for group in _groups(folder, names):
            with tempfile.TemporaryDirectory(dir=self.scratch) as own:
                file = Path(own, "pack")
                _write_pack(file, folder, group)
                packs.append(Pack(sha256=digest_file(file), bytes=file.stat().st_size))
                put_object(self.storage, object_name(packs[-1].sha256), file)
        content = canonical_json(Tree(packs=tuple(packs))).encode()
        digest = hashlib.sha256(content).hexdigest()
        with tempfile.TemporaryDirectory(dir=self.scratch) as own:
            file = Path(own, "list")
            file.write_bytes(content)
            put_object(self.storage, object_name(digest), file)
        return digest

    def tree(self, digest: str) -> Tree:
        """A list of packs, by its digest."""
        content = self.storage.read(object_name(digest), MOST_LIST)
        if hashlib.sha256(content).hexdigest() != digest:
            raise altered(object_name(digest))
        return Tree.model_validate_json(content)

    def fetch(self, digest: str, folder: Path) -> None:
        """Write the files of a tree below a folder, each pack after it was held against its digest."""
        for pack in self.tree(digest).packs:
            with tempfile.TemporaryDirectory(dir=self.scratch) as own:
                file = Path(own, "pack")
                self._fetch_pack(pack, file)
                _unpack(file, folder)

    def _fetch_pack(self, pack: Pack, file: Path) -> None:
        name, digest = object_name(pack.sha256), hashlib.sha256()
        with file.open("wb") as opened:
            for offset, piece in self.storage.pieces(name, pack.bytes):
                if offset != opened.tell():
                    raise altered(name)
                digest.update(piece)
                opened.write(piece)
        if digest.hexdigest() != pack.sha256:
            raise altered(name)


def object_name(digest: str) -> str:
    """Of an object in a storage."""
    return f"objects/{digest[:2]}/{digest}"


def names_of(path: Path) -> list[str]:
    """Files of a tree by their names below its parent folder; none if nothing lies there."""
    if path.is_file():
        return [path.name]
    return [f"{path.name}/{name}" for name in files_below(path)]


def _groups(folder: Path, names: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name in sorted(names):
        own = (folder / name).stat().st_size
        if group and size + own > PACK:
            yield group
            group, size = [], 0
        group.append(name)
        size += own
    if group:
        yield group


def _write_pack(file: Path, folder: Path, names: Sequence[str]) -> None:
    """A tar that holds names and bytes alone, so that the same files are the same object wherever they are packed."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as pack:
        for name in names:
            with (folder / name).open("rb") as opened:
                entry = tarfile.TarInfo(name)
                entry.size = os.fstat(opened.fileno()).st_size
                pack.addfile(entry, opened)


def _unpack(file: Path, folder: Path) -> None:
    with tarfile.open(file, "r:") as pack:
        for entry in pack:
            parts = PurePosixPath(entry.name).parts
            if not entry.isreg() or not parts or parts[0] == "/" or ".." in parts:
                raise IntegrityError(f"a pack must hold files below its folder, holds {entry.name!r}")
            content = pack.extractfile(entry)
            assert content is not None
            _write(folder.joinpath(*parts), content)


def _write(path: Path, content: Any) -> None:
    """Write a file so that a reader finds the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as opened:
            shutil.copyfileobj(content, opened, PIECE)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
