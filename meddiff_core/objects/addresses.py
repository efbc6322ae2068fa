"""What an address means: a folder, a web server, or a bucket. Everything else is refused before it is touched.

`file:` and `data:` would let whoever writes an address read this machine, or hand over a release that lies nowhere.
"""

import re
from pathlib import Path

from meddiff_core.errors import ConfigurationError
from meddiff_core.objects.http import Access, HttpObjects, check_url
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.location import Location, RemotePath
from meddiff_core.objects.source import ObjectSource

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/|(file|data|javascript):", re.IGNORECASE)
"""A drive of Windows has one letter."""


def is_url(address: Path | str) -> bool:
    """Whether an address begins with a scheme; else it is a path."""
    return bool(SCHEME.match(str(address)))


def open_source(address: Path | str, access: Access | None = None) -> ObjectSource:
    """The files at an address. Nothing is asked of a server yet.

    Raises:
        ConfigurationError: it is of a kind that is refused, or a file.
    """
    if not is_url(address):
        folder = Path(address).expanduser()
        if folder.is_file():
            raise ConfigurationError(f"a release must be a folder, {folder.name} is a file: unpack it first")
        return LocalObjects(folder)
    if isinstance(address, Path):
        raise ConfigurationError(f"a URL must be given as text, a Path loses a part of it: {address}")
    url = address
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        check_url(url)
        return HttpObjects(url, access)
    if scheme == "s3":
        from meddiff_core.objects.s3 import S3Objects

        return S3Objects(url)
    raise ConfigurationError(f"a release must be a folder, or lie at http://, https:// or s3://, not at {scheme}:")


def locate(address: Path | str, access: Access | None = None) -> Location:
    """An address as a location: `open_source` for a URL, else the path itself, whatever lies there."""
    return RemotePath(open_source(address, access)) if is_url(address) else Path(address)
