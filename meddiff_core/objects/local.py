"""The files of a release in a folder of this machine."""

import shutil
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from meddiff_core.errors import IntegrityError
from meddiff_core.objects.source import PIECE, MissingObject, Unreachable, altered


class LocalObjects:
    """Files by their name below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: deque[str] = deque(maxlen=0)

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.folder)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).is_file()

    def read(self, name: str, most: int) -> bytes:
        """The whole file of at most `most` bytes."""
        with _naming(name), self._open(name, most) as file:
            return file.read()

    def pieces(self, name: str, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """A file of `size` bytes from `start` on."""
        with _naming(name), self._open(name, size) as file:
            file.seek(start)
            while piece := file.read(PIECE):
                yield start, piece
                start += len(piece)
        if start != size:
            raise altered(name)

    def put(self, name: str, file: Path) -> None:
        """Write the bytes of a file, over what has that name."""
        path = self.folder / name
        partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial)
            partial.replace(path)
        except OSError as error:
            raise Unreachable(f"{name}: cannot be written: {error.strerror}") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def names(self, folder: str) -> list[str]:
        """Names of all files in a folder."""
        found = (self.folder / folder).rglob("*")
        return sorted(path.relative_to(self.folder).as_posix() for path in found if path.is_file())

    def delete(self, name: str) -> None:
        """Remove a file, if there is one."""
        (self.folder / name).unlink(missing_ok=True)

    def _open(self, name: str, most: int) -> IO[bytes]:
        """The file, of which no byte is read before its size is known to be small enough."""
        path = self.folder / name
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without an end
            raise IntegrityError(f"{name}: must be a file, is none")
        if status.st_size > most:
            raise altered(name)
        return path.open("rb")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors of the disk as lines that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(name) from error
    except OSError as error:
        raise IntegrityError(f"{name}: must be readable: {error.strerror}") from error
