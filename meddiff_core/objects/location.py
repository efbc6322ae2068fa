"""A file or folder of a release that lies elsewhere, written as a path is: `release / "manifest.json"`.

What checks a release takes either, so that the same lines verify a folder and an address.
"""

from dataclasses import dataclass

from meddiff_core.objects.source import ObjectSource


@dataclass(frozen=True)
class RemotePath:
    """A name below a place; the place itself without one."""

    source: ObjectSource
    key: str = ""

    def __truediv__(self, part: str) -> "RemotePath":
        return RemotePath(self.source, f"{self.key}/{part}".strip("/"))

    def __str__(self) -> str:
        return f"{self.source.address}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the key, or of the address."""
        return str(self).rstrip("/").rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether there is such an object."""
        return self.source.exists(self.key)

    def read(self, most: int) -> bytes:
        """All bytes, at most so many."""
        return self.source.read(self.key, most)
