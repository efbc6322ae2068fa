"""A shard is whole, unaltered and the one that was asked for, or it is made again with the same bytes."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from meddiff_core.artefacts import digest_tree, write_json
from meddiff_core.contract import Contract
from meddiff_core.data.store import chunk_path, open_array
from meddiff_core.errors import IntegrityError
from meddiff_core.generation import shards
from meddiff_core.generation.engine import Engine, open_engine
from meddiff_core.generation.schedule import SampleRequest, Shard
from meddiff_core.generation.shards import MARKER, Candidates, ShardJob, ShardMarker, find_shard, make_shard
from meddiff_core.study import SamplingConfig

Job = Callable[..., ShardJob]


@pytest.fixture
def job(tmp_path: Path, models: Path, sampling: Callable[..., SamplingConfig]) -> Job:
    """A shard of two samples, with changes of the job, of its samples, or of its settings."""

    def make(
        name: str = "00-000000",
        age: float = 30.0,
        settings: dict[str, Any] | None = None,
        models_digest: str = "digest",
        folder: str = "candidates.zarr",
    ) -> ShardJob:
        samples = tuple(SampleRequest(f"syn-{n:06d}-0", n, 0, 50 + n, {"age": age, "sex": "F"}) for n in range(2))
        config = sampling(**(settings or {}))
        return ShardJob(Shard(name, samples), tmp_path / folder, models, models_digest, config, "cpu")

    return make


@pytest.fixture
def made(job: Job) -> ShardJob:
    """The job of a shard that is there."""
    make_shard(job())
    return job()


def refuse_to_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("sampled again")

    monkeypatch.setattr(shards, "open_engine", refuse)


def test_a_shard_holds_what_the_engine_samples(made: ShardJob) -> None:
    images, labels = open_engine(made.models, made.models_digest, made.config, "cpu").sample(made.shard.samples)
    assert labels is not None
    np.testing.assert_array_equal(open_array(made.path, "image")[...], images)
    np.testing.assert_array_equal(open_array(made.path, "label")[...], labels)


def test_a_shard_that_is_there_is_not_sampled_again(made: ShardJob, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, before = find_shard(made), digest_tree(made.path)
    refuse_to_sample(monkeypatch)
    assert make_shard(made) == marker
    assert digest_tree(made.path) == before


def test_the_same_job_makes_the_same_bytes(job: Job) -> None:
    for folder in ("one", "other"):
        make_shard(job(folder=folder))
    assert digest_tree(job(folder="one").path) == digest_tree(job(folder="other").path)


def test_the_marker_names_samples_and_digests(made: ShardJob) -> None:
    marker = ShardMarker.model_validate_json((made.path / MARKER).read_bytes())
    assert marker.samples == ("syn-000000-0", "syn-000001-0")
    assert marker.key == made.key(marker.batch)
    assert len(set(marker.digests)) == 2


@pytest.mark.parametrize("name", ["image", "label"])
@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_damaged_volume_is_found_and_made_again(made: ShardJob, name: str, harm: str) -> None:
    marker, before = find_shard(made), digest_tree(made.path)
    chunk = chunk_path(open_array(made.path, name), 1)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.unlink()
    if harm != "delete":
        chunk.write_bytes(content if harm == "flip" else content[:-5])
    assert find_shard(made) is None
    assert make_shard(made) == marker
    assert digest_tree(made.path) == before


def test_a_flipped_bit_of_voxels_is_never_taken_for_whole(made: ShardJob) -> None:
    """A bit of a chunk's frame that no voxel depends on may go unseen; then the voxels are those that were written."""
    marker = find_shard(made)
    random = np.random.default_rng(0)
    found = [find_shard(made) for chunk in made.path.glob("*/c/**/0") if chunk.is_file() for _ in harm(chunk, random)]
    assert all(one in (None, marker) for one in found)
    assert found.count(None) > 0.9 * len(found) > 0
    assert find_shard(made) == marker


def test_a_flipped_bit_of_marker_or_metadata_neither_deceives_nor_stops_the_work(made: ShardJob) -> None:
    """What nothing that is read depends on may go unseen, as the attributes of an array."""
    marker = find_shard(made)
    random = np.random.default_rng(0)
    for path in [*made.path.rglob("zarr.json"), made.path / MARKER]:
        assert all(find_shard(made) in (None, marker) for _ in harm(path, random))
    assert find_shard(made) == marker


def test_a_marker_that_names_other_samples_is_not_believed(made: ShardJob) -> None:
    marker = find_shard(made)
    assert marker is not None
    write_json(made.path / MARKER, marker.model_copy(update={"samples": ("syn-000000-0", "syn-000009-0")}))
    assert find_shard(made) is None
    assert make_shard(made) == marker


def harm(path: Path, random: np.random.Generator, times: int = 12) -> Iterator[None]:
    """Flip one bit of a file at a time, and put the file right in the end."""
    content = path.read_bytes()
    for place in random.integers(0, len(content), times):
        harmed = bytearray(content)
        harmed[place] ^= 1 << int(random.integers(8))
        path.write_bytes(harmed)
        yield
    path.write_bytes(content)


@pytest.mark.parametrize("gone", ["image", "label", "label/zarr.json", "zarr.json", MARKER])
def test_a_lost_part_is_found_and_made_again(made: ShardJob, gone: str) -> None:
    marker, path = find_shard(made), made.path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert find_shard(made) is None
    assert make_shard(made) == marker
    assert path.exists()


