"""What a pull makes of a server that misbehaves: all of the release, or a part that the same command completes."""

import gzip
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.artefacts import digest_file, digest_tree
from meddiff_core.distribution import pull as pulling
from meddiff_core.distribution.pull import Pulled, pull_release, stage_of
from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.objects.addresses import open_source
from meddiff_core.objects.http import Access
from meddiff_core.objects.source import Unreachable
from meddiff_core.release.manifest import parse_manifest
from tests.serving import Handler, Misbehaviour, Server, serve

CHUNK = "cohort.ome.zarr/image/c/1/0/0/0"
REPORT = "report.html"
HASTY = Access(timeout_s=20, retries=2, backoff_s=0.01)
IMPATIENT = Access(timeout_s=1, retries=0)


@pytest.fixture
def pull(finish: Any, tmp_path: Path) -> Callable[..., Pulled]:
    def run(server: Server, access: Access = HASTY, **options: Any) -> Pulled:
        address = options.pop("address", server.url)
        pulled: Pulled = finish(pull_release(open_source(address, access), tmp_path / "pulled", **options))
        return pulled

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pulled"


def first(misbehave: Callable[[Handler, bytes], None], times: int = 1) -> Misbehaviour:
    """Misbehave so many times, then no more."""
    left = iter(range(times))

    def answer(handler: Handler, content: bytes) -> bool:
        if next(left, None) is None:
            return False
        misbehave(handler, content)
        return True

    return answer


def always(misbehave: Callable[[Handler, bytes], None]) -> Misbehaviour:
    return first(misbehave, 10**6)


