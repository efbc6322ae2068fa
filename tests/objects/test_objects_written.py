"""What is put into a storage is there whole, whatever becomes of requests, answers, keys and writers."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meddiff_core.artefacts import digest_tree
from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.objects import storage as storage_module
from meddiff_core.objects.mirror import Mirror, SentTree
from meddiff_core.objects.source import Unreachable
from meddiff_core.objects.storage import fault_of_storage, open_storage, probe, put_object
from meddiff_core.objects.trees import TreeStore, names_of, object_name
from tests.serving import Handler, Server, serve

KEYS = ("canary-access", "canary-secret")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of S3 on loopback, whose keys are in a file."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    write_keys(tmp_path / "keys", *KEYS)
    (tmp_path / "server" / "bucket").mkdir(parents=True)
    with serve(tmp_path / "server") as server:
        server.keys = KEYS
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
        monkeypatch.setattr(storage_module, "PAUSE_S", 0.01)
        yield server


def write_keys(path: Path, access: str, secret: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "here" / "part").mkdir(parents=True)
    (tmp_path / "here" / "one").write_bytes(b"1" * 1000)
    (tmp_path / "here" / "part" / "two").write_bytes(b"2" * 1000)
    return tmp_path / "here"


def store_in(address: str, tmp_path: Path) -> TreeStore:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return TreeStore(open_storage(address), tmp_path / "scratch")


def test_a_folder_comes_back_byte_for_byte(bucket: Server, folder: Path, tmp_path: Path) -> None:
    store = store_in("s3://bucket/study", tmp_path)
    digest = store.put(folder.parent, names_of(folder))
    store.fetch(digest, tmp_path / "there")
    assert digest_tree(tmp_path / "there" / "here") == digest_tree(folder)
    sent = [path for path in bucket.asked if path.startswith("PUT")]
    assert len(sent) == 2  # the pack, and its list last
    assert sent[-1].endswith(digest)
    assert store.put(folder.parent, names_of(folder)) == digest
    assert [path for path in bucket.asked if path.startswith("PUT")] == sent


def test_an_answer_that_is_lost_after_the_write_is_read_back(bucket: Server, folder: Path) -> None:
    def lose(handler: Handler, content: bytes) -> bool:
        handler.keep(handler.path, content)
        handler.close_connection = True
        handler.connection.close()
        return True

    bucket.misbehave = {"PUT name": lose}
    put_object(open_storage("s3://bucket/p", quick=True), "name", folder / "one")
    assert (bucket.folder / "bucket/p/name").read_bytes() == b"1" * 1000


def test_errors_and_slow_answers_are_outlived(bucket: Server, folder: Path) -> None:
    left = [500, 503, 500, 0]

    def fail(handler: Handler, _: bytes) -> bool:
        status = left.pop(0) if left else None
        if status == 0:
            time.sleep(0.3)
        elif status:
            handler.answer(status, b"<Error><Code>InternalError</Code></Error>")
        return bool(status)

    bucket.misbehave = {"PUT name": fail}
    put_object(open_storage("s3://bucket"), "name", folder / "one")
    assert (bucket.folder / "bucket/name").stat().st_size == 1000
    assert not left


def test_half_an_object_is_never_taken_for_one(bucket: Server, folder: Path, tmp_path: Path) -> None:
    store = store_in("s3://bucket", tmp_path)
    digest = store.put(folder.parent, names_of(folder))
    pack = bucket.folder / "bucket" / object_name(store.tree(digest).packs[0].sha256)
    pack.write_bytes(pack.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="altered"):
        store.fetch(digest, tmp_path / "there")
    assert not (tmp_path / "there").exists()
    store.put(folder.parent, names_of(folder))
    store.fetch(digest, tmp_path / "there")


def test_keys_that_ran_out_are_read_anew(bucket: Server, folder: Path, tmp_path: Path) -> None:
    place = open_storage("s3://bucket")
    put_object(place, "one", folder / "one")
    bucket.keys, bucket.refusal = ("second", "renewed"), b"<Error><Code>ExpiredToken</Code></Error>"
    threading.Timer(0.1, write_keys, (tmp_path / "keys", "second", "renewed")).start()
    put_object(place, "two", folder / "part" / "two")
    assert place.read("two", 1000) == b"2" * 1000


def test_a_probe_leaves_nothing(bucket: Server, tmp_path: Path) -> None:
    probe("s3://bucket/study")
    probe((tmp_path / "folder").as_uri())
    assert not digest_tree(bucket.folder)
    assert not digest_tree(tmp_path / "folder")


def test_a_probe_says_in_one_line_what_is_wrong(
    bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(tmp_path / "keys", KEYS[0], "canary-wrong")
    assert said("s3://bucket").endswith("the bucket bucket refuses the signature: the secret key is another")
    bucket.refusal = b"<Error><Code>NoSuchBucket</Code></Error>"
    assert said("s3://other").endswith("the bucket other does not exist")
    (tmp_path / "keys").write_text("canary-secret is no file of keys")
    assert "must name a readable file" in said("s3://bucket")
    write_keys(tmp_path / "keys", *KEYS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    started = time.monotonic()
    assert said("s3://bucket").endswith("the bucket bucket cannot be reached")
    assert time.monotonic() - started < 5
    (tmp_path / "file").touch()
    assert "cannot be written" in said((tmp_path / "file").as_uri())


def said(address: str) -> str:
    """What a probe says, which holds no secret and neither does what led to it."""
    with pytest.raises(ConfigurationError, match=r"^runtime\.storage: ") as caught:
        probe(address)
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in str(error)
        error = error.__cause__
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put_again_and_again(address: str, file: Path) -> None:
    while True:
        open_storage(address).put("name", file)


def test_a_kill_in_the_middle_of_a_put_leaves_a_whole_object_or_none(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(8 << 20))
    writers = [
        multiprocessing.get_context("fork").Process(
            target=put_again_and_again, args=((tmp_path / "bucket").as_uri(), large)
        )
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    time.sleep(0.2)
    for writer in writers:
        assert writer.pid
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    place = open_storage((tmp_path / "bucket").as_uri())
    assert place.size("name") in (None, 8 << 20)
    put_object(place, "name", large)
    assert (tmp_path / "bucket/name").read_bytes() == large.read_bytes()


def test_the_trees_of_a_mirror_stay_below_its_bound(folder: Path, tmp_path: Path) -> None:
    store = store_in((tmp_path / "bucket").as_uri(), tmp_path)
    trees = []
    for n in range(4):
        (folder / "one").write_bytes(os.urandom(100_000 + n))
        trees.append(SentTree("here", store.put(folder.parent, names_of(folder))))
    mirror = Mirror(store, tmp_path / "mirror", 250_000)
    mirror.folder.mkdir()
    for tree in trees:
        assert mirror.work([tree], lambda paths: (paths[0] / "part" / "two").read_bytes()) == (b"2" * 1000, [])
        assert sum(path.stat().st_size for path in mirror.folder.rglob("*") if path.is_file()) < 250_000
    with pytest.raises(MeddiffError, match=r"what one item needs must fit"):
        mirror.work(trees[:3], len)


def test_an_item_that_fails_leaves_no_half_written_tree(folder: Path, tmp_path: Path) -> None:
    store = store_in((tmp_path / "bucket").as_uri(), tmp_path)
    tree = SentTree("here", store.put(folder.parent, names_of(folder)))
    mirror = Mirror(store, tmp_path / "mirror", 1 << 20)
    mirror.folder.mkdir()

    def spoil(paths: list[Path]) -> None:
        (paths[0] / "one").write_text("half")
        raise Unreachable("gone")

    with pytest.raises(Unreachable):
        mirror.work([tree], spoil)
    assert mirror.work([tree], lambda paths: (paths[0] / "one").read_bytes())[0] == b"1" * 1000


@pytest.mark.parametrize(
    "address",
    [
        "gs://bucket/x",
        "bucket/x",
        "s3://",
        "s3://key:secret@bucket",
        "s3://bucket?key=secret",
        "file://host/x",
        "http://x",
    ],
)
def test_what_is_no_storage_is_refused_and_not_repeated(address: str) -> None:
    fault = fault_of_storage(address)
    assert fault
    assert "secret" not in fault
    with pytest.raises(ConfigurationError, match="must be"):
        open_storage(address)
