"""A manifest names each file of a release, some 40,000 of 10,000 volumes: its memory is what such a release costs."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.artefacts import write_json
from meddiff_core.errors import IntegrityError
from meddiff_core.release.manifest import FORMAT, MANIFEST, FileEntry, Manifest, parse_manifest, write_manifest

VOLUMES = 1000


def manifest_of(names: list[str]) -> Manifest:
    files = {name: FileEntry(bytes=place, sha256=f"{place:064x}") for place, name in enumerate(names)}
    return Manifest(
        format=FORMAT, name="heads", version="1.0.0", title="Köpfe", licence="CC0", preset="trial", samples=1,
        counts={}, parents={}, study={"learning_rate": 1e-5}, versions={}, files=files,
    )  # fmt: skip


@pytest.fixture(scope="module")
def large() -> Manifest:
    arrays = ("image", "pyramid/1", "labels/structures/0", "labels/structures/1")
    return manifest_of([f"cohort.ome.zarr/{array}/c.{n}.0.0.0" for n in range(VOLUMES) for array in arrays])


def peak(work: Callable[[], Any]) -> float:
    """Bytes a volume at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / VOLUMES
    finally:
        tracemalloc.stop()


def test_a_manifest_is_read_and_written_in_little_memory(large: Manifest, tmp_path: Path) -> None:
    """As models and as one text these were 4,100 and 4,500 bytes a volume."""
    assert peak(lambda: write_manifest(tmp_path, large)) < 800
    raw = (tmp_path / MANIFEST).read_bytes()
    assert peak(lambda: parse_manifest(raw)) < 2200


def test_a_manifest_that_is_written_in_pieces_is_the_same_bytes(large: Manifest, tmp_path: Path) -> None:
    write_manifest(tmp_path, large)
    write_json(tmp_path / "whole.json", large)
    raw = (tmp_path / MANIFEST).read_bytes()
    assert raw == (tmp_path / "whole.json").read_bytes()
    assert parse_manifest(raw) == large


@pytest.mark.parametrize(
    "entry", ['{"bytes": 1}', '{"bytes": -1, "sha256": "%s"}', '{"bytes": "1", "sha256": "%s"}', '[1, "%s"]',
              '{"bytes": 1, "sha256": "%s", "more": 2}', '{"bytes": 1, "sha256": "A"}'],
)  # fmt: skip
def test_an_entry_of_another_form_is_refused(entry: str) -> None:
    text = manifest_of(["a"]).model_dump_json()
    whole = '{"bytes":0,"sha256":"%s"}' % ("0" * 64)
    assert whole in text
    with pytest.raises(IntegrityError, match="files"):
        parse_manifest(text.replace(whole, entry.replace("%s", "0" * 64)).encode())


@pytest.mark.parametrize("names", [["a", "a/b"], ["A/x", "a"], ["Straße", "strasse"], ["é/b", "e\u0301"]])
def test_names_that_are_one_on_some_disk_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"differ in more than case|a file or a folder"):
        manifest_of(names)
