"""The files of a release on a web server, by requests: a static one is enough, with ranges or without.

A cut body goes on where it ended, a server that is busy is waited for as long as it asks, one that refuses is believed
at once. A redirect to another host, a body that is longer than the manifest says or compressed unasked is an error:
whatever comes back as bytes came from where the user pointed at.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import responses as phrases
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

import requests
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError
from urllib3.util.retry import Retry

from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.source import PIECE, MissingObject, Unreachable, altered

BUSY = (408, 429, 500, 502, 503, 504)
REDIRECTS = (301, 302, 303, 307, 308)
GONE = (404, 410)
MOST_REDIRECTS = 5
TRICKLE = 1 << 14
"""Bytes that must come within two time limits; who sends fewer has stopped, as far as a person can tell."""


@dataclass(frozen=True)
class Access:
    """How to deal with a server."""

    allow_hosts: tuple[str, ...] = ()
    """Other hosts that it may send us to, as `host` or `host:port`."""
    timeout_s: float = 30.0
    """Without an answer, or another byte of it."""
    retries: int = 5
    """In a row without a step forward."""
    longest_wait_s: float = 120.0
    """That a server may ask for by Retry-After."""
    backoff_s: float = 0.5
    """Doubled from one retry to the next where the server asks for nothing."""


class _Cut(Exception):
    """What came cannot be all, or not what was asked for: ask again."""


class HttpObjects:
    """Objects by their name below a URL."""

    def __init__(self, url: str, access: Access | None = None) -> None:
        self.access = access or Access()
        self.notes: deque[str] = deque(maxlen=100)
        self._url = url
        parts = urlsplit(url)
        self._base = parts._replace(netloc=_host(parts), path=parts.path.rstrip("/"), fragment="")
        given = parts.username is not None
        self._auth = (unquote(parts.username or ""), unquote(parts.password or "")) if given else None
        self._pid, self._sessions = 0, threading.local()

    def __reduce__(self) -> tuple[type, tuple[str, Access]]:
        return type(self), (self._url, self.access)

    @property
    def address(self) -> str:
        """The URL without user, password and query, which may hold a key."""
        return urlunsplit(self._base._replace(query=""))

    def exists(self, name: str) -> bool:
        """Whether the server has such an object."""
        try:
            for _ in self._pieces(name, None, 0):
                break
        except MissingObject:
            return False
        return True

    def read(self, name: str, most: int) -> bytes:
        """The whole object of at most `most` bytes."""
        content = bytearray()
        for offset, piece in self._pieces(name, None, 0):
            del content[offset:]
            content += piece
            if len(content) > most:
                raise IntegrityError(f"{name}: must have at most {most} bytes, has more")
        return bytes(content)

    def pieces(self, name: str, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """An object of `size` bytes from `start` on, or from 0 where the server begins again."""
        for offset, piece in self._pieces(name, size, start):
            if offset + len(piece) > size:
                raise altered(name)
            yield offset, piece

    def _pieces(self, name: str, size: int | None, at: int) -> Iterator[tuple[int, bytes]]:
        """As long as it takes; a size of None is whatever the server says it is."""
        furthest, budget = at, self._budget()
        while True:
            try:
                with self._get(name, at) as reply:
                    at = _offset_of(reply, at)
                    for piece in self._body(reply, name):
                        yield at, piece
                        at += len(piece)
                if size is None or at == size:
                    return
                if _says_its_end(reply):
                    raise altered(name)
                raise _Cut(f"ended after {at} of {size} bytes")
            except (requests.RequestException, HTTPError, OSError, _Cut) as error:
                if at >= furthest + PIECE:
                    furthest, budget = at, self._budget()
                at = 0 if isinstance(error, _Elsewhere) else at
                budget = self._wait(budget, name, error)

    def _body(self, reply: requests.Response, name: str) -> Iterator[bytes]:
        """The bytes as they were sent."""
        if (coding := reply.headers.get("Content-Encoding", "identity").lower()) != "identity":
            raise IntegrityError(f"{name}: must come as it lies there, the server compresses it unasked ({coding:.20})")
        since, came = time.monotonic(), 0
        while piece := reply.raw.read1(PIECE, decode_content=False):
            yield piece
            came += len(piece)
            if came >= TRICKLE:
                since, came = time.monotonic(), 0
            elif time.monotonic() - since > 2 * self.access.timeout_s:
                raise _Cut("stopped sending")

    def _get(self, name: str, start: int) -> requests.Response:
        """The head of an answer that holds the object, or what is left of it."""
        url = urlunsplit(self._base._replace(path=f"{self._base.path}/{quote(name)}"))
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        for _ in range(MOST_REDIRECTS + 1):
            reply = self._ask(url, headers)
            if reply.status_code not in REDIRECTS:
                return self._accepted(reply, name)
            reply.close()
            url = self._follow(url, reply.headers.get("Location", ""), name)
        raise Unreachable(f"{name}: {self._base.netloc} redirects more than {MOST_REDIRECTS} times")

    def _ask(self, url: str, headers: dict[str, str]) -> requests.Response:
        ours = _origin(urlsplit(url)) == _origin(self._base)
        auth = self._auth if ours else _anonymous
        return self._session().get(
            url, headers=headers, auth=auth, stream=True, allow_redirects=False, timeout=self.access.timeout_s
        )

    def _accepted(self, reply: requests.Response, name: str) -> requests.Response:
        status = reply.status_code
        if status in (200, 206):
            return reply
        reply.close()
        if status in GONE:
            raise MissingObject(name)
        if status == 416:
            raise _Elsewhere("has no such range")
        if status in BUSY:
            raise _Busy(reply)
        raise Unreachable(f"{name}: {self._base.netloc} refuses it: {_status(status)}")

    def _follow(self, url: str, location: str, name: str) -> str:
        """Where a redirect leads, if that is the same host or one that the user named."""
        before, after = urlsplit(url), urlsplit(urljoin(url, location))
        place = _host(after)
        if after.scheme not in ("http", "https") or not after.hostname:
            raise Unreachable(f"{name}: {_host(before)} redirects to {after.scheme or 'nowhere'}:, which is refused")
        if before.scheme == "https" and after.scheme == "http":
            raise Unreachable(f"{name}: {_host(before)} redirects from https to http, which is refused")
        upgraded = before.hostname == after.hostname and before.port is None and after.port is None
        known = {*self.access.allow_hosts, self._base.netloc}
        if not upgraded and place not in known and after.hostname not in known:
            raise Unreachable(
                f"{name}: {_host(before)} redirects to another host, {place}: --allow-host {place} permits it"
            )
        return urlunsplit(after._replace(netloc=place, fragment=""))

    def _budget(self) -> Retry:
        return Retry(
            total=self.access.retries,
            connect=min(2, self.access.retries),
            backoff_factor=self.access.backoff_s,
            backoff_max=self.access.longest_wait_s,
            retry_after_max=10**9,  # what is longer than we wait is said, not shortened
        )

    def _wait(self, budget: Retry, name: str, error: Exception) -> Retry:
        """Wait as long as is due before the next attempt; the last error ends it."""
        asked = _asked_wait(budget, error)
        what = _describe(error, self.access.timeout_s)
        if asked > self.access.longest_wait_s:
            raise Unreachable(
                f"{name}: {self._base.netloc} {what} and asks to wait {asked:.0f} s,"
                f" longer than {self.access.longest_wait_s:.0f} s: try again later"
            ) from error
        if isinstance(error, requests.exceptions.SSLError):
            raise Unreachable(f"{name}: {self._base.netloc} {what}") from error
        try:
            budget = budget.increment("GET", name, error=_reason(error))
        except MaxRetryError as end:
            raise Unreachable(f"{name}: {self._base.netloc} {what}, also after {len(budget.history)} retries") from end
        pause = asked or budget.get_backoff_time()
        if pause >= 1:
            self.notes.append(f"{self._base.netloc} {what}: next attempt in {pause:.0f} s")
        time.sleep(pause)
        return budget

    def _session(self) -> requests.Session:
        """That of this thread of this process: a connection that was forked belongs to two."""
        if self._pid != os.getpid():
            self._pid, self._sessions = os.getpid(), threading.local()
        if not hasattr(self._sessions, "session"):
            self._sessions.session = _Session()
        session: requests.Session = self._sessions.session
        return session


class _Session(requests.Session):
    """Obeys the environment's proxies, but not for this very machine, and keeps no cookies."""

    def __init__(self) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._settings: dict[tuple[str, str], Any] = {}

    def merge_environment_settings(self, url: Any, *others: Any) -> Any:
        """What holds for a host; looking through the environment takes as long as a small object does."""
        origin = _origin(urlsplit(str(url)))
        if origin not in self._settings:
            settings = super().merge_environment_settings(url, *others)
            if is_loopback(urlsplit(str(url)).hostname or ""):
                settings["proxies"] = {}
            self._settings[origin] = settings
        return self._settings[origin]


