"""A subset is dense, follows from the whole alone, and says what it is a part of."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from flows.cli import app
from meddiff_core.artefacts import digest_file, digest_tree
from meddiff_core.distribution.plan import Choice
from meddiff_core.distribution.subset import compare_with_whole, make_subset
from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.objects.local import LocalObjects
from meddiff_core.release import open_release
from meddiff_core.release.build import build_release
from meddiff_core.release.difference import compare, version_of_release
from meddiff_core.release.manifest import Manifest, read_manifest
from meddiff_core.release.records import read_gates
from meddiff_core.release.regenerate import choose_few
from meddiff_core.release.signing import generate_keys
from meddiff_core.release.verify import Depth, verify_release
from tests.release.conftest import content_of


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, finish: Any) -> Path:
    content = content_of(count=5, size=(10, 12, 8), histograms=())
    content.table.loc[1, "age"] = None
    return Path(finish(build_release(content, tmp_path_factory.mktemp("whole"))))


@pytest.fixture(scope="session")
def part(whole: Path, tmp_path_factory: pytest.TempPathFactory, finish: Any) -> Path:
    """All whose age is known."""
    folder = tmp_path_factory.mktemp("part") / "part"
    finish(make_subset(whole, folder, Choice("age > 0")))
    return folder


def test_it_holds_the_kept_volumes_alone(whole: Path, part: Path) -> None:
    kept, full = [0, 2, 3, 4], open_release(whole)
    cohort = zarr.open_group(part / "cohort.ome.zarr", mode="r")
    sizes = {array.shape[0] for _, array in cohort.arrays() if array.metadata.dimension_names[0] == "sample"}
    assert sizes == {4}
    assert [np.asarray(cohort["image"][n]).any() for n in range(4)] == [True] * 4
    release = open_release(part)
    np.testing.assert_array_equal(release.images(), full.images(kept))
    np.testing.assert_array_equal(release.label_maps(), full.label_maps(kept))
    assert release.table.equals(full.table.iloc[kept].reset_index(drop=True))
    assert release.manifest.subset is not None
    assert release.manifest.subset.rows == tuple(kept)
    assert release.manifest.subset.manifest == digest_file(whole / "manifest.json")
    assert verify_release(part, Depth(volumes=1)) == []
    assert not any(part.rglob("c.4.0.0.0"))


def test_evidence_is_that_of_the_whole_and_says_so(whole: Path, part: Path) -> None:
    assert read_gates(part, read_manifest(part)) == read_gates(whole, read_manifest(whole)) != ()
    assert (part / "whole/report.html").read_bytes() == (whole / "report.html").read_bytes()
    assert "4 of 5 synthetic volumes of heads 1.0.0" in (part / "README.md").read_text()
    described = json.loads((part / "healthdcat-ap.jsonld").read_text())
    assert described["healthdcatap:numberOfRecords"]["@value"] == "4"


def test_a_subset_of_a_subset_is_a_subset_of_the_whole(whole: Path, part: Path, tmp_path: Path, finish: Any) -> None:
    manifest = finish(make_subset(part, tmp_path / "second", Choice("age > 0", limit=2)))
    assert (manifest.subset.rows, manifest.subset.samples, len(manifest.subset.steps)) == ((0, 2), 5, 2)
    assert manifest.subset.steps[1].of == digest_file(part / "manifest.json")
    assert verify_release(tmp_path / "second", Depth(volumes=1)) == []
    assert compare_with_whole(tmp_path / "second", LocalObjects(whole)) == []


def test_the_same_choice_gives_the_same_bytes(whole: Path, part: Path, tmp_path: Path, finish: Any) -> None:
    finish(make_subset(whole, tmp_path / "again", Choice("age > 0")))
    assert digest_tree(tmp_path / "again") == digest_tree(part)


def test_who_exchanges_rows_is_found_by_the_whole(whole: Path, part: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(part, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["subset"]["rows"] = [0, 1, 3, 4]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert verify_release(copy) == []  # consistent in itself
    assert "cohort.ome.zarr/image/c.1.0.0.0: must be what the whole gives, is not" in compare_with_whole(
        copy, LocalObjects(whole)
    )
    assert "whole release" in compare_with_whole(whole, LocalObjects(whole))[0]
    assert "must be the release with the manifest" in compare_with_whole(part, LocalObjects(part))[0]


@pytest.mark.parametrize(
    "rows", [[], [0, 0, 1, 2], [3, 2, 1, 0], [0, 1, 2, 5], [-1, 1, 2, 3], [0, 1, 2], [True, 1, 2, 3]]
)
def test_rows_that_are_no_part_are_refused(part: Path, tmp_path: Path, rows: list[int]) -> None:
    copy = Path(shutil.copytree(part, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["subset"]["rows"] = rows
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (fault,) = verify_release(copy)
    assert fault.startswith("manifest.json must follow meddiff-release/1: ")


def test_a_whole_release_says_nothing_of_subsets(whole: Path) -> None:
    assert "subset" not in json.loads((whole / "manifest.json").read_text())
    assert Manifest.model_validate_json((whole / "manifest.json").read_bytes()).subset is None


def test_an_altered_volume_of_the_whole_leaves_nothing(whole: Path, tmp_path: Path, finish: Any) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    chunk = copy / "cohort.ome.zarr/image/c.2.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    with pytest.raises(IntegrityError, match=r"c\.2\.0\.0\.0: altered"):
        finish(make_subset(copy, tmp_path / "part", Choice("age > 0")))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert (
        finish(make_subset(copy, tmp_path / "two", Choice(limit=2))).samples == 2
    )  # what it does not take is not read


def test_what_lies_at_the_destination_is_left_alone(whole: Path, tmp_path: Path, finish: Any) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "taken", tmp_path / "link", whole / "inside"):
        with pytest.raises(ConfigurationError, match="DEST: must"):
            finish(make_subset(whole, place, Choice(limit=1)))
    with pytest.raises(ConfigurationError, match="--where or --limit"):
        finish(make_subset(whole, tmp_path / "part", Choice()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "taken"]
    assert verify_release(whole) == []


def test_it_is_compared_and_regenerated_as_any_release(whole: Path, part: Path, finish: Any) -> None:
    found = finish(compare(version_of_release(whole), version_of_release(part)))
    assert (found.removed, found.kept, found.altered) == (["head-000001"], 4, [])
    assert {one.kind for one in found.changes} == {"papers"}
    assert read_manifest(part).parents == read_manifest(whole).parents
    assert set(choose_few(part, 4)) == {"head-000000", "head-000002", "head-000003", "head-000004"}


def test_the_command_signs_and_verify_says_of_what_it_is_a_part(whole: Path, tmp_path: Path) -> None:
    private, public = generate_keys(tmp_path / "keys")
    command = [
        "subset",
        str(whole),
        str(tmp_path / "part"),
        "--where",
        "age > 0",
        "--limit",
        "2",
        "--key",
        str(private),
    ]
    made = CliRunner().invoke(app, [*command, "--quiet"])
    assert made.exit_code == 0, made.output
    said = CliRunner().invoke(app, ["verify", str(tmp_path / "part"), "--key", str(public), "--whole", str(whole)])
    assert said.exit_code == 0, said.output
    assert "subset     2 of 5 of heads 1.0.0: where age > 0, the first 2; each file is what" in said.output
    assert "signature  signed by the key" in said.output


def test_a_full_disk_is_a_line_and_leaves_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: Any
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MeddiffError, match="cannot be written: No space left on device"):
        finish(make_subset(whole, tmp_path / "part", Choice(limit=1)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metadata", [{"image": {"shape": 5, "dimension_names": ["sample"]}}, "deep", {"image": None}])
def test_metadata_that_are_none_are_a_line(
    whole: Path, tmp_path: Path, finish: Any, reseal: Any, metadata: Any
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    path = copy / "cohort.ome.zarr/zarr.json"
    content = json.loads(path.read_text())
    content["consolidated_metadata"]["metadata"] = "@" if metadata == "deep" else metadata
    level = '{"x": {"consolidated_metadata": {"metadata": '
    path.write_text(json.dumps(content).replace('"@"', level * 200 + "{}" + "}}}" * 200))
    reseal(copy)
    with pytest.raises(IntegrityError):
        finish(make_subset(copy, tmp_path / "part", Choice(limit=1)))
    assert [found.name for found in tmp_path.iterdir()] == ["copy"]
