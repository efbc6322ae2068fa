"""A release behind a URL reads like a folder; what the server does not give is an error, never zeros."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.addresses import locate, open_source
from meddiff_core.objects.cache import TAG, ObjectCache
from meddiff_core.objects.http import Access
from meddiff_core.objects.s3 import S3Objects
from meddiff_core.objects.source import Unreachable
from meddiff_core.release import open_release
from meddiff_core.release.manifest import FileEntry
from meddiff_core.release.verify import Depth, check_release, verify_release
from tests.serving import Handler, Server, serve

GOLDEN = Path(__file__).parents[1] / "release/golden/heads-1.0.0.zip"
CHUNK = "cohort.ome.zarr/image/c/1/0/0/0"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    shutil.unpack_archive(GOLDEN, folder)
    return folder / "heads-1.0.0"


@pytest.fixture
def served(golden: Path) -> Iterator[Server]:
    with serve(golden) as server:
        yield server


def refuse(handler: Handler, _: bytes) -> bool:
    handler.answer(404, b"")
    return True


def turn(handler: Handler, content: bytes) -> bool:
    handler.answer(200, content[::-1])
    return True


def test_a_url_reads_like_a_folder(served: Server, golden: Path) -> None:
    there, here = open_release(served.url, cache=None), open_release(golden)
    np.testing.assert_array_equal(there.images(), here.images())
    np.testing.assert_array_equal(there.label(1), here.label(1))
    assert there.table.equals(here.table)
    assert repr(there) == repr(here)
    assert len(pickle.dumps(there)) < 1000


def test_a_server_with_a_path_and_a_key_in_the_query(golden: Path) -> None:
    with serve(golden.parent) as server:
        release = open_release(f"{server.url}/{golden.name}/?key=secret", cache=None)
        assert release.image(0).shape == (16, 16, 16)
        assert "secret" not in str(release.path)
        assert str(release.path) == f"{server.url}/{golden.name}"


def test_nothing_but_manifest_and_table_is_read_on_opening(served: Server) -> None:
    _ = open_release(served.url, cache=None).table
    assert {*served.asked} == {"/TOMBSTONE.md", "/manifest.json", "/participants.parquet"}


def test_a_chunk_that_the_server_lost_is_an_error_in_reader_and_zarr(served: Server) -> None:
    served.misbehave = {CHUNK: refuse}
    release = open_release(served.url, cache=None)
    with pytest.raises(IntegrityError, match=f"^volume 1: {CHUNK}: missing$"):
        release.image(1)
    image = zarr.open_group(release.store, mode="r")["image"]
    assert image[0].max() > 0
    with pytest.raises(IntegrityError, match="missing"):
        image[1]


def test_zarr_opens_the_store_as_it_does_the_folder(served: Server, golden: Path) -> None:
    there = zarr.open_group(open_release(served.url, cache=None).store, mode="r")
    here = zarr.open_group(golden / "cohort.ome.zarr", mode="r")
    assert sorted(there.array_keys()) == sorted(here.array_keys())
    np.testing.assert_array_equal(there["labels/structures/0"][1, 3:5], here["labels/structures/0"][1, 3:5])
    with pytest.raises(ValueError, match="read-only"):
        there.create_array("new", shape=(1,), dtype="int8")


def test_verify_takes_a_url(served: Server, golden: Path) -> None:
    place = locate(served.url)
    assert verify_release(place) == []
    served.misbehave = {CHUNK: refuse, "README.md": turn}
    assert verify_release(place) == [
        "README.md: altered, it is not the file in the manifest",
        f"{CHUNK}: missing",
    ]


def test_verify_says_of_a_server_that_does_not_answer_that_it_does_not(golden: Path) -> None:
    with serve(golden) as server:
        place = locate(server.url, Access(retries=0))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        next(check_release(place, Depth()))


def test_what_came_stays_in_the_cache(served: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = open_release(served.url, cache=cache).image(1)
    asked = served.count(CHUNK)
    np.testing.assert_array_equal(open_release(served.url, cache=cache).image(1), image)
    assert served.count(CHUNK) == asked == 1


def test_a_damaged_object_in_the_cache_is_read_anew(served: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = open_release(served.url, cache=cache).image(1)
    for path in cache.glob("??/*"):
        path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(open_release(served.url, cache=cache).image(1), image)
    assert served.count(CHUNK) == 2


def entry_of(content: bytes) -> FileEntry:
    import hashlib

    return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_a_cache_keeps_its_bound_and_deletes_only_its_own(tmp_path: Path) -> None:
    folder, outside = tmp_path / "cache", tmp_path / "outside"
    outside.mkdir()
    cache = ObjectCache(folder, 4000)
    contents = [bytes([number]) * 1000 for number in range(12)]
    cache.put(entry_of(contents[0]), contents[0])
    mine = [folder / "notes.txt", folder / "ab" / "notes.txt", outside / ("0" * 64)]
    (folder / "ab").mkdir(exist_ok=True)
    for path in mine:
        path.write_bytes(bytes(9000))
    if not (folder / "00").exists():
        (folder / "00").symlink_to(outside)
    for content in contents:
        cache.put(entry_of(content), content)
        kept = [path for path in folder.glob("??/*") if len(path.name) == 64 and not path.parent.is_symlink()]
        assert sum(path.stat().st_size for path in kept) <= 4000
    assert all(path.exists() for path in mine)
    assert cache.get(entry_of(contents[-1])) == contents[-1]
    assert cache.get(entry_of(contents[0])) is None


def test_a_folder_of_something_else_is_no_cache(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds files"):
        ObjectCache(golden, 1)
    (tmp_path / "link").symlink_to(golden)
    with pytest.raises(ConfigurationError, match="must be a folder"):
        ObjectCache(tmp_path / "link", 1)
    assert not (golden / TAG).exists()


def test_a_local_release_needs_no_cache(golden: Path, tmp_path: Path) -> None:
    open_release(golden, cache=tmp_path / "cache", cache_bytes=1).image(0)
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def bucket(golden: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    """The release in a bucket of a server that answers as S3 does, to signed requests alone."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(golden.parent.parent) as server:
        server.keys = "reader", "a/secret+of=this test"
        settings = {"ACCESS_KEY_ID": server.keys[0], "SECRET_ACCESS_KEY": server.keys[1], "REGION": "us-east-1"}
        for name, value in ({"ENDPOINT_URL": server.url, "ALLOW_HTTP": "true"} | settings).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield server, f"s3://{golden.parent.name}/{golden.name}"