class _Elsewhere(_Cut):
    """The server cannot go on where we were: begin again."""


class _Busy(_Cut):
    def __init__(self, reply: requests.Response) -> None:
        super().__init__(f"answers {_status(reply.status_code)}")
        self.reply = reply


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_url(url: str) -> None:
    """Refuse what no server can be asked for.

    Raises:
        ConfigurationError: it has no host, a port that is none, or a `#`, behind which nothing would be asked for.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"a URL must be like https://host/release, is not: {error}") from error
    if not parts.hostname:
        raise ConfigurationError(f"a URL must be like https://host/release, has no host: {url!r}")
    if "#" in url:
        raise ConfigurationError(f"a URL must have no #, which ends an address; write %23 for it: {parts.fragment!r}")


def _anonymous(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Neither the credentials of the URL nor those of a .netrc."""
    return request


def _host(parts: SplitResult) -> str:
    """Host and port, without user and password."""
    return parts.netloc.rpartition("@")[2]


def _origin(parts: SplitResult) -> tuple[str, str]:
    return parts.scheme, _host(parts)


def _offset_of(reply: requests.Response, asked: int) -> int:
    """Where in the object a body begins."""
    if reply.status_code == 200:
        return 0
    if asked and reply.headers.get("Content-Range", "").replace(" ", "").startswith(f"bytes{asked}-"):
        return asked
    raise _Elsewhere("answers with another part than was asked for")


