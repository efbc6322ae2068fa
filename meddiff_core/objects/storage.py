"""A place that machines share through objects alone: `runtime.storage`, a bucket of S3 or a folder.

No store's atomic conditions are needed, since some take two creators of one name for the first: objects are named by
their digest, so that two writers of one name write the same bytes, and an answer that was lost is read back.
"""

import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.source import ObjectStorage, Refused, Unreachable

ATTEMPTS, PAUSE_S = 6, 0.5
"""Of one put, and the pause after the first, doubled from one to the next."""


def fault_of_storage(address: str) -> str | None:
    """Why an address is no storage, or None; it is not repeated, since it may hold a key."""
    parts = urlsplit(address)
    if parts.scheme == "gs":
        return "must be at s3:// or file://, is at gs://, which was never tested"
    bucket = parts.scheme == "s3" and parts.netloc
    folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if not (bucket or folder) or "@" in parts.netloc or parts.query or parts.fragment:
        return "must be like s3://bucket/prefix or file:///path, without keys"
    return None


def open_storage(address: str, quick: bool = False) -> ObjectStorage:
    """The storage at an address of either kind. Nothing is asked of a server yet; `quick` gives up within seconds."""
    if fault := fault_of_storage(address):
        raise ConfigurationError(f"the storage {fault}")
    parts = urlsplit(address)
    if parts.scheme == "file":
        return LocalObjects(Path(unquote(parts.path)))
    from meddiff_core.objects.s3 import S3Objects

    return S3Objects(address, quick)


def put_object(storage: ObjectStorage, name: str, file: Path) -> None:
    """Put a file under the name of its digest, unless it is there: an error may be an answer that was lost."""
    size, pause = file.stat().st_size, PAUSE_S
    for attempt in range(ATTEMPTS):
        with suppress(Unreachable):
            if storage.size(name) == size:
                return
        try:
            storage.put(name, file)
        except Unreachable as error:
            if attempt + 1 == ATTEMPTS or isinstance(error, Refused):
                raise
            time.sleep(pause)
            pause *= 2
        else:
            return


def probe(address: str) -> None:
    """Write, read back, list and remove a small object.

    Raises:
        ConfigurationError: one of these fails: the address, the bucket, the keys or what they permit is wrong.
    """
    storage = open_storage(address, quick=True)
    name, content = f"probe/{secrets.token_hex(8)}", secrets.token_bytes(32)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "probe")
        file.write_bytes(content)
        try:
            storage.put(name, file)
            came, listed = storage.read(name, len(content)), name in storage.names("probe")
            storage.delete(name)
            left = storage.size(name)
        except MeddiffError as error:
            raise ConfigurationError(f"runtime.storage: {error}") from error
    if came != content or not listed or left is not None:
        what = "read back" if came != content else "list" if not listed else "remove"
        raise ConfigurationError(f"runtime.storage: {storage.address} does not {what} what was written to it")
