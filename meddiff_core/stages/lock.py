"""One process at a time works on a study: two would write over each other's artefacts.

The lock is the operating system's, so it ends with the process that holds it, however that ends.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from meddiff_core.artefacts import STATE
from meddiff_core.errors import ConfigurationError

_LOOK_AGAIN_S = 1.0


@contextmanager
def locked(study_folder: Path, before_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a study's folder against other processes; the same one may enter again.

    Where another is at work, `before_waiting` is called, and then its end is waited for.

    Raises:
        ConfigurationError: another process is at work, and nothing was said of waiting.
    """
    path = study_folder / STATE / "locks" / "study.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, is_singleton=True, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        if before_waiting is None:
            raise ConfigurationError(
                f"study {study_folder.name}: another meddiff is working on it; wait, or stop that one"
            ) from error
        before_waiting()
        lock.acquire(timeout=-1, poll_interval=_LOOK_AGAIN_S)
    try:
        yield
    finally:
        lock.release()
