"""One array of a store by its zarr.json: what it promises, whether a reader gets it, and whether its chunks are there.

Type, codecs and shape decide which voxels come out of the same bytes, and how many bytes a reader takes; so only what
a release writes is accepted, before a chunk is opened.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from meddiff_core.contract import Frozen
from meddiff_core.release.manifest import Manifest
from meddiff_core.release.ome import COHORT

DOCUMENT = "zarr.json"
LARGEST_CHUNK = 1 << 29
"""Bytes of a decoded chunk: a CT of 640 voxels along each axis."""
Length = Annotated[int, Field(ge=1, le=1 << 31)]
FILL: dict[str, Any] = {"string": "", "bool": False}
NUMBERS = ("bool", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)), "float32", "float64")


class _Grid(Frozen):
    chunk_shape: tuple[Length, ...]


class _Chunks(Frozen):
    name: Literal["regular"]
    configuration: _Grid


class _Separator(Frozen):
    separator: Literal["/", "."] = "/"


class _Keys(Frozen):
    name: Literal["default"]
    configuration: _Separator = _Separator()


class ArrayDocument(Frozen):
    """zarr.json of an array, as far as a release uses it."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Annotated[tuple[Length, ...], Field(min_length=1, max_length=4)]
    data_type: str
    chunk_grid: _Chunks
    chunk_key_encoding: _Keys
    fill_value: bool | int | float | str
    codecs: tuple[dict[str, Any], ...]
    attributes: dict[str, Any] = Field(default_factory=dict)
    dimension_names: tuple[str, ...]
    storage_transformers: Annotated[tuple[Any, ...], Field(max_length=0)] = ()

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk."""
        return self.chunk_grid.configuration.chunk_shape

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of decoded numbers: little-endian."""
        return np.dtype(self.data_type).newbyteorder("<")

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk of numbers."""
        return math.prod(self.chunks) * self.dtype.itemsize

    def chunk_name(self, place: tuple[int, ...]) -> str:
        """File of a chunk, from the array's folder."""
        return self.chunk_key_encoding.configuration.separator.join(["c", *map(str, place)])


def check_storage(path: str, array: ArrayDocument, manifest: Manifest) -> Iterator[str]:
    """Type, codecs, fill value and chunks of an array, and whether the manifest lists each chunk."""
    name = f"{COHORT}/{path}"
    if array.data_type not in (*NUMBERS, "string"):
        yield f"{name}: must hold numbers, truths or text, holds {array.data_type}"
        return
    if fault := _fault_of_codecs(array):
        yield f"{name}: {fault}"
    fill = FILL.get(array.data_type, 0)
    if array.fill_value != fill or isinstance(array.fill_value, bool) != isinstance(fill, bool):
        yield f"{name}: must have the fill value {fill!r}, has {array.fill_value!r}"
    if len(array.chunks) != len(array.shape) or len(array.dimension_names) != len(array.shape):
        yield f"{name}: must have chunks and names for {len(array.shape)} axes, has others"
    elif any(chunk > size for chunk, size in zip(array.chunks, array.shape, strict=True)):
        yield f"{name}: must have chunks within its shape {array.shape}, has {array.chunks}"
    elif array.data_type != "string" and array.chunk_bytes > LARGEST_CHUNK:
        yield f"{name}: must have chunks of at most {LARGEST_CHUNK} bytes, has {array.chunk_bytes}"
    else:
        yield from _check_chunks(name, array, manifest)


def _fault_of_codecs(array: ArrayDocument) -> str | None:
    if array.data_type == "string":
        wanted = [{"name": "vlen-utf8", "configuration": {}}, {"name": "vlen-utf8"}]
    else:
        wanted = [{"name": "bytes", "configuration": {"endian": "little"}}]
        wanted += [{"name": "bytes"}, {"name": "bytes", "configuration": {}}] if array.dtype.itemsize == 1 else []
    last = array.codecs[-1] if array.codecs else {}
    settings = last.get("configuration")
    if last.get("name") != "zstd" or not isinstance(settings, dict) or settings.get("checksum") is not True:
        return "must be stored as zstd with checksum"
    if not isinstance(settings.get("level"), int) or settings.keys() - {"level", "checksum"}:
        return "must be stored as zstd with level and checksum alone"
    if len(array.codecs) != 2 or array.codecs[0] not in wanted:
        return f"must be stored little-endian and as zstd, by {wanted[0]}"
    return None


def _check_chunks(name: str, array: ArrayDocument, manifest: Manifest) -> Iterator[str]:
    """Each chunk is a file of the manifest; never counts further than that has files."""
    expected = math.prod(array.counts)
    if expected > len(manifest.files):
        yield f"{name}: must have {expected} chunks for its shape {array.shape}, the release has fewer files"
        return
    start = f"{name}/c"
    found = {file for file in manifest.files if file.startswith(start) and not file.endswith(DOCUMENT)}
    wanted = {f"{name}/{array.chunk_name(place)}": place[0] for place in np.ndindex(array.counts)}
    for file in sorted(wanted.keys() - found):
        what = f"volume {wanted[file]}" if len(array.shape) > 1 else "the values"
        yield f"{name}: the chunk of {what} is missing"
    for file in sorted(found - wanted.keys()):
        yield f"{file}: must be a chunk of its array, is none"
