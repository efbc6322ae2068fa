"""A web server over a folder, in a thread, that can be told to misbehave, or to ask for the signatures of S3."""

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

Misbehaviour = Callable[["Handler", bytes], bool]
"""Answers a request for some content itself, and says whether it did."""


@dataclass
class Server:
    """What it serves, how, and what it was asked for."""

    folder: Path
    port: int = 0
    ranges: bool = True
    misbehave: dict[str, Misbehaviour] = field(default_factory=dict)
    """By the end of the path."""
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    keys: tuple[str, str] | None = None
    """Access key and secret with which each request must be signed."""
    refusal: bytes = b"<Error><Code>SignatureDoesNotMatch</Code></Error>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, end: str) -> int:
        return sum(path.endswith(end) for path in self.asked)


class Handler(BaseHTTPRequestHandler):
    """GET with ranges, if the server has them; PUT, lists and deletes as S3 has them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's system
    server_state: Server

    def do_GET(self) -> None:
        state, path = self.server_state, unquote(urlsplit(self.path).path)
        state.asked.append(path)
        state.headers.append({name.lower(): value for name, value in self.headers.items()})
        if state.keys and not self.is_signed(*state.keys):
            self.answer(403, state.refusal)
            return
        if "list-type=2" in self.path:
            self.list_objects(path, parse_qs(urlsplit(self.path).query)["prefix"][0])
            return
        file = state.folder / path.lstrip("/")
        content = file.read_bytes() if file.is_file() else b""
        for end, misbehave in list(state.misbehave.items()):
            if path.endswith(end) and misbehave(self, content):
                return
        if not file.is_file():
            self.answer(404, b"<html>no such file</html>")
            return
        asked = self.asked_range(len(content)) if state.ranges else None
        if asked is None:
            self.answer(200, content)
        elif asked[0] >= len(content):
            self.answer(416, b"")
        else:
            start, end = asked
            self.answer(206, content[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(content)}")

    def do_PUT(self) -> None:
        state, path = self.server_state, unquote(urlsplit(self.path).path)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        state.asked.append(f"PUT {path}")
        if state.keys and not (self.is_signed(*state.keys) and self.holds(content)):
            self.answer(403, state.refusal)
            return
        for end, misbehave in list(state.misbehave.items()):
            if end.startswith("PUT ") and path.endswith(end[4:]) and misbehave(self, content):
                return
        self.keep(path, content)
        self.answer(200, b"", ETag='"0"')

    def do_POST(self) -> None:
        """Deletes of several objects, with which obstore removes one."""
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        bucket = self.server_state.folder / urlsplit(self.path).path.strip("/")
        names = re.findall(r"<Key>([^<]*)</Key>", content)
        for name in names:
            (bucket / name).unlink(missing_ok=True)
        deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def keep(self, path: str, content: bytes) -> None:
        """Write an object; the bucket is a folder that must be there."""
        file = self.server_state.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def holds(self, content: bytes) -> bool:
        """Whether a body is the one that was signed."""
        return self.headers["x-amz-content-sha256"] == hashlib.sha256(content).hexdigest()

    def list_objects(self, bucket: str, folder: str) -> None:
        """Names and sizes of the objects in a folder, as S3 lists them."""
        root = self.server_state.folder / bucket.strip("/")
        files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
        entry = "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-11-28T12:00:00Z</LastModified></Contents>"
        found = "".join(entry.format(path.relative_to(root).as_posix(), path.stat().st_size) for path in files)
        self.answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())

    def do_HEAD(self) -> None:
        if self.server_state.keys and not self.is_signed(*self.server_state.keys):
            self.answer(403, b"")
            return
        file = self.server_state.folder / unquote(urlsplit(self.path).path).lstrip("/")
        size = file.stat().st_size if file.is_file() else 0
        self.send_response(200 if file.is_file() else 404)
        self.send_header("Content-Length", str(size))
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 12:00:00 GMT")
        self.end_headers()

    def is_signed(self, access: str, secret: str) -> bool:
        """By version 4 of the signature, which covers method, path, query and headers; sent bodies are empty here."""
        form = r"AWS4-HMAC-SHA256 Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
        found = re.fullmatch(form, self.headers.get("Authorization", ""))
        if not found or found[1] != access:
            return False
        scope, signed, parts = found[2], found[3], urlsplit(self.path)
        headers = "".join(f"{name}:{(self.headers.get(name) or '').strip()}\n" for name in signed.split(";"))
        query, payload = "&".join(sorted(filter(None, parts.query.split("&")))), self.headers["x-amz-content-sha256"]
        request = "\n".join([self.command, parts.path, query, headers, signed, payload])
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, _sha256(request)])
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), found[4])

    def asked_range(self, size: int) -> tuple[int, int] | None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        return (int(found[1]), min(int(found[2] or size - 1) + 1, size)) if found else None

    def answer(self, status: int, body: bytes, length: int | None = -1, **headers: str) -> None:
        """An answer whose length may be a lie, or None for no length at all."""
        self.send_response(status)
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 12:00:00 GMT")
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is None or length > len(body):
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
        self.server_state.sent += len(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve a folder on a free port of this machine."""
    state = Server(folder)
    handler = type("Bound", (Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
