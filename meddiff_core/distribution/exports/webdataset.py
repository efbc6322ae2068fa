"""WebDataset: tar shards that are the same bytes wherever they are written, with an index and digests.

A key is cut at its first dot, so a dot in it merges samples; a torn shard ends an epoch. Here keys are labels without
dots, and the index gives each shard's size, SHA-256 and keys.
"""

import hashlib
import io
import math
import tarfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from meddiff_core.artefacts import write_json
from meddiff_core.distribution.exports.cohort import SPLIT, ExportedVolume
from meddiff_core.distribution.exports.format import ExportFormat, Step, Voxels
from meddiff_core.distribution.exports.papers import plain_json, write_papers, write_table
from meddiff_core.release.bounded import read_object

SHARD_BYTES = 256 << 20
"""Of voxels in a shard."""
MOST_IN_A_SHARD = 1000
ALL = "volumes"
"""Name of the shards without a split."""


class WebdatasetExport(ExportFormat):
    """A step is a shard: a part of one is no tar."""

    title = "WebDataset"

    @cached_property
    def shards(self) -> dict[str, Step]:
        """The volumes of each shard by its name, such as `train-000000`."""
        bytes_each = math.prod(self.cohort.release.contract["size"]) * (3 if self.cohort.names else 2)
        size = max(1, min(MOST_IN_A_SHARD, SHARD_BYTES // bytes_each))
        sides: dict[str, list[ExportedVolume]] = defaultdict(list)
        for volume in self.cohort.volumes:
            sides[volume.side or ALL].append(volume)
        return {
            f"{side}-{number:06d}": volumes[start : start + size]
            for side, volumes in sides.items()
            for number, start in enumerate(range(0, len(volumes), size))
        }

    def steps(self) -> Sequence[Step]:
        """The shards."""
        return list(self.shards.values())

    def write_step(self, folder: Path, step: Step, contents: Iterator[Any]) -> Generator[None, None, list[Path]]:
        """A shard, and beside it what the index will say of it."""
        (name,) = (name for name, volumes in self.shards.items() if volumes[0] == step[0])
        path = folder / f"{name}.tar"
        with path.open("wb") as file:
            shard = _Shard(file)
            for volume in step:
                for ending, data in self._members(volume, next(contents)):
                    shard.add(f"{volume.label}.{ending}", data)
                yield
            shard.close()
        described = {
            "url": path.name,
            "nsamples": len(step),
            "filesize": shard.size,
            "sha256": shard.digest.hexdigest(),
            "keys": [volume.label for volume in step],
        }
        write_json(path.with_suffix(".json"), described)
        return [path]

    def write_volume(self, folder: Path, volume: ExportedVolume, content: Any) -> list[Path]:
        """No volume is written alone."""
        raise NotImplementedError("a shard is written as one")

    def _members(self, volume: ExportedVolume, voxels: Voxels) -> Iterator[tuple[str, bytes]]:
        yield "image.npy", _as_npy(voxels.image)
        yield "json", plain_json(self._describe(volume))
        if voxels.label is not None:
            yield "label.npy", _as_npy(voxels.label)

    def _describe(self, volume: ExportedVolume) -> dict[str, Any]:
        told = self.cohort.provenance
        values = self.cohort.release.covariates(volume.row)
        known = {name: None if value != value or value == "n/a" else value for name, value in values.items()}
        return {
            "participant_id": volume.label,
            "sample_id": volume.sample,
            "affine": self.cohort.affine.tolist(),
            "labels": self.cohort.names,
            "covariates": known,
            "synthetic": True,
            "manifest_sha256": told["manifest_sha256"],
            "licence": told["licence"],
            **({SPLIT: volume.side} if volume.side else {}),
        }

    def finish(self, folder: Path) -> None:
        """The index, the table, the page."""
        shards = [read_object(folder / f"{name}.json") for name in self.shards]
        shards = [{key: value for key, value in shard.items() if key != "keys"} for shard in shards]
        index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": self.cohort.provenance["title"]}
        write_json(folder / "index.json", index | {"shardlist": shards, "release": self.cohort.provenance})
        write_table(folder, self.cohort.table(), self.cohort.describe_columns())
        files = {
            "`*.tar`": f"for each volume `KEY.image.npy`, int16 (i, j, k), RAS+, {self.cohort.unit}; `KEY.json`, "
            "with affine and covariates; `KEY.label.npy`, uint8, where there are label maps",
            "`index.json`": "size and SHA-256 of each shard; its keys stand in the JSON beside it",
        }
        write_papers(folder, self.cohort, self.title, files)


class _Shard:
    """A tar in the plain format of POSIX, with neither times nor owners, hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def add(self, name: str, data: bytes) -> None:
        """Append a file."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        for piece in (info.tobuf(tarfile.USTAR_FORMAT), data, b"\0" * (-len(data) % tarfile.BLOCKSIZE)):
            self._write(piece)

    def close(self) -> None:
        """Two empty blocks end it, and it fills whole records."""
        self._write(b"\0" * 2 * tarfile.BLOCKSIZE)
        self._write(b"\0" * (-self.size % tarfile.RECORDSIZE))

    def _write(self, piece: bytes) -> None:
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)


def _as_npy(voxels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, voxels, allow_pickle=False)
    return buffer.getvalue()
