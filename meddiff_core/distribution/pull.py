"""Bringing a release here, whole or a part of it: complete, every file hashed, or not at all.

A folder gets its name when all that its manifest lists lies in it; until then it grows beside the destination, and the
same command goes on with what is there. A tool that says done while a file is an error page of some gateway spoils a
training that nobody suspects.
"""

import errno
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from meddiff_core.artefacts import alone, digest_file, write_bytes, write_text
from meddiff_core.distribution.plan import Choice, plan_subset
from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.location import RemotePath
from meddiff_core.objects.side_by_side import side_by_side
from meddiff_core.objects.source import PIECE, ObjectSource, altered
from meddiff_core.release.manifest import (
    MANIFEST,
    SIGNATURE,
    FileEntry,
    Manifest,
    is_withdrawn,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from meddiff_core.release.signing import MOST_BYTES as MOST_SIGNATURE
from meddiff_core.release.signing import check_signature
from meddiff_core.types import Message, Progress, Work

MOST_FAULTS = 20
"""Files that may be wrong before the rest is not asked for any more."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
KB = 1000


@dataclass(frozen=True)
class PullPlan:
    """What shall lie here when all is done."""

    raw: bytes
    """The manifest, which lists every file with size and digest."""
    manifest: Manifest
    """The same, parsed."""
    objects: Mapping[str, str]
    """The name at the source of each file that comes from there."""
    written: Mapping[str, bytes] = field(default_factory=dict)
    """The others, made here."""
    signed: bool = False
    """The manifest is the source's own, so its signature comes along."""


Planner = Callable[[ObjectSource, bytes], PullPlan]
"""Decides what of a release is wanted, given its manifest."""


@dataclass(frozen=True)
class Pulled:
    """What came."""

    manifest: Manifest
    digest: str
    """SHA-256 of the manifest."""
    transferred: int
    """Bytes of files; 0 when all were here."""


def whole_release(source: ObjectSource, raw: bytes) -> PullPlan:
    """All of it."""
    parsed = parse_manifest(raw)
    return PullPlan(raw, parsed, {name: name for name in parsed.files}, signed=True)


def part_of(choice: Choice) -> Planner:
    """The volumes of a choice, as a subset of its own."""

    def plan(source: ObjectSource, raw: bytes) -> PullPlan:
        manifest = parse_manifest(raw)
        read = cache(CheckedObjects(source, manifest.files).read)
        found = plan_subset(read, manifest, hashlib.sha256(raw).hexdigest(), choice)
        written = dict(found.written)
        return PullPlan(written.pop(MANIFEST), found.manifest, {one.name: one.source for one in found.taken}, written)

    return plan


def pull_release(
    source: ObjectSource, folder: Path, digest: str | None = None, planner: Planner = whole_release
) -> Work[Pulled]:
    """Bring a release into `folder`, which appears when it is complete; or complete one that lies there.

    Raises:
        ConfigurationError: `folder` is something else.
        IntegrityError: a file is missing or not the one in the manifest, the manifest has not the digest that was
            asked for, or another version took its place meanwhile.
        Unreachable: the source does not answer, or refuses.
    """
    _check_destination(source, folder)
    place = RemotePath(source)
    with _held(folder):
        if is_withdrawn(place):
            read_manifest(place)  # says so
        parent = manifest_bytes(place)
        check_digest(digest, hashlib.sha256(parent).hexdigest())
        plan = planner(source, parent)
        work = _Work(source, folder, plan, parent)
        yield from work.prepare()
        yield from work.fetch()
        signature = work.signature()
        work.check_still()
        work.publish(signature)
        return Pulled(work.manifest, hashlib.sha256(plan.raw).hexdigest(), work.transferred)


class _Work:
    """The folders of one pull, and what is still to come into them."""

    def __init__(self, source: ObjectSource, folder: Path, plan: PullPlan, parent: bytes) -> None:
        self.source, self.folder, self.plan, self.parent = source, folder, plan, parent
        self.manifest = plan.manifest
        self.stage = stage_of(folder)
        self.repairs = folder.is_dir() and any(folder.iterdir())
        self.tree = folder if self.repairs else self.stage / "tree"
        self.wanted: list[str] = []
        self.transferred = 0
        self._folders: set[Path] = set()
        self._lock, self._stopping = threading.Lock(), threading.Event()

    def prepare(self) -> Work[None]:
        """Look at what is here, and whether the rest fits the disk."""
        if self.repairs and _manifest_in(self.folder) != self.plan.raw:
            raise ConfigurationError(f"{self.folder} must be new, empty, or this very release; it holds something else")
        yield from self._continue_or_begin()
        files = self.manifest.files
        here = bool(any(self.tree.iterdir()))
        for done, name in enumerate(files, start=1):
            if not _is_whole(self.tree, name, files[name]):
                self.wanted.append(name)
            if here and (done % 256 == 0 or done == len(files)):
                yield Progress("checking what is here", done, len(files))
        missing = sum(files[name].bytes for name in self.wanted)
        missing -= sum(path.stat().st_size for path in (self.stage / "parts").iterdir())
        if missing > (free := shutil.disk_usage(self.stage).free):
            raise MeddiffError(f"{self.folder} needs {_size(missing)} more, the disk has {_size(free)} free")

    def _continue_or_begin(self) -> Iterator[Message]:
        """Keep what an earlier call left, if it was of this very release."""
        mark, digest = self.stage / "digest", hashlib.sha256(self.plan.raw).hexdigest()
        before = mark.read_text() if mark.is_file() else ""
        if before != digest:
            if before:
                yield Message(f"what an earlier call left is of another release ({before[:12]}), it is removed")
                shutil.rmtree(self.stage)
            elif self.stage.exists() and any(not path.name.startswith(".digest.") for path in self.stage.iterdir()):
                raise ConfigurationError(f"{self.stage} must be what a pull left, it holds something else")
            write_text(mark, digest)  # makes the folder, and says from the start whose it is
            for name in ("parts", "tree"):
                (self.stage / name).mkdir()
        else:
            for name in ("parts", "tree"):
                (self.stage / name).mkdir(exist_ok=True)
            yield Message(f"goes on with what an earlier call left in {self.stage.name}")

    def fetch(self) -> Work[None]:
        """All that is wanted, several at a time; what is wrong is listed at the end."""
        total = sum(self.manifest.files[name].bytes for name in self.wanted)
        faults: list[str] = []
        shown = -1
        for found in side_by_side(self._bring, self.wanted, self._stopping):
            faults += [fault for fault in found if fault]
            while self.source.notes:
                yield Message(self.source.notes.popleft())
            if (done := -(-min(self.transferred, total) // KB)) != shown:
                yield Progress("pulling, kB", done, -(-total // KB))
                shown = done
            if len(faults) >= MOST_FAULTS:
                break
        if faults:
            self.check_still()
            heading = f"{len(faults)} files did not come as the manifest says, those that did are kept:"
            raise IntegrityError("\n".join([heading, *sorted(faults)]))

    def _bring(self, name: str) -> str | None:
        """One file under its name, or what is wrong with it."""
        try:
            self._make(name)
        except IntegrityError as error:
            return str(error)
        except OSError as error:
            if error.errno in FULL:
                raise MeddiffError(
                    f"{self.folder}: the disk is full; make room and give the same command again, it goes on"
                ) from error
            raise MeddiffError(f"{name}: must be writable: {error.strerror}") from error
        return None

    def _make(self, name: str) -> None:
        entry, part = self.manifest.files[name], self.stage / "parts" / hashlib.sha256(name.encode()).hexdigest()
        resumed = part.exists()
        digest = self._write(name, part, entry)
        if digest != entry.sha256 and resumed:  # the part may have been damaged since
            part.unlink()
            digest = self._write(name, part, entry)
        if digest != entry.sha256 or part.stat().st_size != entry.bytes:
            part.unlink()
            raise altered(name)
        final = self.tree / name
        if final.parent not in self._folders:
            _make_folder(self.tree, final.parent)
            self._folders.add(final.parent)
        part.replace(final)

    def _write(self, name: str, part: Path, entry: FileEntry) -> str:
        """Complete a part, and give the digest of all of it."""
        with part.open("r+b" if part.exists() else "w+b") as file:
            digest = hashlib.sha256()
            while piece := file.read(PIECE):
                digest.update(piece)
            for offset, piece in self._pieces(name, entry, file.tell()):
                if offset != file.tell():
                    file.seek(0)
                    file.truncate()
                    digest = hashlib.sha256()
                file.write(piece)
                digest.update(piece)
                if self._stopping.is_set():
                    raise IntegrityError(f"{name}: stopped")
                with self._lock:
                    self.transferred += len(piece)
        return digest.hexdigest()

    def _pieces(self, name: str, entry: FileEntry, start: int) -> Iterator[tuple[int, bytes]]:
        if name in self.plan.written:
            yield 0, self.plan.written[name]
        elif start < entry.bytes or not entry.bytes:
            yield from self.source.pieces(self.plan.objects[name], entry.bytes, start)

    def signature(self) -> bytes | None:
        """What the source has as a signature of its manifest."""
        if not self.plan.signed or not self.source.exists(SIGNATURE):
            return None
        return self.source.read(SIGNATURE, MOST_SIGNATURE)

    def check_still(self) -> None:
        """Whether the release is still the one that the pull began with; else nothing of it is left."""
        if (now := manifest_bytes(RemotePath(self.source))) != self.parent:
            shutil.rmtree(self.stage, ignore_errors=True)
            before, after = (hashlib.sha256(manifest).hexdigest() for manifest in (self.parent, now))
            raise IntegrityError(
                f"the release was replaced meanwhile: its manifest had the digest {before}, it has {after} now;"
                " what came was removed, pull again"
            )

    def publish(self, signature: bytes | None) -> None:
        """Give the folder its name."""
        write_bytes(self.tree / MANIFEST, self.plan.raw)
        if signature is not None:
            write_bytes(self.tree / SIGNATURE, signature)
            if faults := check_signature(self.tree, self.manifest, None).faults:
                (self.tree / SIGNATURE).unlink()
                raise IntegrityError(faults[0])
        if not self.repairs:
            if self.folder.is_dir():
                self.folder.rmdir()
            self.tree.rename(self.folder)
        shutil.rmtree(self.stage)


def stage_of(folder: Path) -> Path:
    """Where a pull grows: beside its destination, so that no part is ever taken for a file of a release."""
    return folder.with_name(f".{folder.name}.pull")


def _check_destination(source: ObjectSource, folder: Path) -> None:
    if folder.name in ("", ".."):
        raise ConfigurationError(f"the destination must be a folder with a name, is {folder}")
    if isinstance(source, LocalObjects) and folder.resolve().is_relative_to(source.folder.resolve()):
        raise ConfigurationError(f"the destination must lie outside the release, {folder} lies in it")
    for path in (folder, stage_of(folder)):
        if path.is_symlink():
            raise ConfigurationError(f"{path} must be a folder of its own, is a link")
        if path.exists() and not path.is_dir():
            raise ConfigurationError(f"{path} must be a folder, is a file")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with alone(folder.with_name(f".{folder.name}.lock"), wait=False):
            yield
    except BlockingIOError as error:
        raise ConfigurationError(f"{folder}: another pull writes it; wait for its end") from error


def check_digest(wanted: str | None, found: str) -> None:
    """Whether a manifest is the one that a person was told of, if any was.

    Raises:
        IntegrityError: it is another.
    """
    if wanted and wanted.lower() != found:
        raise IntegrityError(f"the manifest must have the digest {wanted}, as --digest says, it has {found}")


def _manifest_in(folder: Path) -> bytes | None:
    try:
        return manifest_bytes(folder)
    except IntegrityError:
        return None


def _is_whole(tree: Path, name: str, entry: FileEntry) -> bool:
    path = tree / name
    try:
        if path.is_symlink() or path.stat().st_size != entry.bytes:
            return False
        return digest_file(path) == entry.sha256
    except OSError:
        return False


def _make_folder(tree: Path, folder: Path) -> None:
    """Below the tree, and not through a link to elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    if not folder.resolve().is_relative_to(tree.resolve()):
        raise IntegrityError(f"{folder}: must lie in {tree}, a link leads elsewhere")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
