"""A release that was made to break its reader is refused in a line of text, in bounded time and memory."""

import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numcodecs.zstd import Zstd

from meddiff_core.data.frames import decompress, frame_size
from meddiff_core.errors import IntegrityError
from meddiff_core.release import open_release
from meddiff_core.release.bounded import LONGEST_LINE, one_line, parse_json
from meddiff_core.release.checks.parquet_bounds import read_table
from meddiff_core.release.difference import compare, describe_difference, version_of_release
from meddiff_core.release.verify import Depth, verify_release

STORE = "cohort.ome.zarr"
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 10**9, 10**30, 1e308, "", "x" * 1000, "../../etc",
    "\ud800\x1b[2J\n", [], {}, [[[[]]]],
    {"a": {"b": 1}}, [1] * 100,
)  # fmt: skip
MIB = 1 << 20
ROOM = 512 * MIB
"""Memory that verification may take beyond what its imports have taken."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, finish: Any) -> Path:
    """Two heads of 8 voxels a side."""
    from conftest import content_of  # that of this folder, which pytest has imported

    from meddiff_core.release.build import build_release

    return finish(build_release(content_of(count=2, size=(8, 8, 8)), tmp_path_factory.mktemp("small")))  # type: ignore[no-any-return]


def mutate(raw: bytes, random_: random.Random) -> bytes:
    """A file with one thing changed in it."""
    if raw[:1] == b"{" and random_.random() < 0.75:
        return json.dumps(mutate_json(json.loads(raw), random_)).encode()
    place = random_.randrange(len(raw))
    return random_.choice(
        [
            raw[:place],
            b"",
            raw[:place] + bytes([raw[place] ^ 1 << random_.randrange(8)]) + raw[place + 1 :],
            raw[:place] + raw[place // 2 :],
            raw[:place] + random_.randbytes(8) + raw[place:],
            raw[:place] + raw[place + 4 :],
            raw.replace(b"0", b"9" * random_.randrange(40)),
        ]
    )


def mutate_json(content: Any, random_: random.Random) -> Any:
    places = [
        (parent, key)
        for parent in walk(content)
        for key in (parent if isinstance(parent, dict) else range(len(parent)))
    ]
    parent, key = random_.choice(places)
    match random_.randrange(4):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[f"{key}é"] = parent.pop(key)
        case _:
            parent[key] = random_.choice(HOSTILE)
    return content


def walk(content: Any) -> list[Any]:
    inner = content.values() if isinstance(content, dict) else content
    return [content, *(found for one in inner if isinstance(one, dict | list) and one for found in walk(one))]


def put(folder: Path, name: str, raw: bytes, manifest: dict[str, Any]) -> None:
    """Write a file, and its hash into the manifest."""
    (folder / name).write_bytes(raw)
    if name != "manifest.json":
        manifest["files"][name] = {"bytes": len(raw), "sha256": sha256(raw).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("mutations", [60, pytest.param(700, marks=pytest.mark.slow)])
def test_mutated_metadata_are_lines_of_text(small: Path, tmp_path: Path, mutations: int) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "copy"))
    names = [
        path.relative_to(small).as_posix()
        for path in sorted(small.rglob("*"))
        if path.suffix in (".json", ".parquet", ".tsv")
    ]
    random_, original = random.Random(16), (small / "manifest.json").read_bytes()
    for _ in range(mutations):
        name = random_.choice([*names, "manifest.json", f"{STORE}/zarr.json", "participants.parquet"])
        before = (small / name).read_bytes()
        after = mutate(before, random_)
        put(folder, name, after, json.loads(original))
        faults = verify_release(folder, Depth(volumes=1))
        assert all(fault == one_line(fault) and len(fault) <= LONGEST_LINE for fault in faults)
        if name.endswith("/zarr.json") and name != f"{STORE}/zarr.json":
            assert faults or is_same_json(before, after), (name, after)
        put(folder, name, before, json.loads(original))
        (folder / "manifest.json").write_bytes(original)
    assert verify_release(folder, Depth(volumes=1)) == []


def is_same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def frame_of_zeros(count: int) -> bytes:
    """A zstd frame that says it has a checksum and holds so many zeros, in 32,768 times fewer bytes."""
    sizes = [131072] * (count // 131072) + [count % 131072]
    blocks = [
        struct.pack("<I", size << 3 | 2 | (place == len(sizes) - 1))[:3] + b"\0" for place, size in enumerate(sizes)
    ]
    return bytes.fromhex("28b52ffde4") + struct.pack("<Q", count) + b"".join(blocks) + b"\0\0\0\0"


def edit_arrays(folder: Path, name: str, **changes: Any) -> None:
    """In the array's own metadata and in the consolidated copy."""
    for path, find in (
        (folder / STORE / name / "zarr.json", lambda content: content),
        (folder / STORE / "zarr.json", lambda content: content["consolidated_metadata"]["metadata"][name]),
    ):
        content = json.loads(path.read_text())
        find(content).update(changes)
        path.write_text(json.dumps(content))