def cut(handler: Handler, content: bytes) -> None:
    handler.answer(200, content[: len(content) // 2], length=len(content))


def short(handler: Handler, content: bytes) -> None:
    handler.answer(200, content[: len(content) // 2], length=None)


def status(code: int, **headers: str) -> Callable[[Handler, bytes], None]:
    return lambda handler, _: handler.answer(code, b"<html>sorry</html>", **headers)


def test_a_release_is_pulled_whole(served: Server, golden: Path, folder: Path, pull: Any) -> None:
    done = pull(served, digest=digest_file(golden / "manifest.json"))
    assert digest_tree(folder) == digest_tree(golden)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["pulled", "served"]
    assert done.transferred == sum(entry.bytes for entry in done.manifest.files.values())
    assert pull(served).transferred == 0


def test_a_folder_is_pulled_like_a_url(golden: Path, folder: Path, finish: Any) -> None:
    finish(pull_release(open_source(golden), folder))
    assert digest_tree(folder) == digest_tree(golden)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("fault", [cut, short, status(500)], ids=["cut", "short without a length", "500"])
def test_what_a_server_does_once_is_overcome(
    served: Server, golden: Path, folder: Path, pull: Any, fault: Any, ranges: bool
) -> None:
    served.ranges, served.misbehave = ranges, {REPORT: first(fault)}
    pull(served)
    assert digest_tree(folder) == digest_tree(golden)
    asked = [headers.get("range") for path, headers in zip(served.asked, served.headers, strict=True) if REPORT in path]
    half = (golden / REPORT).stat().st_size // 2
    assert asked == [None, None if fault not in (cut, short) else f"bytes={half}-"]


def test_a_part_from_elsewhere_is_not_put_behind_the_part_that_came(
    served: Server, golden: Path, folder: Path, pull: Any
) -> None:
    answers = iter([cut, lambda handler, content: handler.answer(206, content[7:], Content_Range="bytes 7-9/10")])

    def answer(handler: Handler, content: bytes) -> bool:
        return bool((misbehave := next(answers, None)) and not misbehave(handler, content))  # type: ignore[no-untyped-call]

    served.misbehave = {REPORT: answer}
    pull(served)
    assert served.count(REPORT) == 3
    assert digest_tree(folder) == digest_tree(golden)


def test_a_busy_server_is_waited_for_as_long_as_it_asks(served: Server, pull: Any, folder: Path) -> None:
    served.misbehave = {REPORT: first(status(429, Retry_After="1"))}
    since = time.monotonic()
    pull(served)
    assert time.monotonic() - since >= 1
    assert served.count(REPORT) == 2
    assert folder.is_dir()


ENDS: dict[str, tuple[Callable[[Handler, bytes], None], int, str]] = {
    "404": (status(404), 1, rf"{CHUNK}: missing"),
    "403": (status(403), 1, rf"{CHUNK}: 127.* refuses it: 403 Forbidden"),
    "401": (status(401), 1, r"401 Unauthorized"),
    "500": (status(500), 3, r"answers 500 Internal Server Error, also after 2 retries"),
    "429 for an hour": (status(429, Retry_After="3600"), 1, r"asks to wait 3600 s, longer than 120 s"),
    "cut": (cut, 3, r"cut the connection|ended after"),
    "short": (short, 3, r"ended after \d+ of 2564 bytes"),
    "too long": (lambda handler, content: handler.answer(200, content + b"x"), 1, "altered"),
    "no length and too long": (lambda handler, content: handler.answer(200, content + b"x", None), 1, "altered"),
    "HTML": (lambda handler, _: handler.answer(200, b"<html>Sign in</html>"), 1, "altered"),
    "empty": (lambda handler, _: handler.answer(200, b""), 1, "altered"),
    "another of that length": (lambda handler, content: handler.answer(200, content[::-1]), 1, "altered"),
    "gzip": (
        lambda handler, content: handler.answer(200, gzip.compress(content), Content_Encoding="gzip"),
        1,
        "compresses it unasked",
    ),
    "a part unasked": (lambda handler, content: handler.answer(206, content), 3, "another part than was asked for"),
    "hang": (lambda *_: time.sleep(2), 1, "does not answer within 1 s"),
    "a redirect to another host": (
        status(302, Location="http://example.org/heads"),
        1,
        r"redirects to another host, example\.org: --allow-host example\.org permits it",
    ),
    "a redirect to a file": (status(302, Location="file:///etc/passwd"), 1, "redirects to file:, which is refused"),
    "redirects without an end": (status(302, Location="/a"), 1, "missing"),
}


@pytest.mark.parametrize("what", ENDS)
def test_what_a_server_keeps_doing_ends_the_pull_which_the_next_call_completes(
    served: Server, golden: Path, folder: Path, pull: Any, what: str
) -> None:
    misbehave, requests, message = ENDS[what]
    served.misbehave = {CHUNK: always(misbehave)}
    with pytest.raises((IntegrityError, Unreachable), match=message):
        pull(served, IMPATIENT if what == "hang" else HASTY)
    assert served.count(CHUNK) == requests
    assert not folder.exists()
    assert not (stage_of(folder) / "tree" / CHUNK).exists()
    whole = digest_tree(golden)
    assert all(whole[name] == digest for name, digest in digest_tree(stage_of(folder) / "tree").items())
    served.misbehave = {}
    pull(served)
    assert digest_tree(folder) == whole
    assert not stage_of(folder).exists()


def test_what_came_before_an_error_is_not_asked_for_again(served: Server, pull: Any) -> None:
    served.misbehave = {CHUNK: always(status(404))}
    with pytest.raises(IntegrityError, match=r"^1 files did not come"):
        pull(served)
    before = len(served.asked)
    served.misbehave = {}
    pull(served)
    assert [path for path in served.asked[before:] if "cohort" in path] == [f"/{CHUNK}"]


def test_a_damaged_file_of_a_folder_is_repaired_alone(served: Server, golden: Path, folder: Path, pull: Any) -> None:
    pull(served)
    (folder / REPORT).write_bytes(b"damaged")
    (folder / CHUNK).unlink()
    served.asked.clear()
    pull(served)
    assert digest_tree(folder) == digest_tree(golden)
    assert sum(CHUNK in path or REPORT in path for path in served.asked) == 2
    assert not any("README" in path for path in served.asked)


def test_a_damaged_part_is_begun_again(served: Server, golden: Path, folder: Path, pull: Any) -> None:
    served.misbehave = {REPORT: always(cut)}
    with pytest.raises(Unreachable):
        pull(served)
    (part,) = (stage_of(folder) / "parts").iterdir()
    part.write_bytes(b"x" * 100)
    served.misbehave = {}
    pull(served)
    assert digest_tree(folder) == digest_tree(golden)


def test_a_release_replaced_in_the_middle_leaves_nothing_of_either(served: Server, folder: Path, pull: Any) -> None:
    manifest = served.folder / "manifest.json"
    before = digest_file(manifest)

    def replace(handler: Handler, content: bytes) -> bool:
        manifest.write_text(manifest.read_text().replace("Synthetic heads", "Other heads"))
        return False

    served.misbehave = {CHUNK: replace}
    with pytest.raises(IntegrityError, match="replaced meanwhile") as error:
        pull(served)
    assert before in str(error.value)
    assert digest_file(manifest) in str(error.value)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["served"]


def test_the_part_of_another_release_is_not_gone_on_with(served: Server, folder: Path, pull: Any, finish: Any) -> None:
    served.misbehave = {CHUNK: always(status(404))}
    with pytest.raises(IntegrityError):
        pull(served)
    served.misbehave = {}
    manifest = json.loads((served.folder / "manifest.json").read_text())
    (served.folder / "README.md").write_text("changed")
    manifest["files"]["README.md"] = {"bytes": 7, "sha256": digest_file(served.folder / "README.md")}
    (served.folder / "manifest.json").write_text(json.dumps(manifest))
    pull(served)
    assert digest_tree(folder) == digest_tree(served.folder)


def test_two_pulls_do_not_write_one_folder(served: Server, folder: Path, pull: Any) -> None:
    refused: list[str] = []

    def again(handler: Handler, content: bytes) -> bool:
        try:
            pull(served)
        except ConfigurationError as error:
            refused.append(str(error))
        return False

    served.misbehave = {CHUNK: again}
    pull(served)
    assert refused == [f"{folder}: another pull writes it; wait for its end"]


def test_another_digest_than_the_one_that_was_given_is_refused(served: Server, folder: Path, pull: Any) -> None:
    with pytest.raises(IntegrityError, match="must have the digest 00, as --digest says"):
        pull(served, digest="00")
    assert served.count("README.md") == 0
    assert not folder.exists()


@pytest.mark.parametrize("what", ["a link", "a file", "something else", "another release"])
def test_a_destination_that_is_something_else_is_left_alone(
    served: Server, golden: Path, folder: Path, pull: Any, what: str
) -> None:
    other = folder.parent / "other"
    other.mkdir()
    if what == "a link":
        folder.symlink_to(other)
    elif what == "a file":
        folder.write_text("mine")
    elif what == "something else":
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    else:
        shutil.copytree(golden, folder)
        (folder / "manifest.json").write_text((golden / "manifest.json").read_text() + "\n")
    before = digest_tree(folder) if folder.is_dir() else None
    with pytest.raises(ConfigurationError, match="must be"):
        pull(served)
    assert (digest_tree(folder) if folder.is_dir() else None) == before
    assert list(other.iterdir()) == []


def test_a_link_inside_a_folder_is_not_followed(served: Server, folder: Path, pull: Any) -> None:
    pull(served)
    outside = folder.parent / "outside"
    (folder / "cohort.ome.zarr/image").rename(outside)
    (folder / "cohort.ome.zarr/image").symlink_to(outside)
    (outside / "c/1/0/0/0").unlink()
    with pytest.raises(IntegrityError, match="a link leads elsewhere"):
        pull(served)
    assert not (outside / "c/1/0/0/0").exists()


NAMES = ["../a", "/a", "a/../b", "a\\b", "C:a", "a//b", "a/./b", "", "a\nb", "a\x1b[2J", "a\u202eb"]


@pytest.mark.parametrize("names", [*([name] for name in NAMES), ["a", "A"], ["\u00e9", "e\u0301"], ["b", "b/c"]])
def test_names_that_lead_elsewhere_or_are_one_on_some_disk_are_refused(
    served: Server, folder: Path, pull: Any, names: list[str]
) -> None:
    manifest = json.loads((served.folder / "manifest.json").read_text())
    entry = manifest["files"]["README.md"]
    manifest["files"] |= dict.fromkeys(names, entry)
    (served.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"manifest\.json must follow"):
        pull(served)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["served"]


@pytest.mark.parametrize("address", ["file:///etc", "FILE:/etc", "data:text/plain,x", "ftp://host/a", "gs://bucket/a"])
def test_addresses_of_other_kinds_are_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="not at"):
        open_source(address)


def test_a_named_host_may_be_redirected_to_and_gets_no_credentials(
    served: Server, golden: Path, folder: Path, pull: Any
) -> None:
    with serve(golden) as other:
        host = f"127.0.0.1:{other.port}"
        served.misbehave = {CHUNK: always(status(302, Location=f"{other.url}/{CHUNK}"))}
        address = served.url.replace("//", "//user:secret@")
        with pytest.raises(Unreachable, match=rf"--allow-host {host}") as error:
            pull(served, address=address)
        assert "secret" not in str(error.value)
        pull(served, Access(allow_hosts=(host,)), address=address)
    assert digest_tree(folder) == digest_tree(golden)
    assert other.asked == [f"/{CHUNK}"]
    assert all("authorization" in headers for headers in served.headers)
    assert not any("authorization" in headers for headers in other.headers)


def test_loopback_goes_through_no_proxy_and_other_hosts_do(
    served: Server, golden: Path, folder: Path, pull: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    pull(served)
    shutil.rmtree(folder)
    monkeypatch.setenv("http_proxy", served.url)
    pull(served, address="http://release.invalid")
    assert digest_tree(folder) == digest_tree(golden)


def test_a_withdrawn_release_is_not_pulled(served: Server, folder: Path, pull: Any) -> None:
    (served.folder / "TOMBSTONE.md").write_text("# Heads 1.0.0 was withdrawn")
    with pytest.raises(IntegrityError, match="was withdrawn"):
        pull(served)
    assert not folder.exists()


def test_a_destination_inside_the_release_is_refused(golden: Path, finish: Any) -> None:
    for folder in (golden, golden / "copy", Path("..")):
        with pytest.raises(ConfigurationError, match="the destination must"):
            finish(pull_release(open_source(golden), folder))
    assert sorted(path.name for path in golden.parent.iterdir()) == [golden.name]


def test_a_folder_that_is_called_like_a_part_is_left_alone(served: Server, folder: Path, pull: Any) -> None:
    stage_of(folder).mkdir()
    (stage_of(folder) / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds something else"):
        pull(served)
    assert (stage_of(folder) / "thesis.txt").read_text() == "mine"


def test_a_disk_that_is_too_small_is_told_before(
    served: Server, folder: Path, pull: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.parent)._replace(free=1000)
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MeddiffError, match=r"needs 0\.1 MB more, the disk has 0\.0 MB free"):
        pull(served)
    assert served.count("README.md") == 0


COMMAND = "import sys; from flows.cli import main; sys.argv[0] = 'meddiff'; main()"


@pytest.mark.slow
def test_a_full_disk_leaves_a_part_that_the_next_call_completes(served: Server, golden: Path, tmp_path: Path) -> None:
    """A real one: a file system in memory that has room for some files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
set -e
mount -t tmpfs -o size=4m,nr_inodes=40 none {disk}
pull() {{ {sys.executable} -c "{COMMAND}" pull -q {served.url} {disk}/pulled; }}
if pull; then exit 9; fi
test ! -e {disk}/pulled
mount -o remount,nr_inodes=400 {disk}
pull
cp -r {disk}/pulled {tmp_path}/copy
"""
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    assert "the disk is full; make room and give the same command again" in done.stderr
    assert digest_tree(tmp_path / "copy") == digest_tree(golden)


@pytest.mark.slow
def test_a_killed_pull_is_completed_by_the_same_command(served: Server, golden: Path, folder: Path, pull: Any) -> None:
    command = [sys.executable, "-c", COMMAND, "pull", "-q", served.url, str(folder)]
    process = subprocess.Popen(command)
    reached = iter([False])

    def kill(handler: Handler, content: bytes) -> bool:
        if next(reached, True):
            return False
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content[:30_000])
        time.sleep(0.2)  # the other files, and the part of this one, are written
        process.kill()
        process.wait()
        handler.close_connection = True
        return True

    served.misbehave = {REPORT: kill}
    assert process.wait(60) == -9
    assert not folder.exists()
    served.asked.clear()
    pull(served)
    assert digest_tree(folder) == digest_tree(golden)
    assert served.headers[served.asked.index(f"/{REPORT}") - len(served.asked)]["range"].startswith("bytes=")


def test_a_manifest_of_another_form_is_told_in_a_line() -> None:
    with pytest.raises(IntegrityError, match="must follow"):
        parse_manifest(b"<html>")