def test_a_bucket_reads_like_a_folder(bucket: tuple[Server, str], golden: Path) -> None:
    server, address = bucket
    there, here = open_release(address, cache=None), open_release(golden)
    np.testing.assert_array_equal(there.images(), here.images())
    assert verify_release(locate(address)) == []
    server.misbehave = {CHUNK: refuse}
    with pytest.raises(IntegrityError, match=f"^volume 1: {CHUNK}: missing$"):
        open_release(address, cache=None).image(1)
    assert len(pickle.dumps(there)) < 1000


def test_a_process_of_its_own_reads_a_bucket_where_this_one_must_not(
    bucket: tuple[Server, str], golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fork, and where a proxy stands in the environment, to which obstore would send loopback too."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    _, address = bucket
    source = open_source(address)
    assert isinstance(source, S3Objects)
    assert source.read("README.md", 10_000) == (golden / "README.md").read_bytes()
    with pytest.raises(IntegrityError, match="must have at most 10 bytes"):
        source.read("README.md", 10)
    with pytest.raises(IntegrityError, match="nothing: missing"):
        source.read("nothing", 10)
    assert [source.exists("README.md"), source.exists("nothing")] == [True, False]


def test_a_wrong_key_is_refused_in_a_line_that_names_none(
    bucket: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = bucket
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stolen")
    with pytest.raises(Unreachable) as refused:
        open_release(address, cache=None)
    text = str(refused.value)
    assert "refuses the signature" in text
    assert not any(secret in text for secret in ("stolen", "reader", "AWS4", "\n"))


def test_large_objects_of_a_bucket_come_in_parts(
    bucket: tuple[Server, str], golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meddiff_core.objects.s3.PART", 1 << 14)
    source = open_source(bucket[1])
    content = (golden / "report.html").read_bytes()
    parts = list(source.pieces("report.html", len(content), 100))
    assert len(parts) > 3
    assert b"".join(piece for _, piece in parts) == content[100:]
    with pytest.raises(IntegrityError, match="altered"):
        list(source.pieces("report.html", len(content) + 1))


@pytest.mark.parametrize("address", ["s3://", "s3://key:secret@bucket/a", "s3://bucket/a?key=secret"])
def test_an_address_in_s3_holds_no_keys(address: str) -> None:
    with pytest.raises(ConfigurationError, match="without keys"):
        open_source(address)
