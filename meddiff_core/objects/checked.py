"""The files of a release as a reader gets them: those of the manifest, or an error that names one.

zarr reads a deleted chunk as zeros and every OME-Zarr validator stops before the pixels. So each file is held
against its size and SHA-256 before anything in it is believed: a file of this machine the first time that a process
reads it, what came over a network each time.
"""

import hashlib
from collections.abc import Mapping

from meddiff_core.errors import IntegrityError
from meddiff_core.objects.cache import ObjectCache
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.source import Entry, ObjectSource, altered, whole

MOST_UNCHECKED = 1 << 31
"""Bytes of a file that is not compared with the manifest."""


class CheckedObjects:
    """Bytes of files by their name in the manifest."""

    def __init__(
        self, source: ObjectSource, expected: Mapping[str, Entry], check: bool = True, cache: ObjectCache | None = None
    ) -> None:
        """`expected` is the manifest's list; `check=False` trusts whatever lies there."""
        self.expected = expected
        self._source, self._check, self._cache = source, check, cache
        self._checked: set[str] = set()

    @property
    def address(self) -> str:
        """Where they lie."""
        return self._source.address

    def exists(self, name: str) -> bool:
        """Whether the manifest names it."""
        return name in self.expected

    def read(self, name: str, most: int = MOST_UNCHECKED) -> bytes:
        """The whole file.

        Raises:
            IntegrityError: it is missing, or is not the file in the manifest.
            Unreachable: the place does not answer.
        """
        if not self._check or name in self._checked:
            return self._source.read(name, most)
        if name not in self.expected:
            raise IntegrityError(f"{name}: not in the manifest")
        entry = self.expected[name]
        if entry.bytes > most:
            raise IntegrityError(f"{name}: must have at most {most} bytes, has {entry.bytes}")
        if self._cache and (cached := self._cache.get(entry)) is not None:
            return cached
        content = whole(self._source, name, entry.bytes)
        if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise altered(name)
        if self._cache:
            self._cache.put(entry, content)
        elif isinstance(self._source, LocalObjects):
            self._checked.add(name)
        return content