def test_a_file_in_the_place_of_a_shard_is_no_shard(job: Job) -> None:
    job().candidates.mkdir()
    job().path.write_text("")
    assert find_shard(job()) is None


def test_what_a_killed_worker_left_is_ignored_and_cleared(made: ShardJob) -> None:
    marker = find_shard(made)
    partial = made.path.with_name(f".{made.shard.name}.partial")
    made.path.rename(partial)
    (partial / "rest").touch()
    assert find_shard(made) is None
    assert make_shard(made) == marker
    assert [path.name for path in made.candidates.iterdir()] == [made.shard.name]
    assert not (made.path / "rest").exists()


def test_a_shard_appears_only_when_its_marker_is_written(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_json", kill)
        with pytest.raises(KeyboardInterrupt):
            make_shard(job())
    assert not job().path.exists()
    assert make_shard(job()) == find_shard(job())


@pytest.mark.parametrize(
    "change",
    [{"models_digest": "other"}, {"age": 31.0}, {"settings": {"guidance": 2.0}}, {"settings": {"batch": 2}}],
)
def test_a_shard_of_other_models_samples_or_settings_is_made_anew(
    made: ShardJob, job: Job, change: dict[str, Any]
) -> None:
    other = job(**change)
    assert other.path == made.path
    assert find_shard(other) is None
    assert make_shard(other).key != made.key(1)
    assert find_shard(made) is None


def test_the_size_of_shards_and_the_device_do_not_make_a_shard_anew(made: ShardJob, job: Job) -> None:
    assert job(settings={"shard": 99}).key(1) == made.key(1)
    assert find_shard(job(settings={"shard": 99})) is not None


def test_a_shard_made_again_has_the_batch_that_it_had(
    job: Job, models: Path, sampling: Callable[..., SamplingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short at first, and is not when a damaged volume is made again."""
    wanted, asked = job(settings={"batch": 2}), list[int | None]()
    engine = open_engine(models, "digest", sampling(batch=2), "cpu")
    sample = engine.sample_nearest
    monkeypatch.setattr(engine, "batch", 1)
    assert make_shard(wanted).batch == 1
    monkeypatch.setattr(engine, "batch", 2)
    watched = lambda samples, batch=None: (asked.append(batch), sample(samples, batch))[1]  # noqa: E731
    monkeypatch.setattr(engine, "sample_nearest", watched)
    chunk_path(open_array(wanted.path, "image"), 1).unlink()
    assert make_shard(wanted).batch == 1
    assert asked == [1]
    assert Candidates(wanted.candidates, [(wanted.shard.name, 0)]).batches() == [1]


def test_candidates_are_read_from_their_places(job: Job) -> None:
    for name, age in (("00-000000", 30.0), ("01-000004", 70.0)):
        make_shard(job(name=name, age=age))
    places = [("01-000004", 1), ("00-000000", 0), ("01-000004", 0)]
    volumes = Candidates(job().candidates, places)
    assert len(volumes) == 3
    for index, (name, position) in enumerate(places):
        path = job().candidates / name
        label = volumes.label(index)
        assert label is not None
        np.testing.assert_array_equal(volumes.image(index), open_array(path, "image")[position])
        np.testing.assert_array_equal(label, open_array(path, "label")[position])
    assert not np.array_equal(volumes.image(0), volumes.image(2))


def test_a_damaged_candidate_is_an_error_and_not_another_volume(made: ShardJob) -> None:
    chunk_path(open_array(made.path, "image"), 1).unlink()
    volumes = Candidates(made.candidates, [(made.shard.name, 0), (made.shard.name, 1)])
    volumes.image(0)
    with pytest.raises(IntegrityError, match="chunk of volume 1 is missing"):
        volumes.image(1)


def test_a_cohort_without_labels_has_none(
    tmp_path: Path, save_models: Callable[..., Path], contract: Contract, sampling: Callable[..., SamplingConfig]
) -> None:
    models = save_models(tmp_path / "models", contract.model_copy(update={"labels": {}}))
    shard = Shard("00-000000", (SampleRequest("a", 0, 0, 1, {}),))
    job = ShardJob(shard, tmp_path / "candidates.zarr", models, "plain", sampling(), "cpu")
    assert make_shard(job) == find_shard(job)
    assert Candidates(job.candidates, [(shard.name, 0)]).label(0) is None


def test_one_shard_is_written_while_the_next_is_sampled(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, sampling, one_is_written, next_is_sampled = [job("00-000000"), job("00-000001")], 0, Event(), Event()
    write, sample = shards._write_shard, Engine.sample_nearest

    def watched(engine: Engine, samples: Sequence[SampleRequest], batch: int | None = None) -> Any:
        nonlocal sampling
        sampling += 1
        assert sampling == 1, "two threads sample with one engine"
        if one_is_written.is_set():
            next_is_sampled.set()
        found = sample(engine, samples, batch)
        sampling -= 1
        return found

    def slow_write(*arguments: Any) -> ShardMarker:
        one_is_written.set()
        assert next_is_sampled.wait(30)
        return write(*arguments)

    monkeypatch.setattr(Engine, "sample_nearest", watched)
    monkeypatch.setattr(shards, "_write_shard", slow_write)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make_shard, jobs))
    assert all(find_shard(one) is not None for one in jobs)
