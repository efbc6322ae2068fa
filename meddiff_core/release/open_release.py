"""The door to a release, kept light: importing it loads neither torch nor zarr."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meddiff_core.release.reader import Release


def open_release(path: Path | str) -> "Release":
    """Open a release folder to read its volumes, label maps and table.

    Raises:
        IntegrityError: the folder is no release.
    """
    from meddiff_core.release.reader import Release

    release = Release(Path(path))
    _ = release.manifest
    return release
