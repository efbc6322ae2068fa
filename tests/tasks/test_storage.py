"""Workers that do not have the study's folder make the same bytes as those that have it."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.artefacts import STATE, digest_tree
from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract, IntensityMapping
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.generation.schedule import SampleRequest, Shard
from meddiff_core.generation.shards import ShardJob, make_shard
from meddiff_core.objects.mirror import Mirror
from meddiff_core.objects.storage import open_storage
from meddiff_core.objects.trees import TreeStore
from meddiff_core.study import RuntimeConfig, SamplingConfig
from meddiff_core.types import CaseRef, Mapper, serial_map
from tasks import storage
from tasks.cluster import open_mapper
from tasks.storage import StoredStudy

SECRET = "canary-4711"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "flow" / "study"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def jobs(study: Path, save_models: Callable[..., Path]) -> Callable[[Path], list[ShardJob]]:
    """Three shards of one sample, by models in the study's folder, written into another."""
    contract = Contract(
        spacing_mm=2.0,
        size=(8, 8, 8),
        intensity=IntensityMapping(modality="MR", low=0, high=100, percentiles=(1, 99), storage="uint16"),
        mask="none",
        labels={"left": (1,), "right": (2,)},
        conditions=(
            ContinuousCondition(name="age", low=20, high=80, mean=50, std=10),
            CategoricalCondition(name="sex", categories=("F", "M")),
        ),
    )
    models = save_models(study / "models", contract)
    config = SamplingConfig(guidance=1.0, steps=2, batch=1, shard=1, sigma_max=5.0, sigma_min=0.1, best_of=1)
    samples = [SampleRequest(f"syn-{n:06d}-0", n, 0, 7 + n, {"age": 30.0, "sex": "F"}) for n in range(3)]
    shards = [Shard(f"00-{n:06d}", (sample,)) for n, sample in enumerate(samples)]
    return lambda folder: [ShardJob(shard, folder, models, "digest", config, "cpu") for shard in shards]


