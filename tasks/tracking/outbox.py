"""Records that wait in a study's folder until MLflow has confirmed them: a file each, named in their order.

A record is written whole or not at all, and removed only after its confirmation. Writing never raises: a full disk
costs records, and not the training that they are about.
"""

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from meddiff_core.artefacts import STATE
from tasks.progress import echo
from tasks.tracking.records import RECORD, Closed, Opened, Record

LARGEST = 64 * 2**20
"""Bytes of a record. A larger one was not written by us."""
_NAME = re.compile(r"\d{12}-\w+\.json")


class Outbox:
    """What waits below `.meddiff/tracking` of a study. It is written by one process at a time, and emptied by one."""

    def __init__(self, study_folder: Path) -> None:
        self.study_folder = study_folder.absolute()
        self.folder = self.study_folder / STATE / "tracking"
        self.records, self.refused = self.folder / "outbox", self.folder / "refused"
        self.open, self.links = self.folder / "open", self.folder / "links"
        self.trouble = self.folder / "trouble.txt"
        self._numbers = itertools.count(max((int(path.name[:12]) for path in self.waiting()), default=0) + 1)
        self._lost = 0

    def waiting(self) -> list[Path]:
        """Files of the records that were not confirmed, in order."""
        with suppress(OSError):
            return [self.records / name for name in sorted(os.listdir(self.records)) if _NAME.fullmatch(name)]
        return []

    def put(self, record: Record) -> None:
        """Keep a record until it is sent."""
        try:
            name = f"{next(self._numbers):012d}-{record.run[:8]}.json"
            still_open = self.open / f"{record.run}.json"
            if isinstance(record, Opened):
                _write(still_open, _if_lost(record).model_dump_json().encode())
            _write(self.records / name, record.model_dump_json().encode())
            if isinstance(record, Closed):
                still_open.unlink(missing_ok=True)
            elif still_open.exists():
                os.utime(still_open)
        except (OSError, ValueError) as error:  # no room, or a text that no file can hold
            self._lose(error)

    def close_lost_runs(self) -> None:
        """End the runs that killed processes of this study left open. For a process that holds the study.

        They ended when the last of them was heard of.
        """
        lost = sorted(self.open.glob("*.json"))
        last_ms = max((int(path.stat().st_mtime * 1000) for path in lost), default=0)
        for path in lost:
            with suppress(ValueError):  # cut by a power failure, it names no run
                closed = Closed.model_validate_json(path.read_bytes())
                self.put(closed.model_copy(update={"time_ms": last_ms}))
            path.unlink(missing_ok=True)

    def read(self, path: Path) -> Record:
        """A record that waits.

        Raises:
            ValueError: it is none.
        """
        if path.stat().st_size > LARGEST:
            raise ValueError(f"a record must have at most {LARGEST} bytes, has {path.stat().st_size}")
        return RECORD.validate_json(path.read_bytes())

    def refuse(self, path: Path, reason: str) -> None:
        """Set aside a record that can never be sent, with the reason beside it."""
        self.refused.mkdir(parents=True, exist_ok=True)
        path.replace(self.refused / path.name)
        _write(self.refused / f"{path.stem}.txt", f"{reason}\n".encode())

    def count_refused(self) -> int:
        """Records that were set aside."""
        return sum(1 for _ in self.refused.glob("*.json"))

    def note(self, trouble: str | None) -> None:
        """Say why records wait, or that nothing hinders them."""
        with suppress(OSError):
            if trouble is None:
                self.trouble.unlink(missing_ok=True)
            else:
                _write(self.trouble, trouble.encode())

    def said_trouble(self) -> str:
        """Why records wait, if that is known."""
        with suppress(OSError):
            return self.trouble.read_text()
        return ""

    def link(self, run: str, url: str | None) -> None:
        """Note where MLflow shows a run, or forget it."""
        with suppress(OSError):
            if url is None:
                (self.links / run).unlink(missing_ok=True)
            else:
                _write(self.links / run, url.encode())

    def take_links(self) -> Iterator[tuple[str, str]]:
        """Runs that MLflow shows since the last call, and where."""
        with suppress(OSError):
            for path in sorted(path for path in self.links.iterdir() if path.suffix != ".partial"):
                yield path.name, path.read_text()
                path.unlink()

    def _lose(self, error: Exception) -> None:
        self._lost += 1
        if self._lost == 1:
            echo(f"tracking: the record of this run has gaps, since a part cannot be written: {error}")


def _if_lost(record: Opened) -> Closed:
    """What shall be said of a run if nobody lives to say more."""
    return Closed(run=record.run, experiment=record.experiment, status="KILLED", time_ms=record.time_ms)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all. Not synchronised to the disk, which would make a training wait for it: after a power
    failure the last records may be lost, and an empty one is refused when it is read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def now_ms() -> int:
    """Time as MLflow has it."""
    return int(time.time() * 1000)
