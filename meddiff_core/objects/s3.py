"""Objects in a bucket of S3, by obstore, which is the extra `s3`.

obstore finds keys, region and endpoint in the environment as the tools of the vendor do (keys.py adds their file), so
none is ever written down, pickled or sent to a worker. Its threads do not survive a fork: who reads in a forked worker
would hang for ever. There, a fresh process reads instead.
"""

import json
import os
import re
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.objects.keys import keys_from_file
from meddiff_core.objects.source import MissingObject, Refused, Unreachable, altered

PART = 8 << 20
"""Bytes of one request."""
# http:// only where whoever set the endpoint wrote it
SETTINGS: dict[str, Any] = {
    "client_options": {"allow_http": True, "timeout": "120s", "connect_timeout": "15s"},
    "retry_config": {"max_retries": 5},
}
QUICK: dict[str, Any] = {
    "client_options": {"allow_http": True, "timeout": "10s", "connect_timeout": "5s"},
    "retry_config": {"max_retries": 1},
}
"""For the first question, whose answer a person waits for."""
ONE_PUT = 64 << 20
"""Bytes of the largest object that is sent in one request."""
HERE = "localhost,127.0.0.1,::1"
_HEAD = struct.Struct("<?Q")
_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


class S3Objects:
    """Objects by their name below `s3://bucket/prefix`."""

    def __init__(self, url: str, quick: bool = False) -> None:
        parts = urlsplit(url)
        if not parts.netloc or "@" in parts.netloc or parts.query:
            raise ConfigurationError("an address in S3 must be like s3://bucket/release, without keys or a query")
        self.notes: deque[str] = deque(maxlen=0)
        self._url, self._quick = url, quick
        self._bucket: _Direct | _Apart | None = None
        self._pid, self._lock = 0, threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[str, bool]]:
        return type(self), (self._url, self._quick)

    @property
    def address(self) -> str:
        """The URL."""
        return self._url.rstrip("/")

    def exists(self, name: str) -> bool:
        """Whether the bucket has such an object."""
        try:
            self._opened().size(name)
        except MissingObject:
            return False
        return True

    def read(self, name: str, most: int) -> bytes:
        """The whole object of at most `most` bytes."""
        return self._opened().read(name, most)

    def put(self, name: str, file: Path) -> None:
        """Write the bytes of a file, over what has that name."""
        self._opened().put(name, str(file))

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none."""
        try:
            return self._opened().size(name)
        except MissingObject:
            return None

    def names(self, folder: str) -> list[str]:
        """Names of all objects in a folder."""
        found: list[str] = json.loads(self._opened().names(folder))
        return found

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""
        with suppress(MissingObject):
            self._opened().delete(name)

    def pieces(self, name: str, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """An object of `size` bytes from `start` on."""
        bucket = self._opened()
        if start == 0 and size <= PART:
            yield 0, bucket.read(name, size)
            return
        if bucket.size(name) != size:
            raise altered(name)
        while start < size:
            piece = bucket.part(name, start, min(PART, size - start))
            yield start, piece
            start += len(piece)

    def _opened(self) -> "_Direct | _Apart":
        with self._lock:
            if self._bucket is None or self._pid != os.getpid():
                self._pid = os.getpid()
                apart = _forked or bool(getproxies().keys() - {"no"})  # obstore sends even loopback to a proxy
                self._bucket = (_Apart if apart else _Direct)(self._url, self._quick)
            return self._bucket


class _Direct:
    """By obstore in this process."""

    def __init__(self, url: str, quick: bool) -> None:
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError as error:
            raise MeddiffError("an address in S3 needs obstore: pip install obstore") from error
        parts = urlsplit(url)
        self._place = parts.netloc
        settings = (QUICK if quick else SETTINGS) | {"credential_provider": keys_from_file()}
        self._store = S3Store(parts.netloc, prefix=parts.path.strip("/") or None, **settings)

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return int(self._ask(name, lambda: self._store.head(name)["size"]))

    def read(self, name: str, most: int) -> bytes:
        """All of them."""
        found = self._ask(name, lambda: self._store.get(name))
        if found.meta["size"] > most:
            raise IntegrityError(f"{name}: must have at most {most} bytes, has {found.meta['size']}")
        content: bytes = self._ask(name, lambda: bytes(found.bytes()))
        return content

    def part(self, name: str, start: int, length: int) -> bytes:
        """`length` of them from `start` on."""
        piece: bytes = self._ask(name, lambda: bytes(self._store.get_range(name, start=start, length=length)))
        if len(piece) != length:
            raise altered(name)
        return piece

    def put(self, name: str, file: str) -> bytes:
        """Write the bytes of a file."""
        parts = os.stat(file).st_size > ONE_PUT
        self._ask(name, lambda: self._store.put(name, Path(file), use_multipart=parts))
        return b""

    def names(self, folder: str) -> bytes:
        """Names of all objects in a folder, as JSON."""
        pages = self._ask(folder, lambda: list(self._store.list(folder)))
        return json.dumps([found["path"] for page in pages for found in page]).encode()

    def delete(self, name: str) -> bytes:
        """Remove an object."""
        self._ask(name, lambda: self._store.delete(name))
        return b""

    def _ask(self, name: str, call: Any, again: bool = True) -> Any:
        try:
            return call()
        except Exception as error:  # obstore's, or FileNotFoundError
            code = _code(str(error))
            if code in EXPIRED and again:
                return self._ask(name, call, again=False)  # with keys that are read anew
            if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
                raise MissingObject(name) from error
            refused = code in REFUSED or re.search(r"status code: 40[13]", str(error))
            kind = Refused if refused and code not in EXPIRED else Unreachable
            raise kind(f"{name}: the bucket {self._place} {_told(error, code)}") from None


EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
REFUSED = {
    "AccessDenied": "does not permit it to these keys",
    "InvalidAccessKeyId": "does not know the access key",
    "NoSuchBucket": "does not exist",
    "SignatureDoesNotMatch": "refuses the signature: the secret key is another",
}


def _code(text: str) -> str | None:
    """What the server calls an error."""
    found = re.search(r"<Code>(\w{1,60})</Code>", text)
    return found[1] if found else None


def _told(error: Exception, code: str | None) -> str:
    """An error in words. The server's own text may repeat an access key and what was signed, so only its code is."""
    if code is not None:
        return REFUSED.get(code, f"answers {code}")
    if found := re.search(r"status code: (\d{3})", str(error)):
        return f"answers {found[1]}"
    if "HTTP error" in str(error):
        return "cannot be reached"
    first = (str(error).splitlines() or [""])[0][:200]
    return f"does not give it: {first}"


