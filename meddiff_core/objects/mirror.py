"""Parts of a study's folder on a machine that does not have it, by their digests.

Each tree lies apart under what it holds, so that two versions of one artefact never mix in a worker that outlives a
run. What an item wrote is found by looking, put into the storage, and told by its digest. Bounded: the trees that were
used longest ago go.
"""

import hashlib
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from meddiff_core.artefacts import files_below
from meddiff_core.errors import IntegrityError, MeddiffError
from meddiff_core.objects.trees import TreeStore

Result = TypeVar("Result")
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class SentTree:
    """A file or folder of the study, as it was when an item was sent."""

    name: str
    """POSIX path below the study's folder."""
    digest: str | None
    """Of its tree in the storage; None where nothing lay there."""


@dataclass(frozen=True)
class WrittenTree:
    """Files that an item made or changed at the place of a tree."""

    name: str
    digest: str
    """Of the tree that holds them."""
    whole: bool
    """Whether nothing is left of what lay there before."""


@dataclass
class Mirror:
    """Trees in `folder`, of at most `most_bytes` together."""

    store: TreeStore
    folder: Path
    most_bytes: int
    _sizes: OrderedDict[Path, int] = field(default_factory=OrderedDict)
    """Of the trees that are here, the one that was used last at the end."""

    def work(
        self, trees: Sequence[SentTree], do: Callable[[Sequence[Path]], Result]
    ) -> tuple[Result, list[WrittenTree]]:
        """What `do` gives for the paths of some trees, and what it wrote there."""
        homes = [self._home(tree.name, tree.digest) for tree in trees]
        for tree, home in zip(trees, homes, strict=True):
            self._bring(tree, home, homes)
        before = {home: _stamps(home) for home in homes}
        try:
            result = do([home / PurePosixPath(tree.name).name for tree, home in zip(trees, homes, strict=True)])
        except BaseException:
            for home in homes:
                if _stamps(home) != before[home]:
                    self._drop(home)
            raise
        written = [self._kept(tree, home, before[home]) for tree, home in zip(trees, homes, strict=True)]
        return result, [found for found in written if found is not None]

    def _home(self, name: str, digest: str | None) -> Path:
        return self.folder / hashlib.sha256(f"{name}\n{digest}".encode()).hexdigest()[:32]

    def _bring(self, tree: SentTree, home: Path, needed: Sequence[Path]) -> None:
        if home in self._sizes:
            self._sizes.move_to_end(home)
            return
        size = self.store.tree(tree.digest).bytes if tree.digest else 0
        self._make_room(size, needed)
        with tempfile.TemporaryDirectory(dir=self.folder) as own:
            partial = Path(own, "tree")
            partial.mkdir()
            if tree.digest:
                self.store.fetch(tree.digest, partial)
            partial.rename(home)
        self._sizes[home] = size

    def _make_room(self, size: int, needed: Sequence[Path]) -> None:
        for home in list(self._sizes):
            if sum(self._sizes.values()) + size <= self.most_bytes:
                return
            if home not in needed:
                self._drop(home)
        if (total := sum(self._sizes.values()) + size) > self.most_bytes:
            bound = f"{self.most_bytes / 1e9:.1f} GB of this worker's disk"
            raise MeddiffError(f"what one item needs must fit {bound}, it takes {total / 1e9:.1f} GB")

    def _kept(self, tree: SentTree, home: Path, before: dict[str, Stamp]) -> WrittenTree | None:
        after = _stamps(home)
        if after == before:
            return None
        changed = [name for name, stamp in after.items() if before.get(name) != stamp]
        if not changed:
            self._drop(home)
            raise IntegrityError(f"{tree.name}: an item must write files, it removed some")
        written = WrittenTree(tree.name, self.store.put(home, changed), whole=len(changed) == len(after))
        self._sizes.pop(home)
        if written.whole and not (new := self._home(tree.name, written.digest)).exists():
            home.rename(new)
            self._sizes[new] = sum(size for size, _, _ in after.values())
        else:
            shutil.rmtree(home)
        return written

    def _drop(self, home: Path) -> None:
        self._sizes.pop(home)
        shutil.rmtree(home)


def _stamps(home: Path) -> dict[str, Stamp]:
    """What changes of a file when it is written: size, time and inode."""
    return {name: _stamp(home / name) for name in files_below(home)}


def _stamp(path: Path) -> Stamp:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def fingerprint_of(path: Path) -> str:
    """What changes when any file of a tree does, without reading one."""
    names = [""] if path.is_file() else files_below(path)
    stamps = [(name, _stamp(path / name if name else path)) for name in names]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()
