"""What a place of files must be able to do, and what the manifest says of each file.

A place knows nothing of releases: it gives bytes by name, never more than was asked for, or an error of one line. It
travels into the workers of a loader, forked or spawned, so connections are opened in the process that reads.
"""

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from meddiff_core.errors import IntegrityError, MeddiffError

PIECE = 1 << 20
"""Bytes that are read at a time, so that memory stays flat however large an object is."""


class MissingObject(IntegrityError):
    """The place does not hold an object: zarr's own stores would read zeros instead."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: missing")
        self.name = name

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.name,)


class Unreachable(MeddiffError):
    """The place does not answer, or refuses: what it holds is not known."""


class Refused(Unreachable):
    """The place answers, and does not permit it: waiting does not help."""


def altered(name: str) -> IntegrityError:
    """The error for bytes that are not those of the manifest."""
    return IntegrityError(f"{name}: altered, it is not the file in the manifest")


@runtime_checkable
class Entry(Protocol):
    """Size and digest of one file, as the manifest gives them."""

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


@runtime_checkable
class ObjectSource(Protocol):
    """The files of one release, by their names in its manifest: POSIX paths below the release's folder."""

    notes: deque[str]
    """What a person who waits should know, such as that a server asks for patience. Who shows them takes them out."""

    @property
    def address(self) -> str:
        """Where it is, for a person: without credentials."""

    def read(self, name: str, most: int) -> bytes:
        """The whole object.

        Raises:
            MissingObject: there is none.
            IntegrityError: it has more than `most` bytes.
            Unreachable: the place does not answer, or refuses.
        """

    def exists(self, name: str) -> bool:
        """Whether there is such an object; Unreachable as for `read`."""

    def pieces(self, name: str, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """An object of `size` bytes piece by piece from `start` on, each with its offset.

        An offset may jump back to 0: a server that knows no ranges begins again. An object that is longer or shorter
        is an IntegrityError.
        """


@runtime_checkable
class ObjectStorage(ObjectSource, Protocol):
    """A source that can be written to. An object appears whole or not at all; nothing else is relied upon."""

    def put(self, name: str, file: Path) -> None:
        """Write the bytes of a file, over what has that name; Unreachable as for `read`."""

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none; Unreachable as for `read`."""

    def names(self, folder: str) -> list[str]:
        """Names of what lies directly or deeper in a folder of few objects."""

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""


def whole(source: ObjectSource, name: str, size: int) -> bytes:
    """An object that has `size` bytes."""
    parts: list[bytes] = []
    for offset, piece in source.pieces(name, size):
        if not offset:
            parts.clear()
        parts.append(piece)
    return b"".join(parts)