def chunk_of(folder: Path, name: str) -> Path:
    return next(path for path in (folder / STORE / name).rglob("*") if path.is_file() and path.name != "zarr.json")


def huge_chunk(folder: Path) -> None:
    chunk_of(folder, "image").write_bytes(frame_of_zeros(2_400_000_000))


def huge_text_chunk(folder: Path) -> None:
    chunk_of(folder, "sex").write_bytes(frame_of_zeros(2_400_000_000))


def repeated_cell(folder: Path) -> None:
    table = pq.read_table(folder / "participants.parquet")
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), pa.array(["x" * 100_000]))
    columns = {
        name: words if name == "sex" else pa.array([table[name][0].as_py()] * 50_000) for name in table.column_names
    }
    pq.write_table(pa.table(columns), folder / "participants.parquet", compression="zstd")


def huge_cell(folder: Path) -> None:
    table = pq.read_table(folder / "participants.parquet")
    words = pa.array(["x" * 100_000_000] * 2)
    pq.write_table(
        table.set_column(table.column_names.index("sex"), "sex", words),
        folder / "participants.parquet",
        compression="zstd",
    )


def endless_samples(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"samples": 10**9}))
    edit_arrays(folder, "image", shape=[10**9, 8, 8, 8])


def endless_chunks(folder: Path) -> None:
    edit_arrays(
        folder,
        "image",
        shape=[2, 10**9, 8, 8],
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 1, 1, 1]}},
    )


def deep_json(folder: Path) -> None:
    (folder / STORE / "zarr.json").write_text("[" * 5 * MIB)


def deep_table_description(folder: Path) -> None:
    (folder / "croissant.json").write_text('{"a":' * 100_000)


def long_tsv(folder: Path) -> None:
    (folder / "participants.tsv").write_text("x\t" * 10 * MIB)


BOMBS: list[Callable[[Path], None]] = [
    huge_chunk, huge_text_chunk, repeated_cell, huge_cell, endless_samples, endless_chunks, deep_json,
    deep_table_description, long_tsv,
]  # fmt: skip

UNREAD = (huge_text_chunk, deep_table_description, long_tsv)
"""In files that `open_release` has no use for."""
LIMITED = """
import json, resource, sys, time
from pathlib import Path
from meddiff_core.errors import MeddiffError
from meddiff_core.release import open_release, reader
from meddiff_core.release.verify import Depth, verify_release
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
def read(folder):
    try:
        release = open_release(folder)
        release.table, release.image(0), release.label(1), release.covariates(0)
    except MeddiffError as error:
        return [str(error)]
    return []

for folder in map(Path, sys.argv[2:]):
    start = time.process_time()
    faults, read_faults = verify_release(folder, Depth(volumes=1)), read(folder)
    print(json.dumps([faults, read_faults, time.process_time() - start]))
"""


def test_bombs_are_refused_in_bounded_time_and_memory(small: Path, tmp_path: Path, reseal: Any) -> None:
    """One process under a limit of memory for all of them: what one took, the next does not have."""
    folders = [Path(shutil.copytree(small, tmp_path / bomb.__name__)) for bomb in BOMBS]
    for bomb, folder in zip(BOMBS, folders, strict=True):
        bomb(folder)
        reseal(folder)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(ROOM), str(small), *map(str, folders)],
        capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system",
        "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (good, readable, _), *found = map(json.loads, done.stdout.splitlines())
    assert good == readable == []
    for bomb, (faults, read_faults, seconds) in zip(BOMBS, found, strict=True):
        assert faults, bomb.__name__
        assert read_faults or bomb in UNREAD, bomb.__name__
        assert not any("MemoryError" in fault for fault in faults + read_faults), (bomb.__name__, faults, read_faults)
        assert seconds < 10, bomb.__name__


def put_attributes(folder: Path, **changes: Any) -> None:
    path = folder / STORE / "zarr.json"
    content = json.loads(path.read_text())
    content["attributes"] |= changes
    path.write_text(json.dumps(content))


def name_one_volume_twice(folder: Path) -> None:
    table = pq.read_table(folder / "participants.parquet")
    names = pa.array(["head-000000"] * 2)
    pq.write_table(table.set_column(0, "participant_id", names), folder / "participants.parquet", compression="zstd")


def lose_the_names(folder: Path) -> None:
    table = pq.read_table(folder / "participants.parquet").drop_columns(["participant_id"])
    pq.write_table(table, folder / "participants.parquet", compression="zstd")


