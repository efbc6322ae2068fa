"""Where an export is written: beside its final place, in steps that a restart continues, and moved there at once.

Nobody finds half an export under its name. After a kill, a full disk or a bad volume the same command goes on where it
stopped: a step counts as done when its files are safe on the disk and the record beside them says so.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meddiff_core.artefacts import alone, digest_of, publish_folder, write_json
from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.objects.location import Location
from meddiff_core.release.bounded import read_object

SAFE_EVERY_S = 10.0
"""Seconds of work that a kill loses at most, beside the step at hand."""


@dataclass
class Writing:
    """An export that is being written."""

    folder: Path
    """Holds what is written so far."""
    state: Path
    """The record, outside of it: whoever finds the folder without one knows that it is not ours to remove."""
    request: str
    """Digest of what was asked for: only the very same export is continued."""
    done: int = 0
    """Steps whose files are safe."""
    _written: int = 0
    _unsafe: list[Path] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def step_done(self, paths: Iterable[Path]) -> None:
        """Note that a step wrote these files; every few seconds they are made safe."""
        self._unsafe += paths
        self._written += 1
        if time.monotonic() - self._since > SAFE_EVERY_S:
            self.make_safe()

    def make_safe(self) -> None:
        """Bring what was written to the disk, and then record it as done."""
        for path in self._unsafe:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self.done, self._written = self.done + self._written, 0
        self._unsafe.clear()
        write_json(self.state, {"request": self.request, "done": self.done})
        self._since = time.monotonic()


@contextmanager
def writing_export(destination: Path, source: Location, request: object) -> Iterator[Writing]:
    """A folder to write an export in, which appears as `destination` when the block ends well.

    Raises:
        ConfigurationError: the destination is a link, a file, not empty, or inside the release.
        MeddiffError: the disk is full, or may not be written to.
    """
    _refuse(destination, source)
    final = destination.absolute()
    partial = final.with_name(f".{final.name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with alone(final.with_name(f".{final.name}.lock")):
            _refuse(destination, source)  # whoever wrote it meanwhile
            writing = _begin(partial, final.with_name(f".{final.name}.state.json"), digest_of(request))
            yield writing
            publish_folder(partial, final)  # brings every file to the disk first
            writing.state.unlink()
    except OSError as error:
        raise MeddiffError(
            f"{destination}: cannot be written: {error.strerror or type(error).__name__}; what was written lies in "
            f"{partial.name} beside it, and the same command goes on"
        ) from error


def _refuse(destination: Path, source: Location) -> None:
    if destination.is_symlink():
        raise ConfigurationError(f"{destination}: must be a new or empty folder, is a link")
    if destination.exists() and not destination.is_dir():
        raise ConfigurationError(f"{destination}: must be a new or empty folder, is a file")
    if destination.is_dir() and any(destination.iterdir()):
        raise ConfigurationError(f"{destination}: must be a new or empty folder, holds files")
    if isinstance(source, Path) and destination.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(f"{destination}: must lie outside the release, which it would alter")


def _begin(partial: Path, state: Path, request: str) -> Writing:
    """What was begun, if it is the same export; else an empty folder. What we did not write, we do not remove."""
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise ConfigurationError(f"{partial}: must be a folder of an export, is none; remove it")
    if partial.is_dir() and any(partial.iterdir()) and not state.is_file():
        raise ConfigurationError(f"{partial}: holds files of something else; remove it")
    if partial.is_dir() and state.is_file():
        known = read_object(state)
        done = known.get("done")
        if known.get("request") == request and isinstance(done, int) and done >= 0:
            return Writing(partial, state, request, done)
        shutil.rmtree(partial)
    write_json(state, {"request": request, "done": 0})
    partial.mkdir(exist_ok=True)
    return Writing(partial, state, request)
