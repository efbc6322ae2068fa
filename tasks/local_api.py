"""The Prefect API of one command: a process on loopback that ends when the command does, however it ends.

Prefect's own ephemeral server outlives a command that was killed, and keeps its port, its memory and its
lock on the database. This one holds one end of a pipe to the command; when the command is gone, the pipe
closes and the server stops. It starts while the command still imports torch, which hides most of the wait.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path

from meddiff_core.errors import MeddiffError
from tasks.environment import STATE

_HOST = "127.0.0.1"
_ANSWER_S = 180
_GOODBYE_S = 10
_SERVER_ENVIRONMENT = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",  # only the services that a command needs, as Prefect's own child
    "PREFECT__SERVER_FINAL": "1",
    # Nobody subscribes to events, and no automation waits for one: only the states of tasks are read from them.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "0",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "0",
    "PREFECT_SERVER_EVENTS_STREAM_OUT_ENABLED": "0",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "",  # its log is a file
}


@contextmanager
def local_api(study_folder: Path) -> Iterator[Callable[[], None]]:
    """Start the API and point PREFECT_API_URL at it; yields a function that waits until it answers.

    Does nothing where Prefect has an API already. Call `prepare_environment` before, import prefect after.
    """
    if _has_api():
        yield lambda: None
        return
    home = Path(os.environ.get("PREFECT_HOME") or study_folder.absolute() / STATE / "prefect")
    log = home / "server.log"
    with _server(log) as (process, port):
        os.environ["PREFECT_API_URL"] = f"http://{_HOST}:{port}/api"
        try:
            yield lambda: _wait_until_it_answers(process, port, log)
        finally:
            _send_what_is_left()
            del os.environ["PREFECT_API_URL"]


def _has_api() -> bool:
    """By the environment, or, once Prefect has read that, by its settings."""
    if "PREFECT_API_URL" in os.environ or "prefect" not in sys.modules:
        return "PREFECT_API_URL" in os.environ
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() is not None


@contextmanager
def _server(log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process and its port, which is opened here and handed on, so that nobody takes it in between."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server((_HOST, 0)) as listener, log.open("wb") as output:
        port: int = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.local_api", str(listener.fileno())],
            env=os.environ | _SERVER_ENVIRONMENT,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # an interrupt is for the command, which still has states to report
        )
    try:
        yield process, port
    finally:
        _stop(process)


def _send_what_is_left() -> None:
    """Prefect sends its logs every other second; at the end of the process nobody would be there to take them."""
    if "prefect.logging.handlers" in sys.modules:
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=_GOODBYE_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=_GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _ANSWER_S
    while not _answers(port):
        if process.poll() is not None:
            raise MeddiffError(
                f"the local Prefect API must answer, it ended with status {process.returncode}: see {log}"
            )
        if time.monotonic() > deadline:
            raise MeddiffError(f"the local Prefect API must answer within {_ANSWER_S} s, it did not: see {log}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def stop_with_parent() -> None:
    """End this process when whoever holds the other end of its standard input is gone."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GOODBYE_S)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _serve(descriptor: int) -> None:
    stop_with_parent()
    import uvicorn
    from prefect.server.api import server

    # It looks for the work of schedules, workers and leases several times a second. A lone run has none of them.
    server.background_worker = _no_background_worker  # type: ignore[assignment,attr-defined]
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _no_background_worker(*_: object, **__: object) -> AbstractAsyncContextManager[None]:
    return nullcontext()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
