"""A chunk gives the voxels that were written, or an error, and never more memory than its array says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

from meddiff_core.data.store import (
    chunk_path,
    create_store,
    create_volumes,
    decode_volume,
    open_array,
    read_volume,
    write_volume,
)
from meddiff_core.errors import IntegrityError

SHAPES = st.tuples(*[st.integers(1, 40)] * 3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(SHAPES, st.sampled_from(["uint8", "int16", "uint16", "float32"]), st.sampled_from("/."), st.integers(0, 2))
def test_a_volume_reads_as_zarr_reads_it(
    tmp_path: Path, shape: tuple[int, int, int], dtype: str, separator: Any, contrast: int
) -> None:
    array = create_volumes(create_store(tmp_path / "s"), "image", 2, shape, dtype, separator=separator)
    volume = np.random.default_rng(0).integers(0, 100 * contrast + 1, shape).astype(dtype)
    array[1] = volume
    read = read_volume(open_array(tmp_path / "s", "image"), 1)
    assert read.dtype == dtype
    assert read.flags.writeable
    np.testing.assert_array_equal(read, volume)
    np.testing.assert_array_equal(read, array[1])


def test_dots_keep_all_chunks_in_one_folder(tmp_path: Path) -> None:
    array = create_volumes(create_store(tmp_path / "s"), "image", 3, (4, 4, 4), "uint8", separator=".")
    array[:] = 1
    assert chunk_path(array, 2) == tmp_path / "s/image/c.2.0.0.0"
    assert [path.name for path in (tmp_path / "s/image").glob("*/")] == []


@pytest.fixture
def array(tmp_path: Path) -> zarr.Array[Any]:
    array = create_volumes(create_store(tmp_path / "s"), "image", 1, (16, 16, 16), "int16")
    array[0] = np.arange(16**3).reshape(16, 16, 16)
    return array


@pytest.mark.parametrize("separator", ["/", "."])
def test_a_volume_is_written_byte_for_byte_as_zarr_writes_it(tmp_path: Path, separator: Any) -> None:
    ours, theirs = (
        create_volumes(create_store(tmp_path / name), "image", 2, (4, 5, 6), "int16", level=5, separator=separator)
        for name in ("ours", "theirs")
    )
    volume = np.arange(120, dtype=np.int16).reshape(6, 5, 4).T  # not in C order
    write_volume(ours, 1, volume)
    theirs[1] = volume
    assert chunk_path(ours, 1).read_bytes() == chunk_path(theirs, 1).read_bytes()
    assert [*(tmp_path / "ours").rglob("*.partial")] == []


@pytest.mark.parametrize("volume", [np.zeros((4, 4, 4), np.int16), np.zeros((16, 16, 16), np.float32)])
def test_a_volume_of_another_shape_or_type_is_not_written(array: zarr.Array[Any], volume: Any) -> None:
    with pytest.raises(IntegrityError, match=r"volume 0 must be int16 \(16, 16, 16\)"):
        write_volume(array, 0, volume)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no frame at all",
        Zstd(1, checksum=True).encode(bytes(2**26)),  # 64 MiB in a few bytes
        Zstd(1, checksum=True).encode(bytes(100)),  # too little
        Zstd(1, checksum=False).encode(bytes(16**3 * 2)),  # nothing would notice a flipped bit
        Zstd(1, checksum=True).encode(bytes(16**3 * 2)) * 2,  # two volumes in one
        Zstd(1, checksum=True).encode(bytes(16**3 * 2))[:-6],
    ],
)
def test_what_is_no_chunk_of_the_array_is_refused(array: zarr.Array[Any], content: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_volume(array, content)
    chunk_path(array, 0).write_bytes(content)
    with pytest.raises(IntegrityError, match="image: the chunk of volume 0 is corrupt"):
        read_volume(array, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_a_flipped_bit_never_gives_other_voxels(array: zarr.Array[Any], data: st.DataObject) -> None:
    whole = chunk_path(array, 0).read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    try:
        read = decode_volume(array, flipped)
    except IntegrityError:
        return
    np.testing.assert_array_equal(read, array[0])  # a bit that means nothing: reserved, or the window's size


@pytest.mark.parametrize(
    "other",
    [
        {"compressors": zarr.codecs.ZstdCodec(level=1)},
        {"compressors": None},
        {"chunks": (1, 8, 16, 16)},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
    ],
)
def test_an_array_of_another_layout_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    usual = {"chunks": (1, 16, 16, 16), "compressors": zarr.codecs.ZstdCodec(level=1, checksum=True)}
    group = zarr.create_group(tmp_path / "s")
    array = group.create_array("image", shape=(1, 16, 16, 16), dtype="int16", **(usual | other))
    array[0] = 1
    with pytest.raises(IntegrityError, match="one chunk each"):
        read_volume(array, 0)
