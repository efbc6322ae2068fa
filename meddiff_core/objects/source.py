"""What a place of files must be able to do, and what the manifest says of each file.

A place knows nothing of releases: it gives bytes by name, never more than was asked for, or an error of one line. It
travels into the workers of a loader, forked or spawned, so connections are opened in the process that reads.
"""

from collections.abc import Iterator
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

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer are an IntegrityError."""

    def pieces(self, name: str, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """An object of `size` bytes piece by piece from `start` on, each with its offset.

        An offset may jump back to 0: a server that knows no ranges begins again. An object that is longer or shorter
        is an IntegrityError.
        """
