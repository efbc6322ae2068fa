"""Shards on disk: a folder that appears whole, with a marker that holds its digests.

A shard is complete when its marker fits what was asked for and every volume still has the digest in it; anything
else is made again, in batches of the size that the marker names. So a kill loses at most the shards in flight, nothing
is made twice, and a volume that is made again has the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from meddiff_core.artefacts import digest_of, write_json, writing_folder
from meddiff_core.contract import Contract, Frozen
from meddiff_core.data.store import (
    StoredVolumes,
    create_store,
    create_volumes,
    digest_volume,
    open_array,
    read_volume,
)
from meddiff_core.generation.engine import Sampled, open_engine
from meddiff_core.generation.schedule import Shard
from meddiff_core.study import Count, SamplingConfig
from meddiff_core.types import StoredArray

MARKER = "shard.json"
sampling = Lock()
"""One thread of a process samples at a time, so that they share one engine; the others write meanwhile."""


class ShardMarker(Frozen):
    """What a finished shard holds."""

    key: str
    """Digest of samples, models, solver settings and batch that it was made from."""
    samples: tuple[str, ...]
    digests: tuple[str, ...]
    """SHA-256 of each sample's image and label voxels."""
    batch: Count
    """Volumes a network call; fewer than `sampling.batch` where memory was short. A GPU may round by it."""
    kept: tuple[int, ...]
    """Number of the noise that was kept for each sample."""
    distances: tuple[float | None, ...]
    """How far each is from what was asked for; see `Contender.distance`."""


@dataclass(frozen=True)
class ShardJob:
    """All that a worker needs to make one shard."""

    shard: Shard
    candidates: Path
    models: Path
    models_digest: str
    config: SamplingConfig
    device: str

    @property
    def path(self) -> Path:
        """Where the shard appears."""
        return self.candidates / self.shard.name

    @property
    def samples(self) -> tuple[str, ...]:
        """Ids of the samples."""
        return tuple(sample.sample_id for sample in self.shard.samples)

    def key(self, batch: int) -> str:
        """Digest of everything that decides the shard's bytes, where it is made in batches of a size."""
        samples = [[sample.sample_id, sample.seed, sample.condition] for sample in self.shard.samples]
        # The size of a shard changes no volume; the size of a batch can, by a bit: that wanted, and that which fitted.
        settings = self.config.model_dump(mode="json", exclude={"shard"})
        return digest_of([samples, self.models_digest, settings, batch])


def make_shard(job: ShardJob) -> ShardMarker:
    """Sample and write a shard, unless it is there, whole and unaltered."""
    if (marker := find_shard(job)) is not None:
        return marker
    before = _read_marker(job)
    with sampling:
        engine = open_engine(job.models, job.models_digest, job.config, job.device)
        sampled = engine.sample_nearest(job.shard.samples, before.batch if before else None)
        batch = engine.batch
    return _write_shard(job, sampled, engine.contract, batch)


def find_shard(job: ShardJob) -> ShardMarker | None:
    """The marker of a shard that is complete and holds the bytes that were written, or None."""
    marker = _read_marker(job)
    try:
        return marker if marker and _digests(job.path, len(marker.samples)) == marker.digests else None
    except Exception:  # damaged bytes end in any error of the libraries that parse them, and the shard is made again
        return None


def _read_marker(job: ShardJob) -> ShardMarker | None:
    """The marker of the shard that was asked for, whether its volumes are whole or not."""
    try:
        marker = ShardMarker.model_validate_json((job.path / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return marker if (marker.key, marker.samples) == (job.key(marker.batch), job.samples) else None


def _write_shard(job: ShardJob, sampled: Sampled, contract: Contract, batch: int) -> ShardMarker:
    arrays: list[tuple[str, StoredArray]] = [("image", sampled.images)]
    if sampled.labels is not None:
        arrays.append(("label", sampled.labels))
    with writing_folder(job.path) as partial:
        group = create_store(partial, {"contract": contract.model_dump(mode="json")})
        for name, volumes in arrays:
            array = create_volumes(group, name, len(volumes), volumes.shape[1:], str(volumes.dtype))
            array[...] = volumes
        marker = ShardMarker(
            key=job.key(batch),
            samples=job.samples,
            digests=_digests(partial, len(sampled.images)),
            batch=batch,
            kept=sampled.kept,
            distances=sampled.distances,
        )
        write_json(partial / MARKER, marker)
    return marker


def _digests(path: Path, count: int) -> tuple[str, ...]:
    names = ["image"] + (["label"] if (path / "label").exists() else [])
    arrays = [open_array(path, name) for name in names]
    return tuple(digest_of([digest_volume(read_volume(array, n)) for array in arrays]) for n in range(count))


class Candidates(StoredVolumes):
    """Generated volumes by shard and position, as a `Volumes` set."""

    def __init__(self, candidates: Path, places: Sequence[tuple[str, int]]) -> None:
        """`places` holds the shard's name and the position in it, for each volume."""
        found = [(candidates / shard, position) for shard, position in places]
        super().__init__(found, has_labels=any((shard / "label").exists() for shard, _ in found))

    def batches(self) -> list[int]:
        """Volumes a network call that each volume was sampled with."""
        return [marker.batch for marker, _ in self._marked()]

    def kept(self) -> list[tuple[int, float | None]]:
        """Number of the noise that each volume is from, and its distance to what was asked for."""
        return [(marker.kept[position], marker.distances[position]) for marker, position in self._marked()]

    def _marked(self) -> list[tuple[ShardMarker, int]]:
        shards = {shard for shard, _ in self._places}
        read = {shard: ShardMarker.model_validate_json((shard / MARKER).read_bytes()) for shard in shards}
        return [(read[shard], position) for shard, position in self._places]
