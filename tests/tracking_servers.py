"""Real MLflow servers, and a relay before one that can stumble: servers of tests, each ended by its process."""

import base64
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

START_S = 600
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Without seven processes for jobs that nobody gives it."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class MlflowServer:
    """`mlflow server` on loopback, to start, kill, stop and start again."""

    def __init__(self, folder: Path, backend: str | None = None, workers: int = 1) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        store = backend or f"sqlite:///{folder / 'server.db'}"
        files = ["--artifacts-destination", str(folder / "artifacts")]
        self._command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *files]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(workers)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | LEAN, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the MLflow server does not start"
            time.sleep(0.2)

    def _answers(self) -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200)
        return False

    def send_signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End all of it, at once."""
        self.send_signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()


@contextmanager
def mlflow_server(folder: Path, backend: str | None = None, workers: int = 1) -> Iterator[MlflowServer]:
    server = MlflowServer(folder, backend, workers)
    try:
        server.start()
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.kill()


class Relay(ThreadingHTTPServer):
    """Answers 500, hangs, loses the answer after the work, or forwards; and asks who is there, if told to."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Forward)
        self.mode = "500"
        self.target: str = ""
        self.user: str | None = None
        self.counts: dict[str, int] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, user: str | None = None) -> str:
        return f"http://{user + '@' if user else ''}127.0.0.1:{self.server_address[1]}"


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def _relay(self) -> None:
        relay, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        relay.counts[relay.mode] = relay.counts.get(relay.mode, 0) + 1
        if relay.user and self.headers.get("Authorization") != _basic(relay.user):
            self._answer(401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}')
        elif relay.mode == "500":
            self._answer(500, b"<html>down</html>")
        elif relay.mode == "hang":
            while relay.mode == "hang":
                time.sleep(0.05)
            self.close_connection = True
        else:
            self._forward(body)

    def _forward(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.server.target.removeprefix("http://"), timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if self.server.mode == "lose" and self.command != "GET":
            self.close_connection = True
            self.connection.close()
        else:
            self._answer(answer.status, content)
        connection.close()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()
