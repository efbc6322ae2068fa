"""A release as a read-only store of zarr, which holds each object against the manifest.

zarr, xarray and the reader of releases open it, on a disk or behind a URL. What the manifest names and the place does
not give is an error here; only what the manifest does not name is absent.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from meddiff_core.objects.checked import CheckedObjects


class CheckedStore(Store):
    """The objects below `prefix`, as the keys of a store."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, files: CheckedObjects, prefix: str) -> None:
        super().__init__(read_only=True)
        self._files, self._prefix = files, f"{prefix}/"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckedStore) and (self._files, self._prefix) == (other._files, other._prefix)

    __hash__ = None  # type: ignore[assignment]

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The object, or a part of it; None where the manifest names none."""
        if not await self.exists(key):
            return None
        content = await asyncio.to_thread(self._files.read, self._prefix + key)
        return prototype.buffer.from_bytes(content[_slice(byte_range, len(content))])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several of them."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether the manifest names it."""
        return self._prefix + key in self._files.expected

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: a release is read."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused as well."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin so."""
        for name in self._files.expected:
            if name.startswith(self._prefix + prefix):
                yield name.removeprefix(self._prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of what lies in a folder."""
        inside = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = {key.removeprefix(inside).partition("/")[0]: None async for key in self.list_prefix(inside)}
        for name in seen:
            yield name


def _slice(byte_range: ByteRequest | None, size: int) -> slice:
    match byte_range:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(max(size - suffix, 0), None)
    return slice(None)
