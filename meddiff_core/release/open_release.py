"""The door to a release, kept light: importing it loads neither torch nor zarr."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from meddiff_core.errors import ConfigurationError

if TYPE_CHECKING:
    from meddiff_core.release.reader import Release


def open_release(path: Path | str, check: bool = True) -> "Release":
    """Open a release folder to read its volumes, label maps and table.

    Args:
        path: The folder, on a disk of this machine.
        check: Hold each file against the manifest when a process first reads it.

    Raises:
        ConfigurationError: `path` is a URL or a file.
        IntegrityError: the folder is no release.
    """
    from meddiff_core.release.reader import Release

    release = Release(_folder(path), check)
    _ = release.manifest
    return release


def _folder(path: Path | str) -> Path:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # a drive is one letter
        raise ConfigurationError(f"a release must be a folder of this machine, got the URL {path}: copy it here first")
    folder = Path(path).expanduser()
    if folder.is_file():
        raise ConfigurationError(f"a release must be a folder, {folder.name} is a file: unpack it first")
    return folder
