"""Whatever happens to a release on its way, it is found."""

import json
import os
import random
import shutil
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meddiff_core.errors import IntegrityError
from meddiff_core.release.bounded import one_line, read_bounded
from meddiff_core.release.manifest import list_files, read_manifest
from meddiff_core.release.signing import check_signature, generate_keys, read_public_key, read_signer, sign_manifest
from meddiff_core.release.verify import verify_release


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def seal_again(folder: Path) -> None:
    """What somebody does who edits a file and wants the manifest to agree."""
    edit_manifest(folder, files={name: asdict(entry) for name, entry in list_files(folder).items()})


def test_a_fresh_release_is_good(released: Path) -> None:
    assert verify_release(released) == []


def flipped(content: bytes, bit: int) -> bytes:
    place = bit // 8
    return content[:place] + bytes([content[place] ^ 1 << bit % 8]) + content[place + 1 :]


def test_one_flipped_bit_anywhere_is_found(copy: Path) -> None:
    """In each file of its own, over 200 places; each file is held against its own hash, so they share a check."""
    random_ = random.Random(16)
    originals = {name: (copy / name).read_bytes() for name in read_manifest(copy).files}
    rounds = -(-200 // len(originals))
    for _ in range(rounds):
        for name, content in originals.items():
            (copy / name).write_bytes(flipped(content, random_.randrange(8 * len(content))))
        assert verify_release(copy) == [
            f"{name}: altered, it is not the file in the manifest" for name in sorted(originals)
        ]


def test_one_flipped_bit_of_a_signed_manifest_or_its_signature_is_found(copy: Path, tmp_path: Path) -> None:
    """But for the name of the key, which vouches for nothing. The key is looked for, not its name."""
    private, public = generate_keys(tmp_path / "keys")
    sign_manifest(copy, read_manifest(copy), read_signer(private))
    key, random_ = read_public_key(public), random.Random(16)
    for path in (copy / "manifest.json", copy / "manifest.dsse.json"):
        original = path.read_bytes()
        start = original.find(b'"keyid"')
        named = range(8 * start, 8 * original.find(b"\n", start)) if start >= 0 else range(0)
        bits = [bit for bit in random_.sample(range(8 * len(original)), 120) if bit not in named]
        assert len(bits) > 80
        for bit in bits:
            path.write_bytes(flipped(original, bit))
            assert is_doubted(copy, key), (path.name, bit)
        path.write_bytes(original)
    assert not is_doubted(copy, key)


def is_doubted(folder: Path, key: Any) -> bool:
    try:
        return bool(check_signature(folder, read_manifest(folder), key).faults)
    except IntegrityError:
        return True


def test_a_path_that_cannot_be_looked_at_is_one_line() -> None:
    assert verify_release(Path("x" * 300)) == [
        one_line(f"{'x' * 300} must be a release, a folder with manifest.json; there is none")
    ]
    with pytest.raises(IntegrityError, match="must be readable: File name too long"):
        read_bounded(Path("x" * 300), 1)


def test_a_deleted_chunk_is_found(copy: Path) -> None:
    (copy / "cohort.ome.zarr/image/c.1.0.0.0").unlink()
    assert verify_release(copy) == ["cohort.ome.zarr/image/c.1.0.0.0: missing"]


def test_a_deleted_chunk_is_found_though_the_manifest_agrees(copy: Path) -> None:
    (copy / "cohort.ome.zarr/labels/structures/0/c.1.0.0.0").unlink()
    seal_again(copy)
    assert verify_release(copy) == ["cohort.ome.zarr/labels/structures/0: the chunk of volume 1 is missing"]


def test_an_added_file_is_found(copy: Path) -> None:
    (copy / "cohort.ome.zarr/patient.nii").touch()
    assert verify_release(copy) == ["cohort.ome.zarr/patient.nii: not in the manifest"]


def test_a_link_is_found(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.md"
    shutil.move(copy / "README.md", outside)
    (copy / "README.md").symlink_to(outside)
    assert verify_release(copy) == ["README.md: must be a file, is a link"]


def test_an_edited_table_is_found(copy: Path) -> None:
    text = (copy / "participants.tsv").read_text()
    (copy / "participants.tsv").write_text(text.replace("head-000001", "head-999999"))
    assert "participants.tsv: altered" in verify_release(copy)[0]
    seal_again(copy)
    assert verify_release(copy) == ["participants.tsv: participant_id must be that of participants.parquet"]


def test_a_lost_row_is_found_though_the_manifest_agrees(copy: Path) -> None:
    pd.read_parquet(copy / "participants.parquet").iloc[:2].to_parquet(copy / "participants.parquet", index=False)
    seal_again(copy)
    assert "participants.parquet: must have 3 rows, has 2" in verify_release(copy)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "..", "", "a\\..\\b", "C:/b", "./README.md"])
def test_a_path_out_of_the_folder_is_refused(copy: Path, path: str) -> None:
    files = json.loads((copy / "manifest.json").read_text())["files"]
    edit_manifest(copy, files=files | {path: {"bytes": 1, "sha256": "0" * 64}})
    (fault,) = verify_release(copy)
    assert fault.startswith("manifest.json must follow meddiff-release/1")


@pytest.mark.parametrize(
    "change", [{"format": "meddiff-release/2"}, {"samples": 0}, {"surprise": 1}, {"files": {"a": {}}}]
)
def test_a_manifest_of_another_form_is_refused(copy: Path, change: dict[str, Any]) -> None:
    edit_manifest(copy, **change)
    (fault,) = verify_release(copy)
    assert fault.startswith("manifest.json must follow meddiff-release/1")


def test_array_metadata_of_another_form_are_found(copy: Path) -> None:
    path = copy / "cohort.ome.zarr/zarr.json"
    content = json.loads(path.read_text())
    del content["attributes"]["ome"]["multiscales"]
    path.write_text(json.dumps(content))
    seal_again(copy)
    assert verify_release(copy) == ["cohort.ome.zarr: must be an OME-Zarr with multiscales: KeyError"]


def test_what_is_no_file_is_found(copy: Path) -> None:
    (copy / "empty" / "inside").mkdir(parents=True)
    os.mkfifo(copy / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(copy / "ear"))  # its full path may be longer than a socket's may be
        assert verify_release(copy) == [
            "ear: must be a file, is a socket",
            "empty/inside: must be a file, is a folder with nothing in it",
            "pipe: must be a file, is a FIFO",
        ]


def test_a_fifo_in_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    (copy / "croissant.json").unlink()
    os.mkfifo(copy / "croissant.json")
    assert verify_release(copy) == ["croissant.json: must be a file, is a FIFO"]


def test_a_folder_that_is_no_release_says_so(tmp_path: Path) -> None:
    assert "must be a release" in verify_release(tmp_path)[0]
    assert "must be a release" in verify_release(tmp_path / "nothing")[0]
    (tmp_path / "manifest.json").write_text("not json")
    assert "must follow" in verify_release(tmp_path)[0]
