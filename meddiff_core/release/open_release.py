"""The door to a release, kept light: importing it loads neither torch nor zarr."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meddiff_core.release.reader import Release

CACHE = Path("~/.cache/meddiff")
CACHE_BYTES = 8 << 30


def open_release(
    address: Path | str,
    check: bool = True,
    cache: Path | str | None = CACHE,
    cache_bytes: int = CACHE_BYTES,
    allow_hosts: Sequence[str] = (),
) -> "Release":
    """Open a release to read its volumes, label maps and table.

    Args:
        address: Its folder on a disk of this machine, or where it is served: http://, https:// or s3://.
        check: Hold each file against the manifest when a process first reads it.
        cache: Folder for what came over a network, None for no cache. It must be empty, or such a cache before.
        cache_bytes: Most bytes that the cache may take; what was used longest ago goes.
        allow_hosts: Other hosts that the server may redirect to.

    Raises:
        ConfigurationError: `address` is a file, or an address of another kind.
        IntegrityError: what lies there is no release.
        Unreachable: the server does not answer, or refuses.
    """
    from meddiff_core.objects.addresses import is_url, open_source
    from meddiff_core.objects.cache import ObjectCache
    from meddiff_core.objects.http import Access
    from meddiff_core.release.reader import Release

    source = open_source(address, Access(tuple(allow_hosts)))
    kept = ObjectCache(Path(cache).expanduser(), cache_bytes) if cache and is_url(address) else None
    release = Release(source, check, kept)
    _ = release.manifest
    return release
