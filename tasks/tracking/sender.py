"""Sends what waits in a study to MLflow, from a process of its own.

A server that is gone, hangs or stumbles is waited for here, so that no training is, and neither its client's text
nor its memory gets into the command. The process ends with the command, however that ends.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meddiff_core.artefacts import alone
from meddiff_core.errors import IntegrityError, MeddiffError
from tasks.credentials import split_credentials, without_credentials
from tasks.progress import echo
from tasks.tracking.outbox import Outbox
from tasks.tracking.records import Opened

if TYPE_CHECKING:
    from tasks.tracking.store import Store

URI = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Patience:
    """How long a command waits at its end for what is left."""

    longest_s: float = 60.0
    """While records go out."""
    silent_s: float = 5.0
    """While none does."""


AT_HOME = Patience(silent_s=60.0)
"""The study's own database may have to be made first."""
ENDLESS = Patience(longest_s=7 * 86400.0, silent_s=7 * 86400.0)
"""A server that hangs ends it by its own time; a large model may take long."""
_PAUSES_S = (1, 2, 4, 8, 16, 30)
_LOOK_S = 0.5
_GOODBYE_S = 5.0
_LONGEST_REASON = 300
_USUAL = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_ALWAYS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # it is tried again here, where that can be seen and ended
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def sending(outbox: Outbox, patience: Patience | None = None) -> Iterator[None]:
    """Send what the block keeps, while it runs and for a few seconds after it; then say what is left."""
    patience = patience or (Patience() if os.environ.get(URI) else AT_HOME)
    refused, process = outbox.count_refused(), _start(outbox, patience)
    try:
        yield
    finally:
        if process is not None:
            _finish(process, patience)
        _say_what_is_left(outbox, refused)


def send_what_waits(study_folder: Path) -> str:
    """Send all that waits in a study, however long it takes; says how much that was.

    Raises:
        MeddiffError: something still waits.
    """
    outbox = Outbox(study_folder)
    before = len(outbox.waiting())
    if before:
        with sending(outbox, ENDLESS):
            pass
    if left := len(outbox.waiting()):
        raise MeddiffError(f"tracking: all {before} records must be sent, {left} still wait")
    return f"tracking: {before} records were sent"


def _start(outbox: Outbox, patience: Patience) -> "subprocess.Popen[bytes] | None":
    """The process; none where the machine has no room for it."""
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.tracking.sender", str(outbox.study_folder), *map(str, astuple(patience))],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # MLflow prints addresses with their passwords
            start_new_session=True,  # an interrupt is for the command, which has still something to send
        )
    except OSError as error:
        outbox.note(f"no process can be started: {error.strerror}")
        return None


def _environment() -> dict[str, str]:
    """With the credentials taken out of the address, which MLflow's errors repeat."""
    variables = _USUAL | os.environ | _ALWAYS
    if uri := variables.get(URI):
        variables[URI], credentials = split_credentials(uri)
        variables |= dict(zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), credentials, strict=False))
    return variables


def _finish(process: "subprocess.Popen[bytes]", patience: Patience) -> None:
    try:
        process.communicate(b"end", timeout=patience.longest_s + _GOODBYE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


def _say_what_is_left(outbox: Outbox, refused_before: int) -> None:
    if waiting := len(outbox.waiting()):
        why = f" ({trouble})" if (trouble := outbox.said_trouble()) else ""
        study = outbox.study_folder
        echo(
            f"tracking: {waiting} records wait for MLflow{why}; the next command or `meddiff track {study}` sends them"
        )
    if refused := outbox.count_refused() - refused_before:
        echo(f"tracking: {refused} records were refused, the reasons are in {outbox.refused}")


class Sender:
    """Sends in order; after a failure it waits, longer each time, and tries the same record again."""

    def __init__(self, outbox: Outbox, uri: str | None) -> None:
        self.outbox = outbox
        self.uri = uri
        self.ending = threading.Event()
        self.confirmed_s = time.monotonic()
        """When the last record was confirmed."""
        self.failures = 0
        self._store: Store | None = None

    def run(self) -> None:
        """Until nothing is left, or the first failure, after the end was announced."""
        while True:
            ends = self.ending.is_set()
            if self.send_waiting():
                self.ending.wait(_LOOK_S)
            elif not ends:
                self.ending.wait(_PAUSES_S[min(self.failures, len(_PAUSES_S)) - 1])
            if ends:
                return

    def send_waiting(self) -> bool:
        """Send what waits, up to the first failure; whether there was none."""
        for path in self.outbox.waiting():
            try:
                self._send(path)
            except Exception as error:  # of MLflow, its transport or its database: whatever it is, the record waits
                self.failures += 1
                self.outbox.note(without_credentials(_beginning(error)))
                return False
            self.failures = 0
            self.outbox.note(None)
            self.confirmed_s = time.monotonic()
        return True

    def _send(self, path: Path) -> None:
        from mlflow.exceptions import MlflowException

        from tasks.tracking.store import REFUSALS, Store

        try:
            record = self.outbox.read(path)
        except ValueError as error:
            self.outbox.refuse(path, _beginning(error))
            return
        self._store = self._store or Store(self.outbox.study_folder, self.uri)
        try:
            self._store.send(record)
            if isinstance(record, Opened) and (url := self._store.link(record)):
                self.outbox.link(record.run, url)
        except (MlflowException, IntegrityError) as error:
            if isinstance(error, MlflowException) and error.error_code not in REFUSALS:
                raise
            self.outbox.refuse(path, without_credentials(_beginning(error)))
            return
        path.unlink(missing_ok=True)


def _beginning(error: Exception) -> str:
    """Kind and beginning of an error: the rest is MLflow's advice, or the page of a proxy."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"


def _watch(sender: Sender, patience: Patience) -> None:
    """Announce the end when the command says so or is gone, and make it happen where a server hangs."""
    os.read(0, 16)
    sender.ending.set()
    ended_s = time.monotonic()
    while (now := time.monotonic()) - ended_s < patience.longest_s:
        if now - max(sender.confirmed_s, ended_s) > patience.silent_s:
            break
        time.sleep(0.1)
    os._exit(1)


def main(study_folder: str, *patience: str) -> None:
    """Send until the other end of standard input says or shows that the command is over."""
    os.nice(10)
    outbox = Outbox(Path(study_folder))
    sender = Sender(outbox, os.environ.get(URI) or None)
    threading.Thread(target=_watch, args=(sender, Patience(*map(float, patience))), daemon=True).start()
    outbox.folder.mkdir(parents=True, exist_ok=True)
    if sender.uri is None:  # MLflow makes a folder `file:` where it is, of what it takes for the path in our address
        os.chdir(outbox.folder)
    with alone(outbox.folder / "sender.lock"):
        sender.run()
    os._exit(0)  # whatever MLflow's threads still wait for


if __name__ == "__main__":
    main(*sys.argv[1:])
