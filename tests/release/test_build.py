"""A release holds what it should, the same bytes each time, and is never overwritten."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from meddiff_core.artefacts import digest_tree
from meddiff_core.errors import ConfigurationError, GatesFailed, IntegrityError
from meddiff_core.release.manifest import read_manifest

FILES = [
    "README.md",
    "cohort.ome.zarr/age/c.0",
    "cohort.ome.zarr/age/zarr.json",
    "cohort.ome.zarr/cortex_mm3/c.0",
    "cohort.ome.zarr/cortex_mm3/zarr.json",
    "cohort.ome.zarr/image/c.0.0.0.0",
    "cohort.ome.zarr/image/zarr.json",
    "cohort.ome.zarr/labels/structures/0/c.0.0.0.0",
    "cohort.ome.zarr/labels/structures/0/zarr.json",
    "cohort.ome.zarr/labels/structures/1/c.0.0.0.0",
    "cohort.ome.zarr/labels/structures/1/zarr.json",
    "cohort.ome.zarr/labels/structures/zarr.json",
    "cohort.ome.zarr/labels/zarr.json",
    "cohort.ome.zarr/measured_ventricles/c.0",
    "cohort.ome.zarr/measured_ventricles/zarr.json",
    "cohort.ome.zarr/participant_id/c.0",
    "cohort.ome.zarr/participant_id/zarr.json",
    "cohort.ome.zarr/pyramid/1/c.0.0.0.0",
    "cohort.ome.zarr/pyramid/1/zarr.json",
    "cohort.ome.zarr/pyramid/zarr.json",
    "cohort.ome.zarr/seed/c.0",
    "cohort.ome.zarr/seed/zarr.json",
    "cohort.ome.zarr/sex/c.0",
    "cohort.ome.zarr/sex/zarr.json",
    "cohort.ome.zarr/ventricles/c.0",
    "cohort.ome.zarr/ventricles/zarr.json",
    "cohort.ome.zarr/x/c.0",
    "cohort.ome.zarr/x/zarr.json",
    "cohort.ome.zarr/y/c.0",
    "cohort.ome.zarr/y/zarr.json",
    "cohort.ome.zarr/z/c.0",
    "cohort.ome.zarr/z/zarr.json",
    "cohort.ome.zarr/zarr.json",
    "croissant.json",
    "evidence/gates.json",
    "evidence/gates.schema.json",
    "evidence/metrics.json",
    "evidence/scorecard.json",
    "evidence/tables.json",
    "healthdcat-ap.jsonld",
    "manifest.json",
    "participants.json",
    "participants.parquet",
    "participants.tsv",
    "report.html",
]


def test_a_release_of_one_volume_holds_exactly_these_files(make_content: Any, build: Any, tmp_path: Path) -> None:
    release = build(make_content(count=1), tmp_path)
    assert release == tmp_path / "heads-1.0.0"
    assert sorted(digest_tree(release)) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["heads-1.0.0"]


@pytest.mark.parametrize(("modality", "labelled"), [("MR", True), ("CT", False)])
def test_same_content_gives_same_bytes(
    make_content: Any, build: Any, tmp_path: Path, modality: str, labelled: bool
) -> None:
    first, second = (
        build(make_content(count=2, modality=modality, labelled=labelled), tmp_path / name) for name in ("a", "b")
    )
    assert digest_tree(first) == digest_tree(second)


def test_another_volume_gives_other_bytes(make_content: Any, build: Any, tmp_path: Path) -> None:
    content = make_content(count=2)
    swapped = replace(content, volumes=Reversed(content.volumes))
    first, second = digest_tree(build(content, tmp_path / "a")), digest_tree(build(swapped, tmp_path / "b"))
    chunk = "cohort.ome.zarr/image/c.{}.0.0.0"
    assert first[chunk.format(0)] == second[chunk.format(1)] != first[chunk.format(1)]


class Reversed:
    def __init__(self, volumes: Any) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> Any:
        return self.volumes.image(len(self) - 1 - index)

    def label(self, index: int) -> Any:
        return self.volumes.label(len(self) - 1 - index)


def test_an_existing_release_is_never_overwritten(content: Any, build: Any, tmp_path: Path) -> None:
    before = digest_tree(build(content, tmp_path))
    with pytest.raises(ConfigurationError, match=r"release\.version: must be new, 1\.0\.0 exists"):
        build(replace(content, title="Another"), tmp_path)
    assert digest_tree(tmp_path / "heads-1.0.0") == before


def test_the_very_same_release_is_left_as_it_is(content: Any, build: Any, tmp_path: Path) -> None:
    """A run that was killed right after it had published goes on from there."""
    release = build(content, tmp_path)
    written = (release / "manifest.json").stat().st_mtime_ns
    assert build(content, tmp_path) == release
    assert (release / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", ["other contact", "lost file", "changed file"])
def test_a_release_of_other_content_is_not_the_same(content: Any, build: Any, tmp_path: Path, damage: str) -> None:
    release = build(content, tmp_path)
    if damage == "lost file":
        (release / "croissant.json").unlink()
    elif damage == "changed file":
        (release / "participants.tsv").write_text("nobody\n")
    else:
        content = replace(content, contact="somebody else")
    with pytest.raises(ConfigurationError, match="must be new"):
        build(content, tmp_path)


def test_what_an_interrupted_build_left_does_not_matter(
    content: Any, build: Any, released: Path, tmp_path: Path
) -> None:
    shutil.copytree(released, tmp_path / ".heads-1.0.0.partial")
    (tmp_path / ".heads-1.0.0.partial" / "left over").touch()
    assert digest_tree(build(content, tmp_path)) == digest_tree(released)


def test_a_failed_gate_publishes_nothing(content: Any, build: Any, tmp_path: Path) -> None:
    failed = content.gates[0].model_copy(update={"passed": False, "verdict": "block"})
    with pytest.raises(GatesFailed, match="copies_excess"):
        build(replace(content, gates=(failed, *content.gates[1:])), tmp_path)
    with pytest.raises(GatesFailed, match="none"):
        build(replace(content, gates=()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_table_that_does_not_match_the_volumes_is_refused(content: Any, build: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="2 rows, 3 volumes"):
        build(replace(content, table=content.table.iloc[:2]), tmp_path)
    with pytest.raises(IntegrityError, match="own sample_id"):
        build(replace(content, table=content.table.assign(sample_id="same")), tmp_path)


def test_a_volume_off_the_grid_is_refused(content: Any, make_content: Any, build: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="volume 0 must have the size"):
        build(replace(content, volumes=make_content(size=(16, 16, 16)).volumes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_leaves_the_folder_is_refused(content: Any, build: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        build(replace(content, name="../heads"), tmp_path)


def test_mr_background_is_zero_and_the_mapped_range_a_thousand(content: Any, released: Path) -> None:
    image = zarr.open_array(released / "cohort.ome.zarr/image", mode="r")
    stored = content.volumes.image(1)
    assert image.dtype == np.int16
    np.testing.assert_array_equal(np.asarray(image[1]).T, np.rint(stored / 255 * 1000))
    assert np.asarray(image[1])[0, 0, 0] == 0


def test_ct_is_released_in_hounsfield_units(make_content: Any, build: Any, tmp_path: Path) -> None:
    content = make_content(count=1, modality="CT", labelled=False)
    image = zarr.open_array(build(content, tmp_path) / "cohort.ome.zarr/image", mode="r")
    expected = content.contract.intensity.physical(content.volumes.image(0))
    np.testing.assert_allclose(np.asarray(image[0]).T, expected, atol=0.5)
    assert not (tmp_path / "heads-1.0.0/cohort.ome.zarr/labels").exists()


def test_tables_agree_and_every_column_is_explained(content: Any, released: Path) -> None:
    parquet = pd.read_parquet(released / "participants.parquet")
    text = pd.read_csv(released / "participants.tsv", sep="\t")
    pd.testing.assert_frame_equal(parquet, text, check_dtype=False)
    assert list(parquet["participant_id"]) == list(content.table["sample_id"])
    assert list(json.loads((released / "participants.json").read_text())) == list(parquet.columns)


def test_what_was_measured_on_few_people_stays_inside(content: Any, released: Path) -> None:
    texts = [path.read_text() for path in released.rglob("*") if path.suffix in (".json", ".html", ".md")]
    for condition in content.contract.conditions[::2]:
        for secret in (condition.low, condition.high, condition.mean):
            assert not any(re.search(rf"\b{re.escape(str(secret))}\b", text) for text in texts), secret


def test_the_manifest_says_where_it_came_from(content: Any, released: Path) -> None:
    manifest = read_manifest(released)
    assert manifest.parents == content.parents
    assert manifest.study == content.study
    assert manifest.samples == manifest.counts["accepted"] == 3


def test_progress_is_reported_volume_by_volume(content: Any, tmp_path: Path) -> None:
    from meddiff_core.release.build import build_release

    steps = [(step.done, step.total) for step in build_release(content, tmp_path) if step.label == "writing volumes"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