def _says_its_end(reply: requests.Response) -> bool:
    """Whether a body that was cut would have been noticed."""
    return "Content-Length" in reply.headers or reply.headers.get("Transfer-Encoding", "").lower() == "chunked"


def _asked_wait(budget: Retry, error: Exception) -> float:
    if not isinstance(error, _Busy):
        return 0.0
    try:
        return budget.parse_retry_after(error.reply.headers.get("Retry-After", "0"))
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0


def _reason(error: Exception) -> Exception:
    """What urllib3 calls it, by which it counts."""
    inner = error.args[0] if error.args else None
    found = getattr(inner, "reason", None)
    return found if isinstance(found, Exception) else error


def _status(status: int) -> str:
    return f"{status} {phrases.get(status, '')}".strip()


def _describe(error: Exception, timeout_s: float) -> str:
    reason = _reason(error)
    if isinstance(error, _Cut):
        return str(error)
    if isinstance(error, requests.exceptions.SSLError):
        return f"has no certificate that this machine trusts ({type(reason).__name__})"
    if isinstance(error, requests.Timeout) or "Timeout" in type(reason).__name__:
        return f"does not answer within {timeout_s:g} s"
    if isinstance(error, requests.exceptions.ProxyError):
        return "cannot be reached through the proxy of the environment"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return f"cut the connection ({type(reason).__name__})"