@pytest.fixture
def worker(tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch) -> Mapper:
    """Another machine in this process: parcels are pickled, and while one is opened the study's folder is away."""

    @cache
    def mirror(address: str) -> Mirror:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        return Mirror(TreeStore(open_storage(address), elsewhere), elsewhere, 1 << 30)

    monkeypatch.setattr(storage, "_mirror", mirror)

    def away(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for position in range(len(items)):
            parcel = pickle.loads(pickle.dumps(items[position]))
            assert str(study).encode() not in pickle.dumps(parcel)
            hidden = study.rename(study.with_name("away"))
            try:
                reply = function(parcel)
            finally:
                hidden.rename(study)
            yield position, pickle.loads(pickle.dumps(reply))

    return away


def refuse(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    raise AssertionError("must travel")


@pytest.fixture
def stored(study: Path, tmp_path: Path) -> StoredStudy:
    return StoredStudy((tmp_path / "bucket").as_uri(), study)


def test_shards_made_elsewhere_are_those_made_here(
    study: Path, stored: StoredStudy, worker: Mapper, jobs: Callable[[Path], list[ShardJob]], tmp_path: Path
) -> None:
    here, there = jobs(tmp_path / "here"), jobs(study / "candidates.zarr")
    expected = dict(serial_map(make_shard, here))
    assert dict(stored.map(worker, refuse, make_shard, there)) == expected
    assert digest_tree(study / "candidates.zarr") == digest_tree(tmp_path / "here")
    assert not list((study / STATE / "storage").iterdir())
    objects = digest_tree(tmp_path / "bucket")
    assert all(Path(name).name == digest for name, digest in objects.items())
    before = digest_tree(study / "candidates.zarr")
    assert dict(stored.map(worker, refuse, make_shard, there)) == expected  # found there, not made again
    assert (digest_tree(tmp_path / "bucket"), digest_tree(study / "candidates.zarr")) == (objects, before)


def test_a_damaged_shard_is_made_again(
    study: Path, stored: StoredStudy, worker: Mapper, jobs: Callable[[Path], list[ShardJob]]
) -> None:
    job = jobs(study / "candidates.zarr")[0]
    make_shard(job)
    whole = digest_tree(job.path)
    chunk = next(path for path in job.path.glob("image/c/**/0") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    dict(stored.map(worker, refuse, make_shard, [job]))
    assert digest_tree(job.path) == whole


def add_part(path: Path, text: str = "new") -> Path:
    """Writes a file beside others and gives its path."""
    (path / "part").mkdir(exist_ok=True)
    (path / "part" / text).write_text(text)
    return path / "part" / text


def test_what_an_item_adds_comes_beside_what_is_there(study: Path, stored: StoredStudy, worker: Mapper) -> None:
    (study / "store").mkdir()
    (study / "store" / "old").write_text("old")
    (_, result), *_ = stored.map(worker, refuse, add_part, [study / "store"])
    assert result == study / "store/part/new"
    assert result.read_text() == "new"
    assert (study / "store" / "old").read_text() == "old"


def test_a_version_of_yesterday_is_never_read(study: Path, stored: StoredStudy, worker: Mapper) -> None:
    (study / "text").write_text("yesterday")
    assert dict(stored.map(worker, refuse, Path.read_text, [study / "text"])) == {0: "yesterday"}
    (study / "text").write_text("today")
    assert dict(stored.map(worker, refuse, Path.read_text, [study / "text"])) == {0: "today"}


@pytest.mark.parametrize("what", ["scan", "outside", "root"])
def test_what_must_not_travel_is_done_here(study: Path, stored: StoredStudy, what: str, tmp_path: Path) -> None:
    case = CaseRef("a", "a", study / "scan.nii.gz")
    item = {"scan": case, "outside": tmp_path / "scan.nii.gz", "root": study}[what]
    assert dict(stored.map(refuse, serial_map, str, [item])) == {0: str(item)}
    assert not (tmp_path / "bucket").exists()


def test_an_altered_object_is_refused(study: Path, stored: StoredStudy, worker: Mapper, tmp_path: Path) -> None:
    (study / "text").write_text("text")
    stored.sent(study / "text")
    for path in (tmp_path / "bucket" / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(IntegrityError, match="altered"):
        dict(stored.map(worker, refuse, Path.read_text, [study / "text"]))


def fail(_: Path) -> None:
    raise ConfigurationError("no")


def test_an_error_comes_as_it_is(study: Path, stored: StoredStudy, worker: Mapper) -> None:
    with pytest.raises(ConfigurationError, match=r"^no$"):
        dict(stored.map(worker, refuse, fail, [study / "text"]))


def hide(folder: str) -> None:
    """From now on this process cannot open anything in a folder."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename") and str(arguments[0]).startswith(
            folder
        ):
            raise PermissionError(f"{folder} is on another machine")

    sys.addaudithook(hook)


def environment(_: int) -> dict[str, str]:
    return dict(os.environ)


@pytest.mark.slow
@pytest.mark.long
def test_a_dask_worker_without_the_folder(
    study: Path, jobs: Callable[[Path], list[ShardJob]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client, LocalCluster

    expected = dict(serial_map(make_shard, jobs(tmp_path / "here")))
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", local_directory=tmp_path / "scratch"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(hide, str(study))
        with pytest.raises(PermissionError):
            client.submit(Path.read_bytes, study / "models/denoiser/facts.json").result()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        runtime = RuntimeConfig(dask=cluster.scheduler_address, storage=(tmp_path / "bucket").as_uri())
        with open_mapper(runtime, study) as mapper:
            assert dict(mapper(make_shard, jobs(study / "candidates.zarr"))) == expected
        assert SECRET not in str(client.run(environment, 0))
    assert digest_tree(study / "candidates.zarr") == digest_tree(tmp_path / "here")
