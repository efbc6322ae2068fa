"""A reader finds old bytes or new ones, and the ledger says what was made from what."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.artefacts import (
    Ledger,
    Record,
    canonical_json,
    changed_inputs,
    digest_file,
    digest_of,
    digest_tree,
    publish_folder,
    write_bytes,
    write_json,
    writing_folder,
)
from meddiff_core.errors import IntegrityError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(deadline=None)
@given(st.dictionaries(st.text(), plain, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert digest_of(value) == digest_of(backwards)


def test_different_values_have_different_digests() -> None:
    values = [None, 0, 1, "1", [1], {"a": 1}, {"a": "1"}, 1.5, ""]
    assert len({digest_of(value) for value in values}) == len(values)


def test_a_digest_stays_what_it_was_in_the_first_version() -> None:
    """A change here makes every artefact of every study stale."""
    record = Record(name="plan", inputs={"b": "2", "a": "1"}, digest="d")
    assert canonical_json(record) == '{"digest":"d","inputs":{"a":"1","b":"2"},"name":"plan","summary":{}}'
    assert digest_of({"é": [1.5, None]}) == "4f58b443f91e13f25cbe97f537938dc94b6fda2f49f973174976e57a6d7be7df"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"value": value})


def test_writing_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert files(tmp_path) == {"new/folder/file": b"new"}


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*(("os.fsync", interrupt) if moment == "fsync" else (Path, "replace", interrupt)))
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert files(tmp_path) == {"file": b"old"}


def test_json_without_a_meaning_does_not_touch_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'


def test_the_digests_of_a_tree_name_every_file_below_it(tmp_path: Path) -> None:
    for name in ("b/deep/x", "a", "b.txt"):
        write_bytes(tmp_path / name, name.encode())
    digests = digest_tree(tmp_path)
    assert digests == {name: digest_file(tmp_path / name) for name in ("a", "b.txt", "b/deep/x")}
    write_bytes(tmp_path / "b/deep/x", b"other")
    assert [name for name, digest in digest_tree(tmp_path).items() if digest != digests[name]] == ["b/deep/x"]


def filled(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        write_bytes(folder / name, data)
    return folder


def test_a_published_folder_replaces_the_older_one_whole(tmp_path: Path) -> None:
    final = filled(tmp_path / "final", {"old": b"1", "both": b"1"})
    publish_folder(filled(tmp_path / "partial", {"new/deep": b"2", "both": b"2"}), final)
    assert files(tmp_path) == {"final/new/deep": b"2", "final/both": b"2"}


def test_a_folder_is_published_where_nothing_was(tmp_path: Path) -> None:
    publish_folder(filled(tmp_path / "partial", {"a": b"1"}), tmp_path / "some" / "where")
    assert files(tmp_path) == {"some/where/a": b"1"}


def test_a_kill_between_the_renames_leaves_no_mixture_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = filled(tmp_path / "final", {"old": b"1"})
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target == final:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            publish_folder(filled(tmp_path / "partial", {"new": b"2"}), final)
    assert not final.exists()
    publish_folder(filled(tmp_path / "again", {"new": b"3"}), final)
    assert files(final) == {"new": b"3"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "partial"]


def test_a_folder_that_was_not_finished_does_not_appear(tmp_path: Path) -> None:
    final = filled(tmp_path / "final", {"old": b"1"})

    def fail_half_way() -> None:
        with writing_folder(final) as partial:
            write_bytes(partial / "new", b"2")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert files(tmp_path) == {"final/old": b"1"}


def test_what_a_killed_writer_left_does_not_enter_the_folder(tmp_path: Path) -> None:
    filled(tmp_path / ".final.partial", {"rest": b"1"})
    with writing_folder(tmp_path / "final") as partial:
        write_bytes(partial / "new", b"2")
    assert files(tmp_path) == {"final/new": b"2"}


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    record = Record(name="plan", inputs={"study.plan": "a"}, digest="b", summary={"size": [16, 16, 16]})
    assert ledger.read("plan") is None
    ledger.write(record)
    assert Ledger(tmp_path).read("plan") == record


def test_a_forgotten_record_is_missing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(Record(name="plan", inputs={}, digest="b"))
    ledger.forget("plan")
    ledger.forget("plan")
    assert ledger.read("plan") is None


@pytest.mark.parametrize("content", [b"", b'{"name": "pl', b"[]", b'{"name": "plan"}', b"\xff\x00"])
def test_a_damaged_record_is_an_error_and_not_a_missing_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"plan\.json must be a record"):
        Ledger(tmp_path).read("plan")


def test_changed_inputs_are_those_that_differ_came_or_went() -> None:
    record = Record(name="plan", inputs={"same": "1", "other": "1", "gone": "1"}, digest="d")
    assert changed_inputs(record, {"same": "1", "other": "2", "came": "1"}) == ["came", "gone", "other"]
    assert changed_inputs(record, record.inputs) == []


def test_two_who_write_one_folder_do_not_meet(tmp_path: Path) -> None:
    """Each waits for the other; without that, one would clear away what the other is writing."""
    inside, met = [], []

    def write(number: int) -> None:
        with writing_folder(tmp_path / "shard") as partial:
            inside.append(number)
            for name in range(20):
                (partial / str(name)).write_text("x")
                time.sleep(0.001)
            met.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(8)))
    assert met == [1] * 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard"]
    assert len(list((tmp_path / "shard").iterdir())) == 20
