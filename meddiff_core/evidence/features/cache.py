"""Features of whole sets of volumes, computed in blocks on whatever pool there is, and kept on disk.

An audit that is stopped, or made again with other gates, computes no finished block twice. A block is one chunk
that one call writes whole; what is kept is found again only under the digests of extractor, preprocessing and
volumes, so that features of another model or of another cohort are never taken for these.
"""

import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Contract
from meddiff_core.data.store import create_store, open_array
from meddiff_core.evidence.features.records import (
    Extractor,
    Features,
    extract,
    features_by,
    preprocessing_digest,
)
from meddiff_core.types import FloatArray, LabelArray, Mapper, Progress, StoredArray, Volumes, serial_map

BLOCK = 32
"""Volumes that one call computes."""


@dataclass(frozen=True)
class KeptVolumes:
    """A set of volumes whose features may be kept."""

    volumes: Volumes
    name: str
    """Of its place in the cache; a set of the same name and another digest takes it over."""
    digest: str
    """Of the artefact that the volumes are, and of which of its volumes."""

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> StoredArray:
        """As the volumes have it."""
        return self.volumes.image(index)

    def label(self, index: int) -> LabelArray | None:
        """As the volumes have it."""
        return self.volumes.label(index)


@runtime_checkable
class Divisible(Protocol):
    """Volumes of which some can be sent to another process without the rest."""

    def take(self, indices: Sequence[int]) -> Volumes:
        """Some of them."""


@dataclass(frozen=True)
class Block:
    """Neighbouring volumes of a set."""

    start: int
    count: int
    volumes: Volumes
    """These alone where the set is divisible, else all of the set."""

    def __call__(self, extractor: Extractor) -> FloatArray:
        """(count, d)."""
        first = 0 if isinstance(self.volumes, Divisible) else self.start
        return extractor(self.volumes, range(first, first + self.count))


def block_of(volumes: Volumes, start: int) -> Block:
    """The block from volume `start` on."""
    stop = min(start + BLOCK, len(volumes))
    part = volumes.take(range(start, stop)) if isinstance(volumes, Divisible) else volumes
    return Block(start, stop - start, part)


@dataclass(frozen=True)
class CachedExtractor:
    """An extractor that computes `KeptVolumes` on a pool and keeps their features; others as ever."""

    extractor: Extractor
    """Travels to the processes of the pool: it should open large weights there, and not bring them."""
    folder: Path
    """Where features are kept: inside the study, which they must not leave."""
    mapper: Mapper = serial_map

    @property
    def name(self) -> str:
        """As the extractor has it."""
        return self.extractor.name

    @property
    def digest(self) -> str:
        """As the extractor has it."""
        return self.extractor.digest

    @property
    def contract(self) -> Contract:
        """As the extractor has it."""
        return self.extractor.contract

    def __call__(self, volumes: Volumes, indices: Sequence[int]) -> FloatArray:
        """(n, d), never from the cache."""
        return self.extractor(volumes, indices)

    def extract(self, volumes: Volumes) -> Generator[Progress, None, Features]:
        """Features of all volumes, of which finished blocks are read and the others computed."""
        if not isinstance(volumes, KeptVolumes):
            return (yield from extract(self.extractor, volumes))
        store = self.folder / self.name / f"{volumes.name}.zarr"
        array = self._opened(store, volumes)
        starts = [start for start in range(0, len(volumes), BLOCK) if not _block_path(array, start).exists()]
        blocks = [block_of(volumes.volumes, start) for start in starts]
        done = len(volumes) - sum(block.count for block in blocks)
        for _, count in self.mapper(partial(compute_block, store=store, extractor=self.extractor), blocks):
            done += count
            yield Progress(f"features {self.name}", done, len(volumes))
        return features_by(self.extractor, np.asarray(array[...]))

    def _opened(self, store: Path, volumes: KeptVolumes) -> zarr.Array[Any]:
        """The array (n, d) of a set, new unless the one that stands is of the very same."""
        record = {
            "extractor": self.name,
            "digest": self.digest,
            "preprocessing": preprocessing_digest(self.contract),
            "n": len(volumes),
        }
        facts = {"record": record, "volumes": volumes.digest}
        if _facts(store) != digest_of(facts):
            shutil.rmtree(store, ignore_errors=True)
            width = self.extractor(volumes.volumes, [0]).shape[1]
            group = create_store(store, facts)
            _create(group, len(volumes), width)
            group.attrs["made_from"] = digest_of(facts)  # last: without it nothing is kept
        return open_array(store, "features")


def _facts(store: Path) -> Any:
    try:
        return zarr.open_group(store, mode="r").attrs.get("made_from")
    except (FileNotFoundError, ValueError):
        return None


def _create(group: zarr.Group, count: int, width: int) -> None:
    group.create_array(
        "features",
        shape=(count, width),
        chunks=(BLOCK, width),
        dtype="float32",
        compressors=ZstdCodec(level=1, checksum=True),
        dimension_names=("sample", "feature"),
        config={"write_empty_chunks": True},
    )


def _block_path(array: zarr.Array[Any], start: int) -> Path:
    key = array.metadata.encode_chunk_key((start // BLOCK, 0))
    return Path(array.store_path.store.root) / array.path / key  # type: ignore[attr-defined]


def compute_block(block: Block, store: Path, extractor: Extractor) -> int:
    """Compute and write a block, which nobody else writes; returns its number of volumes. May run twice."""
    values = block(extractor).astype(np.float32)
    open_array(store, "features", mode="r+")[block.start : block.start + block.count] = values
    return block.count
