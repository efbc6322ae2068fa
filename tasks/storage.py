"""Items for workers that do not share the study's folder: they need `runtime.storage` and its credentials alone.

Paths are named while an item is pickled: what lies at a path below the study's folder is put into the storage, and the
worker's own copy of it stands in its place there. What an item wrote comes back the same way. Real scans stay: an item
that names one, or a path outside of the study's folder, is done by this machine.
"""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from shutil import disk_usage
from threading import Lock
from typing import Any, Generic, overload

from meddiff_core.artefacts import STATE, publish_folder
from meddiff_core.evidence.screening.verdicts import ScreenJob
from meddiff_core.generation.shards import ShardJob
from meddiff_core.objects.mirror import Mirror, SentTree, WrittenTree, fingerprint_of
from meddiff_core.objects.storage import open_storage
from meddiff_core.objects.trees import TreeStore, names_of
from meddiff_core.study import RuntimeConfig
from meddiff_core.types import CaseRef, Item, Mapper, Result

PARENT = ".."


@dataclass(frozen=True)
class Parcel:
    """A function and an item without paths, and what lies at them."""

    address: str
    """Of the storage. Credentials are in the environment of each machine."""
    content: bytes
    trees: tuple[SentTree, ...]


@dataclass(frozen=True)
class Reply:
    """Its result without paths, and what it wrote."""

    content: bytes
    names: tuple[str, ...]
    written: tuple[WrittenTree, ...]


class _Stays(Exception):
    """An item names what must not travel."""


class _Pickler(pickle.Pickler):
    """Replaces paths by what `name_path` makes of them, if it makes anything."""

    def __init__(self, file: io.BytesIO, name_path: Callable[[Path], tuple[int, str] | None]) -> None:
        super().__init__(file)
        self._name_path = name_path

    def persistent_id(self, value: Any) -> tuple[int, str] | None:
        if isinstance(value, CaseRef):
            raise _Stays
        return self._name_path(value) if isinstance(value, Path) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, places: Sequence[Path]) -> None:
        super().__init__(io.BytesIO(content))
        self._places = places

    def persistent_load(self, named: tuple[int, str]) -> Path:
        place, inside = self._places[named[0]], named[1]
        return place.parent if inside == PARENT else place / inside


def _pickled(value: Any, name_path: Callable[[Path], tuple[int, str] | None]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, name_path).dump(value)
    return file.getvalue()


@dataclass
class StoredStudy:
    """A study's folder, of which workers see what is put into the storage."""

    address: str
    folder: Path
    _known: dict[tuple[Path, str], str] = field(default_factory=dict)
    """Digests of trees that were put, by path and fingerprint."""

    @classmethod
    def of(cls, runtime: RuntimeConfig, folder: Path) -> StoredStudy | None:
        """None where workers see the folder itself."""
        away = runtime.dask not in ("local", "off") and runtime.storage is not None
        return cls(runtime.storage, folder) if away and runtime.storage else None

    def map(
        self, away: Mapper, here: Mapper, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result]]:
        """As a `Mapper` does: on workers `away`, or `here` where the items must not travel."""
        parcels = _Parcels(self, function, items)
        try:
            parcels[0]
        except _Stays:
            yield from here(function, items)
            return
        for position, reply in away(carry_out, parcels):
            yield position, self._taken(reply)

    def sent(self, path: Path) -> SentTree:
        """A file or folder, in the storage."""
        name = path.relative_to(self.folder).as_posix()
        if not path.exists():
            return SentTree(name, None)
        key = (path, fingerprint_of(path))
        if key not in self._known:
            with self._trees() as trees:
                self._known[key] = trees.put(path.parent, names_of(path))
        return SentTree(name, self._known[key])

    def _taken(self, reply: Reply) -> Any:
        """A result, after what was written for it is here."""
        with self._trees() as trees:
            for written in reply.written:
                path, partial = self.folder / written.name, trees.scratch / Path(written.name).name
                trees.fetch(written.digest, trees.scratch if written.whole else path.parent)
                if written.whole and partial.is_dir():
                    publish_folder(partial, path)
                elif written.whole:
                    partial.replace(path)
        return _Unpickler(reply.content, [self.folder / name for name in reply.names]).load()

    @contextmanager
    def _trees(self) -> Iterator[TreeStore]:
        inside = self.folder / STATE / "storage"
        inside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=inside) as scratch:
            yield TreeStore(open_storage(self.address), Path(scratch))


@dataclass
class _Parcels(Sequence[Parcel], Generic[Item, Result]):
    """Each item as a parcel, made when it is sent; what lies at a path is that of the first item that names it."""

    study: StoredStudy
    function: Callable[[Item], Result]
    items: Sequence[Item]
    _sent: dict[Path, SentTree] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, position: int) -> Parcel: ...

    @overload
    def __getitem__(self, position: slice) -> list[Parcel]: ...

    def __getitem__(self, position: int | slice) -> Parcel | list[Parcel]:
        if isinstance(position, slice):
            return [self[n] for n in range(*position.indices(len(self)))]
        item = self.items[position]
        trees: dict[SentTree, int] = {}

        def name_path(path: Path) -> tuple[int, str] | None:
            if not path.is_absolute():
                return None
            if path == self.study.folder or not path.is_relative_to(self.study.folder):
                raise _Stays
            inside = ""
            if isinstance(item, ShardJob | ScreenJob) and path == item.candidates:  # of all shards it needs its own
                path, inside = path / item.shard.name, PARENT
            tree = self._sent.get(path) or self._sent.setdefault(path, self.study.sent(path))
            return trees.setdefault(tree, len(trees)), inside

        content = _pickled((self.function, item), name_path)
        return Parcel(self.study.address, content, tuple(trees))


_one_at_a_time = Lock()
"""Items of one process could write into one tree."""


def carry_out(parcel: Parcel) -> Reply:
    """Do an item on a worker, in its own copy of the study."""

    def do(places: Sequence[Path]) -> bytes:
        function, item = _Unpickler(parcel.content, places).load()

        def name_path(path: Path) -> tuple[int, str] | None:
            inside = [n for n, place in enumerate(places) if path.is_relative_to(place)]
            return (inside[0], path.relative_to(places[inside[0]]).as_posix()) if inside else None

        return _pickled(function(item), name_path)

    with _one_at_a_time:
        content, written = _mirror(parcel.address).work(parcel.trees, do)
    return Reply(content, tuple(tree.name for tree in parcel.trees), tuple(written))


@cache
def _mirror(address: str) -> Mirror:
    """That of this process, in the worker's own folder, which Dask removes; half of the disk that is free is its."""
    from distributed import get_worker

    folder = Path(tempfile.mkdtemp(prefix="study-", dir=get_worker().local_directory))
    return Mirror(TreeStore(open_storage(address), folder), folder, disk_usage(folder).free // 2)