class _Apart:
    """The same through a process of its own, which was not forked. One request at a time."""

    def __init__(self, url: str, quick: bool) -> None:
        environment = os.environ | {"no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), HERE)))}
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from meddiff_core.objects import s3; s3.serve()"
        )
        command = [sys.executable, "-c", code, url, json.dumps(sys.path), *["quick"] * quick]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._lock = threading.Lock()

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return int(self._ask("size", name))

    def read(self, name: str, most: int) -> bytes:
        """All of them."""
        return self._ask("read", name, most)

    def part(self, name: str, start: int, length: int) -> bytes:
        """`length` of them from `start` on."""
        return self._ask("part", name, start, length)

    def put(self, name: str, file: str) -> bytes:
        """Write the bytes of a file."""
        return self._ask("put", name, file)

    def names(self, folder: str) -> bytes:
        """Names of all objects in a folder, as JSON."""
        return self._ask("names", folder)

    def delete(self, name: str) -> bytes:
        """Remove an object."""
        return self._ask("delete", name)

    def _ask(self, *request: str | int) -> bytes:
        writer, reader = self._process.stdin, self._process.stdout
        assert writer
        assert reader
        with self._lock:
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                writer.flush()
                good, length = _HEAD.unpack(reader.read(_HEAD.size))
                content = reader.read(length)
            except (OSError, struct.error) as error:
                raise Unreachable(f"{request[1]}: the process that reads from S3 ended") from error
        if good:
            return content
        kind, text = json.loads(content)
        raise MissingObject(str(request[1])) if kind == MissingObject.__name__ else _KINDS[kind](text)

    def __del__(self) -> None:
        if (process := self.__dict__.get("_process")) is None:
            return
        for pipe in (process.stdin, process.stdout):
            pipe.close()  # at the end of its input it ends
        process.wait()


_KINDS: dict[str, type[MeddiffError]] = {
    kind.__name__: kind for kind in (MeddiffError, IntegrityError, Unreachable, Refused, ConfigurationError)
}


def serve() -> None:
    """Answer requests on standard input until it ends: the other side of `_Apart`."""
    bucket: _Direct | None = None
    for line in sys.stdin:
        try:
            bucket = bucket or _Direct(sys.argv[1], sys.argv[3:] == ["quick"])
            what, *arguments = json.loads(line)
            answer = getattr(bucket, what)(*arguments)
            _send(sys.stdout.buffer, True, answer if isinstance(answer, bytes) else str(answer).encode())
        except MeddiffError as error:
            kind = type(error).__name__
            _send(sys.stdout.buffer, False, json.dumps([kind, str(error)]).encode())


def _send(stream: IO[bytes], good: bool, content: bytes) -> None:
    stream.write(_HEAD.pack(good, len(content)))
    stream.write(content)
    stream.flush()
