"""Withdrawing a release: its data go, its manifest and the reason stay.

A name that simply vanishes makes a reader look for a copy, and may be given to something else. Where the tombstone
stands, `verify` and `open_release` say that the release was withdrawn, and its version is not used again.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from meddiff_core.artefacts import write_text
from meddiff_core.errors import ConfigurationError
from meddiff_core.release.guard import count_names
from meddiff_core.release.manifest import MANIFEST, TOMBSTONE, read_manifest
from meddiff_core.release.templating import markdown

TEXT = """# {title} {version} was withdrawn

{reason}

Its volumes, tables and reports were removed. `{manifest}` still says what they were, and what they were made from. Do
not use copies of it any more.
"""


def yank_release(folder: Path, reason: str, identifiers: Iterable[str] = ()) -> None:
    """Remove the data of a release and leave TOMBSTONE.md with the reason beside its manifest.

    A command that was killed half way leaves the tombstone, and can be repeated.

    Raises:
        ConfigurationError: no reason is given, or it names one of the `identifiers` of real scans.
        IntegrityError: the folder is no release, or was withdrawn before.
    """
    said = " ".join(reason.split())
    if not said:
        raise ConfigurationError("reason must say why the release is withdrawn, is empty")
    if count_names(said, identifiers):
        raise ConfigurationError("reason must name no real subject, scan or folder: it stays where the release was")
    manifest = read_manifest(folder)
    title, version = markdown(manifest.title), manifest.version
    write_text(folder / TOMBSTONE, TEXT.format(title=title, version=version, reason=markdown(said), manifest=MANIFEST))
    remove_data(folder)


def remove_data(folder: Path) -> None:
    """All but the manifest, what signs it, and the tombstone."""
    stem = Path(MANIFEST).stem
    for path in sorted(folder.iterdir()):
        if path.name == TOMBSTONE or path.name.startswith(f"{stem}."):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
