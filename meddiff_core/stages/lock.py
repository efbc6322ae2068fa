"""One process at a time works on a study: two would write over each other's artefacts.

The lock is the operating system's, so it ends with the process that holds it, however that ends. Who holds it stands
in a file beside it, for the one who is turned away.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from meddiff_core.artefacts import STATE, write_json
from meddiff_core.errors import ConfigurationError

_LOOK_AGAIN_S = 1.0


@contextmanager
def locked(study_folder: Path, before_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a study's folder against other processes; the same one may enter again.

    Where another is at work, `before_waiting` is called, and then its end is waited for.

    Raises:
        ConfigurationError: another process is at work, and nothing was said of waiting; it names the process and since
            when.
    """
    path = study_folder / STATE / "locks" / "study.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = path.with_name("owner.json")
    lock = FileLock(path, timeout=0, is_singleton=True, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        if before_waiting is None:
            found = f"another meddiff is working on it{_described(owner)}"
            raise ConfigurationError(f"study {study_folder.name}: {found}; wait, or stop that one") from error
        before_waiting()
        lock.acquire(timeout=-1, poll_interval=_LOOK_AGAIN_S)
    try:
        if lock.lock_counter == 1:
            with suppress(OSError):  # a full disk is for what is worked on to report
                write_json(owner, {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        yield
    finally:
        lock.release()


def _described(owner: Path) -> str:
    """Process, machine and age; nothing where the owner has not written it yet."""
    try:
        found = json.loads(owner.read_text())
        minutes = max(0.0, time.time() - float(found["since"])) / 60
        return f" (process {int(found['process'])} on {found['host']}, for {minutes:.0f} min)"
    except (OSError, ValueError, TypeError, KeyError):
        return ""
