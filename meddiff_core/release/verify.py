"""Whether a release is what its manifest says: complete, unaltered, consistent in itself, and vouched for.

A checksum alone does not show that a table lost a row before it was hashed, or that an array has no chunk where zarr
would read zeros; so the parts are also held against each other. Each check stands on those before it: nothing is
decoded whose size was not compared, and whatever a forged release holds, what comes back is lines of text.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meddiff_core.artefacts import digest_file
from meddiff_core.data.recalled import recalled_around
from meddiff_core.errors import IntegrityError
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.location import Location, RemotePath
from meddiff_core.objects.side_by_side import side_by_side
from meddiff_core.objects.source import ObjectSource, altered
from meddiff_core.release.bounded import describe_error, one_line
from meddiff_core.release.checks.layout import Layout, read_layout
from meddiff_core.release.checks.parquet_bounds import read_table
from meddiff_core.release.checks.table_agreement import check_columns, check_croissant, check_tables
from meddiff_core.release.checks.volume_checks import check_volumes, choose_volumes
from meddiff_core.release.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest, name_of, read_manifest
from meddiff_core.release.ome import COHORT
from meddiff_core.release.participants_table import TABLE
from meddiff_core.release.signing import check_signature
from meddiff_core.types import Progress

EVERY = 256
"""Small files are hashed in the time that a line of progress takes, so so many of them are one step."""


@dataclass(frozen=True)
class Depth:
    """How far to look."""

    volumes: float = 0.0
    """Share of the volumes to decode; 0 decodes none."""
    seed: int = 0
    """Which volumes a share smaller than 1 takes."""
    key: Ed25519PublicKey | None = None
    """Who must have signed it."""


@dataclass(frozen=True)
class Findings:
    """What was looked at, and what is wrong."""

    faults: tuple[str, ...]
    """One line each; empty when nothing is wrong."""
    signature: str = ""
    """Who vouches for the release."""
    decoded: int = 0
    """Volumes that were decoded and compared."""
    samples: int = 0
    """Volumes that there are."""
    part: str = ""
    """What it is a part of; empty for a whole release."""


def verify_release(path: Location, depth: Depth | None = None) -> list[str]:
    """What is wrong with a release, one line each; empty when nothing is."""
    work = check_release(path, depth or Depth())
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Findings = end.value
            return list(found.faults)


def check_release(path: Location, depth: Depth) -> Generator[Progress, None, Findings]:
    """Look at a release as far as wanted; yields how far it is, and never raises for what the release holds.

    Raises:
        Unreachable: the server that has it does not answer, or refuses.
    """
    try:
        manifest = read_manifest(path)
    except IntegrityError as error:
        return Findings((one_line(str(error)),))
    vouched = check_signature(path, manifest, depth.key)
    faults = [*_recalled(path, manifest), *vouched.faults, *(yield from _check_files(path, manifest))]
    chosen: list[int] = []
    if not faults:
        layout, table, faults = _check_metadata(_trusted(path, manifest), manifest)
        if layout and table is not None and not faults and depth.volumes:
            chosen = choose_volumes(manifest.samples, depth.volumes, depth.seed)
            faults = yield from check_volumes(layout, table, chosen)
    part = one_line(manifest.subset.describe()) if manifest.subset else ""
    return Findings(tuple(map(one_line, faults)), one_line(vouched.text), len(chosen), manifest.samples, part)


def _recalled(path: Location, manifest: Manifest) -> list[str]:
    """Whether the study in whose folder a release lies called back a subject that it was made from."""
    if not isinstance(path, Path) or manifest.parents.get("dataset") not in recalled_around(path):
        return []
    return [f"{name_of(path)} was made from a data set of which a subject was recalled: withdraw it by `meddiff yank`"]


def _trusted(path: Location, manifest: Manifest) -> Location:
    """The release; what a server gives a second time is compared with the manifest again."""
    if isinstance(path, RemotePath) and isinstance(path.place, ObjectSource):
        return RemotePath(CheckedObjects(path.place, manifest.files))
    return path


def _check_metadata(path: Location, manifest: Manifest) -> tuple[Layout | None, pd.DataFrame | None, list[str]]:
    """What can be compared without decoding a volume."""
    layouts: list[Layout] = []
    tables: list[pd.DataFrame] = []

    def look_at_store() -> Iterable[str]:
        layout, faults = read_layout(path / COHORT, manifest)
        layouts.extend([layout] if layout else [])
        return faults

    def look_at_table() -> Iterable[str]:
        tables.append(read_table(path / TABLE, manifest.samples))
        return check_tables(path, tables[0])

    faults = _safely(COHORT, look_at_store)
    if not faults:  # only then is the number of rows known to be no larger than that of files
        faults = _safely("participants", look_at_table) + _safely(
            "croissant.json", partial(check_croissant, path, manifest)
        )
    if not faults:
        faults = _safely(COHORT, partial(check_columns, layouts[0], tables[0]))
    return next(iter(layouts), None), next(iter(tables), None), faults


def _safely(what: str, check: Callable[[], Iterable[str]]) -> list[str]:
    """The faults that a check finds; a file made to break it is a fault as well."""
    try:
        return [*check()]
    except IntegrityError as error:
        return [str(error)]
    except Exception as error:  # each library raises its own
        return [f"{what}: cannot be read: {describe_error(error)}"]


def _check_files(folder: Location, manifest: Manifest) -> Generator[Progress, None, list[str]]:
    """Whether the files of the manifest are there, and in a folder only those."""
    if isinstance(folder, RemotePath):
        return (yield from _check_served(folder, manifest))
    try:
        kinds = dict(_walk(folder))
    except OSError as error:
        return [f"the folder cannot be read: {describe_error(error)}"]
    files = {name for name, kind in kinds.items() if kind == "file"}
    missing = manifest.files.keys() - kinds.keys()
    faults = [f"{name}: missing" for name in sorted(missing)]
    for emptied in kinds.keys() & {str(parent) for name in missing for parent in PurePosixPath(name).parents}:
        del kinds[emptied]  # what it held is missing, and was said to be
    extra = kinds.keys() - manifest.files.keys() - {MANIFEST, SIGNATURE}
    faults += [f"{name}: not in the manifest" for name in sorted(extra) if kinds[name] == "file"]
    faults += [f"{name}: must be a file, is a {kind}" for name, kind in sorted(kinds.items()) if kind != "file"]
    listed = sorted(files & manifest.files.keys())
    for done, name in enumerate(listed, start=1):
        if not _is_unaltered(f"{folder}/{name}", manifest.files[name]):
            faults.append(f"{name}: altered, it is not the file in the manifest")
        if done % EVERY == 0 or done == len(listed):
            yield Progress("checking files", done, len(listed))
    return faults


def _check_served(place: RemotePath, manifest: Manifest) -> Generator[Progress, None, list[str]]:
    """Whether a server gives each file as it was; what else it has cannot be asked."""
    source, count = place.place, len(manifest.files)
    assert isinstance(source, ObjectSource)

    def fault_of(name: str) -> str | None:
        try:
            digest = hashlib.sha256()
            for offset, piece in source.pieces(name, manifest.files[name].bytes):
                digest = digest if offset else hashlib.sha256()
                digest.update(piece)
        except IntegrityError as error:
            return str(error)
        return None if digest.hexdigest() == manifest.files[name].sha256 else str(altered(name))

    faults: list[str] = []
    done = 0
    for found in side_by_side(fault_of, manifest.files):
        done += len(found)
        faults += [fault for fault in found if fault]
        yield Progress("checking files", done, count)
    return sorted(faults)


def _is_unaltered(path: str, expected: FileEntry) -> bool:
    try:
        return os.stat(path).st_size == expected.bytes and digest_file(path) == expected.sha256
    except OSError:
        return False


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and kind of everything in a folder that is no folder with something in it."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
        if not entries and inside:
            yield inside, "folder with nothing in it"
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            else:
                yield name, _kind_of(entry.stat(follow_symlinks=False).st_mode)


def _kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    kinds = {stat.S_IFLNK: "link", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
