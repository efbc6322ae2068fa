"""A file or folder of a release, here or elsewhere, written as a path is: `release / "manifest.json"`.

What checks a release takes either, so that the same lines verify a folder and an address.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class Readable(Protocol):
    """What a location needs of a place of files (see source.py)."""

    @property
    def address(self) -> str: ...

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    def read(self, name: str, most: int) -> bytes:
        """The whole object of at most `most` bytes."""


@dataclass(frozen=True)
class RemotePath:
    """A name below a place; the place itself without one."""

    place: Readable
    key: str = ""

    def __truediv__(self, part: str) -> "RemotePath":
        return RemotePath(self.place, f"{self.key}/{part}".strip("/"))

    def __str__(self) -> str:
        return f"{self.place.address}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the key, or of the address."""
        return str(self).rpartition("/")[2]

    def read(self, most: int) -> bytes:
        """All bytes, at most so many."""
        return self.place.read(self.key, most)


Location: TypeAlias = Path | RemotePath


def is_there(location: Location) -> bool:
    """Whether something has that name."""
    if isinstance(location, RemotePath):
        return location.place.exists(location.key)
    return os.path.lexists(location)


def is_file(location: Location) -> bool:
    """Whether a file has that name. An unreadable folder is told by what reads it next."""
    if isinstance(location, RemotePath):
        return location.place.exists(location.key)
    return os.path.isfile(location)
