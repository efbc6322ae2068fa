"""A task on many scans: resumed, never stopped by one of them, made again bit by bit, and never part of a release."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.applications.files.writing import PATIENT_DATA
from meddiff_core.applications.kinds import KINDS
from meddiff_core.applications.registry import TASKS
from meddiff_core.artefacts import digest_file
from meddiff_core.distribution.catalogue import list_releases
from meddiff_core.errors import ConfigurationError, DataRefused, IntegrityError, MeddiffError
from meddiff_core.release import open_release
from meddiff_core.stages.apply import folder_name, regenerate_result

Made = Callable[..., Any]


def table_of(output: Path) -> list[dict[str, str]]:
    with (output / "results.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def scans(tmp_path: Path, save_head: Made) -> Path:
    """Two heads and a broken file."""
    folder = tmp_path / "scans"
    for number, name in enumerate(("one", "two")):
        save_head(folder, name, orientation=("PSR", "LAS")[number], seed=number)
    whole = (folder / "one.nii.gz").read_bytes()
    (folder / "three.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


def test_a_broken_scan_stops_no_other_and_what_was_done_is_skipped(apply: Made, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    labels = {"labels": scans / "maps"}
    with pytest.raises(DataRefused, match="the scan was refused: --labels: has no file"):
        apply("edit", str(scans / "three.nii.gz"), out, **labels)
    (scans / "maps" / "three.nii.gz").write_bytes((scans / "maps" / "one.nii.gz").read_bytes())
    first = apply("edit", str(scans / "*.nii.gz"), out, **labels)
    assert (first.done, first.kept) == (2, 0)
    rows = {row["case"]: row for row in table_of(out)}
    assert {case: row["outcome"] for case, row in rows.items()} == {"one": "done", "three": "refused", "two": "done"}
    assert "cannot be read to its end" in rows["three"]["reason"]
    assert float(rows["one"]["mean"]) > 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert apply("edit", str(scans / "*.nii.gz"), out, **labels).kept == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    (out / "one" / "image.nii.gz").write_bytes(b"damaged")
    assert apply("edit", str(scans / "*.nii.gz"), out, **labels).kept == 1
    assert apply("edit", str(scans / "*.nii.gz"), out, seed=1, **labels).kept == 0


def test_a_result_is_made_again_bit_by_bit(apply: Made, scans: Path, tmp_path: Path, finish: Made) -> None:
    out = tmp_path / "out"
    apply("edit", str(scans / "one.nii.gz"), out, labels=scans / "maps" / "one.nii.gz", known={"age": 50})
    result = out / "one"
    assert {path.name for path in result.iterdir()} == {
        "result.json", "picture.png", "image.nii.gz", "difference.nii.gz", "labels.nii.gz"
    }  # fmt: skip
    told = json.loads((result / "result.json").read_text())
    assert told["statement"] == PATIENT_DATA
    assert told["subject"] == {"age": 50.0}
    assert told["labels"] == {"left": 1, "right": 2}
    assert all(found.share == 0 for found in finish(regenerate_result(result)))
    image = nib.load(result / "image.nii.gz")
    voxels = np.asarray(image.dataobj).copy()
    voxels[12, 12, 12] += 1
    nib.save(nib.Nifti1Image(voxels, image.affine), result / "image.nii.gz")
    with pytest.raises(IntegrityError, match=r"image.nii.gz must be as it was written"):
        finish(regenerate_result(result))
    told["maps"]["image"]["sha256"] = digest_file(result / "image.nii.gz")
    (result / "result.json").write_text(json.dumps(told))
    found = {one.name: one for one in finish(regenerate_result(result))}
    assert (found["image"].largest, found["labels"].share) == (pytest.approx(1), 0)
    (scans / "one.nii.gz").write_bytes((scans / "two.nii.gz").read_bytes())
    with pytest.raises(IntegrityError, match="scan must be the file that the result was made from"):
        finish(regenerate_result(result))


def test_what_the_models_do_not_know_is_refused_unless_it_is_forced(
    apply: Made, save_head: Made, tmp_path: Path
) -> None:
    knee = save_head(tmp_path / "scans", "knee")
    with pytest.raises(DataRefused, match="unlike any scan"):
        apply("edit", str(knee.image), tmp_path / "out", labels=knee.label)
    apply("edit", str(knee.image), tmp_path / "out", labels=knee.label, force=True)
    told = json.loads((tmp_path / "out" / "knee" / "result.json").read_text())
    assert told["force"]
    assert "unlike any scan" in told["notes"]


def test_another_task_does_not_write_over_results(apply: Made, scans: Path, tmp_path: Path) -> None:
    one = str(scans / "one.nii.gz")
    apply("edit", one, tmp_path / "out", labels=scans / "maps" / "one.nii.gz")
    with pytest.raises(ConfigurationError, match="holds results of edit, one among them"):
        apply("denoise", one, tmp_path / "out", labels=scans / "maps" / "one.nii.gz")


def test_results_are_never_taken_for_scans_or_for_a_release(
    apply: Made, scans: Path, tmp_path: Path, finish: Made
) -> None:
    out = tmp_path / "shared" / "out"
    apply("edit", str(scans / "one.nii.gz"), out, labels=scans / "maps" / "one.nii.gz")
    for release_like in (out, out / "one"):
        with pytest.raises(MeddiffError):
            open_release(release_like)
    assert not finish(list_releases(tmp_path / "shared", None)).releases
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "manifest.json").write_text("{}")
    (tmp_path / "study.yaml").write_text("name: a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    refused = {
        tmp_path / "release" / "out": "must not lie among releases",
        tmp_path / "releases" / "out": "must not lie among releases",
        scans / "out": "must not lie among the scans",
        tmp_path / "other": "must be new, empty or of results",
        tmp_path / "other" / "file": "must be a folder",
        tmp_path / "out.tsv": "must be a folder for edit",
    }
    for place, why in refused.items():
        with pytest.raises(ConfigurationError, match=why):
            apply("edit", str(scans), place, labels=scans / "maps")


@pytest.mark.parametrize(
    ("case", "expected"),
    [("sub-01_T1w", "sub-01_T1w"), ("..", "_"), ("a/b c", "a_b_c"), ("results.tsv", "_results.tsv"), ("", "_")],
)
def test_no_name_of_a_scan_leaves_the_output(case: str, expected: str) -> None:
    assert folder_name(case) == expected


def test_every_task_has_a_function() -> None:
    assert set(TASKS) == set(KINDS)