@pytest.mark.parametrize(
    "change",
    [
        *(
            partial(put_attributes, **attributes)
            for attributes in (
                {"contract": [1]},
                {"contract": {}},
                {"affine": "x"},
                {"affine": [[1, 2], [3]]},
                {"affine": np.diag([4, 4, 4, -1]).tolist()},
            )
        ),
        name_one_volume_twice,
        lose_the_names,
    ],
)
def test_readers_and_diff_refuse_what_they_cannot_use(
    small: Path, tmp_path: Path, reseal: Any, finish: Any, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "copy"))
    change(folder)
    reseal(folder)
    with pytest.raises(IntegrityError, match="must"):
        finish(compare(version_of_release(small), version_of_release(folder)))
    release = open_release(folder)
    with pytest.raises(IntegrityError, match="must"):
        release.labels, release.affine, release.participant_id(0)


def test_more_volumes_than_files_are_refused_before_anything_is_read(small: Path, tmp_path: Path) -> None:
    manifest = json.loads((small / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"samples": 10**30}))
    with pytest.raises(IntegrityError, match="too few for so many samples"):
        open_release(tmp_path)


def test_diff_prints_no_command_to_a_terminal(small: Path, tmp_path: Path, finish: Any) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"title": "\u202eheads\x1b[2J", "study": {"a\x1b]0;x\x07": "b" * 10_000}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = describe_difference(finish(compare(version_of_release(small), version_of_release(folder))))
    assert any("\\x1b]0;x" in line for line in lines)
    assert all(line == one_line(line) for line in lines)


def test_diff_compares_the_records_of_the_manifest(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "copy"))
    path = folder / "evidence" / "gates.json"
    path.write_text(path.read_text().replace("0.05", "0.06"))
    with pytest.raises(IntegrityError, match=r"evidence/gates\.json: altered"):
        version_of_release(folder)


@pytest.mark.parametrize("count", [1, 255, 256, 65_791, 65_792, 200_000])
@pytest.mark.parametrize("random_bytes", [True, False])
def test_a_frame_says_what_it_holds(count: int, random_bytes: bool) -> None:
    content = np.random.default_rng(0).bytes(count) if random_bytes else bytes(count)
    frame = bytes(Zstd(level=5, checksum=True).encode(content))
    assert frame_size(frame) == count
    assert decompress(frame, count) == content
    with pytest.raises(IntegrityError, match="says that it holds"):
        decompress(frame, count + 1)
    with pytest.raises(IntegrityError, match="has none"):
        frame_size(bytes(Zstd(level=5, checksum=False).encode(content)))


def test_a_frame_that_holds_less_or_is_cut_is_refused() -> None:
    frame = bytes(Zstd(level=5, checksum=True).encode(np.random.default_rng(0).bytes(1000)))
    for damaged in (frame[:-1], frame[:3], b"", frame[:100], frame[:200] + b"\1" + frame[201:], b"\0" * 20):
        with pytest.raises(IntegrityError):
            decompress(damaged, 1000)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[NaN]", "[Infinity]", "[" * 100_000, "{", "", "\ud800", "9" * 5000]
)
def test_json_that_readers_may_differ_on_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"file\.json: must be JSON"):
        parse_json(text.encode(errors="surrogatepass"), "file.json")


def test_a_line_is_safe_to_print() -> None:
    line = one_line("\x1b[2J\ud800\r\nvolume\u202e" + "x" * 1000)
    assert line.startswith("\\x1b[2J\\ud800\\r\\nvolume\\u202e")
    assert len(line) == LONGEST_LINE
    assert one_line(line) == line


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("page", ["1.0", "2.0"])
def test_tables_of_usual_writers_are_read(tmp_path: Path, compression: str, dictionary: bool, page: str) -> None:
    table = pa.table(
        {
            "a": ["x", None, "é" * 50] * 100,
            "b": [1.5, None, 2] * 100,
            "c": [1, 2, 3] * 100,
            "d": [True, False, True] * 100,
        }
    )
    pq.write_table(
        table, tmp_path / "t.parquet", compression=compression, use_dictionary=dictionary, data_page_version=page,
        row_group_size=70, data_page_size=64,
    )  # fmt: skip
    read = read_table(tmp_path / "t.parquet", 300)
    assert pa.Table.from_pandas(read, preserve_index=False).to_pydict() == table.to_pydict()
    with pytest.raises(IntegrityError, match="must have 299 rows, has 300"):
        read_table(tmp_path / "t.parquet", 299)


@pytest.mark.parametrize(
    "column",
    [pa.array([[1], [2]]), pa.array([{"a": 1}, {"a": 2}]), pa.array([b"a", b"b"]), pa.array([1, 2], pa.timestamp("s"))],
)
def test_other_types_than_numbers_truths_and_text_are_refused(tmp_path: Path, column: Any) -> None:
    pq.write_table(pa.table({"a": column}), tmp_path / "t.parquet")
    with pytest.raises(IntegrityError, match="must hold numbers, truths or text"):
        read_table(tmp_path / "t.parquet", 2)


def test_a_table_that_pandas_would_see_otherwise_is_refused(tmp_path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame({"id": ["a", "b"], "age": [1.0, 2.0]}).set_index("id")
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(IntegrityError, match="the same table with and without"):
        read_table(tmp_path / "t.parquet", 2)
