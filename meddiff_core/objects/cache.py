"""Objects that came over a network, kept on this disk under their SHA-256 for the next epoch.

Bounded: what was used longest ago goes. Nothing is ever deleted but files of its own making in a folder of its own,
since a cache that tidies up beside itself takes the only copy of something sooner or later.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from meddiff_core.errors import ConfigurationError
from meddiff_core.objects.source import Entry

TAG = "CACHEDIR.TAG"
SIGNATURE = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Objects of releases, by SHA-256: made and removed by meddiff.\n"
)
"""By which backup programs know a cache (bford.info/cachedir), and this one its own."""
DIGITS = frozenset("0123456789abcdef")
STEPS = 16
"""The folder is looked through after so many parts of its bound were written."""


class ObjectCache:
    """At most `most_bytes` of objects in `folder`, which is new, empty, or was made by this."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Raises ConfigurationError where the folder holds something else."""
        self.folder, self.most_bytes = folder, most_bytes
        self._written: int | None = None
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ConfigurationError(f"the cache must be a folder, is none: {folder}")
        if folder.is_dir() and not (folder / TAG).is_file() and any(folder.iterdir()):
            raise ConfigurationError(f"the cache must be an empty folder, or one that it made; {folder} holds files")

    def get(self, entry: Entry) -> bytes | None:
        """An object, if it is here and whole."""
        path = self._path(entry.sha256)
        try:
            if path.is_symlink() or path.stat().st_size != entry.bytes:
                return None
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == entry.sha256 else None

    def put(self, entry: Entry, content: bytes) -> None:
        """Keep an object. A disk that is full or read-only keeps none, and the reading goes on."""
        if entry.bytes > self.most_bytes:
            return
        path = self._path(entry.sha256)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self._make(path.parent)
            self._make_room(entry.bytes)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            (self.folder / TAG).write_text(SIGNATURE)

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, until `size` bytes more fit."""
        if self._written is None or self._written + size > self.most_bytes // STEPS:
            kept = sorted(self._objects())
            left = sum(bytes_ for _, bytes_, _ in kept)
            room = self.most_bytes - max(size, self.most_bytes // STEPS)
            for _, bytes_, path in kept:
                if left <= room:
                    break
                path.unlink(missing_ok=True)
                left -= bytes_
            self._written = 0
        self._written += size

    def _objects(self) -> Iterator[tuple[float, int, Path]]:
        """When each was last used, its size and its file."""
        for folder in self.folder.iterdir():
            if folder.is_symlink() or not folder.is_dir() or len(folder.name) != 2 or set(folder.name) - DIGITS:
                continue
            for path in folder.iterdir():
                if len(path.name) == 64 and not set(path.name) - DIGITS and not path.is_symlink() and path.is_file():
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest
