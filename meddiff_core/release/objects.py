"""The files of a release as a reader gets them: those of the manifest, or an error that names one.

zarr reads a deleted chunk as zeros and every OME-Zarr validator stops before the pixels. So each file is held
against its size and SHA-256 the first time that a process reads it, before anything in it is believed.
"""

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from meddiff_core.errors import IntegrityError
from meddiff_core.release.manifest import FileEntry


class ReleasedFiles:
    """Bytes of files by their name in the manifest."""

    def __init__(self, folder: Path, expected: Mapping[str, FileEntry] | None) -> None:
        """`expected` is the manifest's list; None trusts whatever lies there."""
        self._folder, self._expected = folder, expected
        self._checked: set[str] = set()

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            IntegrityError: it is missing, or is not the file in the manifest.
        """
        if self._expected is None or name in self._checked:
            return self._bytes(name, None)
        if name not in self._expected:
            raise IntegrityError(f"{name}: not in the manifest")
        entry = self._expected[name]
        content = self._bytes(name, entry.bytes)
        if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _altered(name)
        self._checked.add(name)
        return content

    def _bytes(self, name: str, size: int | None) -> bytes:
        path = self._folder / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without an end
                raise IntegrityError(f"{name}: must be a file, is none")
            if size not in (None, status.st_size):  # before a large file is read for nothing
                raise _altered(name)
            return path.read_bytes()
        except FileNotFoundError as error:
            raise IntegrityError(f"{name}: missing") from error
        except OSError as error:
            raise IntegrityError(f"{name}: must be readable: {error.strerror}") from error


def _altered(name: str) -> IntegrityError:
    return IntegrityError(f"{name}: altered, it is not the file in the manifest")
