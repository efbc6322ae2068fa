"""Every kind of bad input: it is named, it is refused, the rest goes on, and nothing is lost."""

import errno
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.data import dataset as module
from meddiff_core.data.dataset import Dataset, build_dataset
from meddiff_core.data.fingerprint import Fingerprint, take_fingerprint
from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.scan import ras_scan
from meddiff_core.data.split.sides import assign_sides, stratifying_covariates
from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused, MeddiffError
from meddiff_core.types import serial_map

Made = Callable[..., Any]
Break = Callable[[Path], None]


@pytest.fixture
def refusal_of(cohort: Made, data: Made, finish: Made) -> Callable[..., str]:
    """Break the image of s01 among three cases; the reason given, after checking that the others go on."""

    def _refusal_of(damage: Break, **changes: Any) -> str:
        folder, config = cohort(3), data(**changes)
        damage(folder)
        inventory = discover(config, folder)
        found: Fingerprint = finish(take_fingerprint(inventory, config, serial_map))
        assert [case.case for case in found.cases] == ["s00_T1", "s02_T1"]
        assert [refusal.case for refusal in found.refused] == ["s01_T1"]
        return found.refused[0].reason

    return _refusal_of


@pytest.fixture
def voxels(save: Made, head: Made) -> Callable[..., Break]:
    """A damage that replaces the voxels of s01, or its affine."""

    def _voxels(array: Any = None, affine: Any = None) -> Break:
        return lambda folder: save(folder / "images" / "s01_T1.nii.gz", head(1)[0] if array is None else array, affine)

    return _voxels


def _image(folder: Path) -> Path:
    return folder / "images" / "s01_T1.nii.gz"


def test_a_truncated_file(refusal_of: Made) -> None:
    def damage(folder: Path) -> None:
        _image(folder).write_bytes(_image(folder).read_bytes()[:-500])

    assert "cannot be read to its end" in refusal_of(damage)


def test_an_uncompressed_file_that_is_too_short(refusal_of: Made, save: Made, head: Made) -> None:
    def damage(folder: Path) -> None:
        _image(folder).unlink()
        path = save(folder / "images" / "s01_T1.nii", head(1)[0])
        path.write_bytes(path.read_bytes()[:-500])

    assert "cannot be read to its end" in refusal_of(damage)


def test_a_text_file_with_the_name_of_an_image(refusal_of: Made) -> None:
    def damage(folder: Path) -> None:
        _image(folder).unlink()
        (folder / "images" / "s01_T1.nii").write_text("this is no image")

    assert "cannot be read as NIfTI" in refusal_of(damage)


def test_an_empty_file(refusal_of: Made) -> None:
    assert "cannot be read as NIfTI" in refusal_of(lambda folder: _image(folder).write_bytes(b""))


def test_voxels_that_are_nan_or_infinite_are_counted(refusal_of: Made, voxels: Made, head: Made) -> None:
    array = head(1)[0].astype(np.float32)
    array[0, 0, :3] = (np.nan, np.inf, -np.inf)
    assert f"3 of {array.size} are NaN or infinite" in refusal_of(voxels(array))


def test_a_constant_volume(refusal_of: Made, voxels: Made, head: Made) -> None:
    assert "all are 7" in refusal_of(voxels(np.full_like(head(1)[0], 7)))


def test_several_volumes_in_one_file(refusal_of: Made, voxels: Made, head: Made) -> None:
    reason = refusal_of(voxels(np.stack([head(1)[0]] * 2, axis=-1)))
    assert "must be one 3D volume, holds 2 in shape (16, 20, 24, 2)" in reason


def test_one_volume_with_a_fourth_axis_is_fine(
    cohort: Made, data: Made, finish: Made, voxels: Made, head: Made
) -> None:
    folder = cohort(2)
    voxels(head(1)[0][..., None])(folder)
    assert len(finish(take_fingerprint(discover(data(), folder), data(), serial_map)).cases) == 2


@pytest.mark.parametrize("index", [np.s_[..., 3], np.s_[:, :, 3:4]])
def test_a_single_slice(refusal_of: Made, voxels: Made, head: Made, index: Any) -> None:
    assert "must be a 3D volume, is 2D" in refusal_of(voxels(head(1)[0][index]))


@pytest.mark.parametrize("spacing", [0.0, -2.0, np.nan])
def test_a_spacing_that_is_no_length(refusal_of: Made, spacing: float) -> None:
    def damage(folder: Path) -> None:
        raw = bytearray(gzip.decompress(_image(folder).read_bytes()))
        raw[80:84] = np.float32(spacing).tobytes()  # pixdim[1]
        _image(folder).write_bytes(gzip.compress(raw))

    assert f"spacing must be > 0 mm, got {spacing:g}, 2, 2" in refusal_of(damage)


def test_an_affine_that_is_singular(refusal_of: Made) -> None:
    def damage(folder: Path) -> None:
        raw = bytearray(gzip.decompress(_image(folder).read_bytes()))
        raw[296:312] = np.array([0, 2, 0, 0], np.float32).tobytes()  # srow_y as srow_x
        raw[280:296] = np.array([0, 2, 0, 0], np.float32).tobytes()
        _image(folder).write_bytes(gzip.compress(raw))

    assert "affine must be invertible, is singular" in refusal_of(damage)


@pytest.mark.parametrize("affine", [None, np.eye(4)])
def test_an_identity_affine_is_a_warning(cohort: Made, data: Made, finish: Made, head: Made, affine: Any) -> None:
    folder, config = cohort(2), data(labels=None, mask="none", label_groups={})
    image = nib.Nifti1Image(head(1)[0], affine)
    nib.save(image, _image(folder))
    found = finish(take_fingerprint(discover(config, folder), config, serial_map))
    assert len(found.cases) == 2
    expected = "has neither sform nor qform" if affine is None else "affine is the identity"
    assert expected in found.cases[1].warnings[0]
    assert found.cases[0].warnings == ()


def test_a_label_map_on_another_grid_tells_both(refusal_of: Made, save: Made, head: Made) -> None:
    def damage(folder: Path) -> None:
        save(folder / "labels" / "s01_T1_seg.nii.gz", head(1)[1][1:])

    reason = refusal_of(damage)
    assert "16x20x24 at 2.000x2.000x2.000 mm" in reason
    assert "is 15x20x24" in reason


def test_a_label_map_that_is_moved(refusal_of: Made, save: Made, head: Made) -> None:
    moved = np.diag([2.0, 2, 2, 1])
    moved[0, 3] = 1.0
    damage = lambda folder: save(folder / "labels" / "s01_T1_seg.nii.gz", head(1)[1], moved)  # noqa: E731
    assert "is up to 1 mm aside, 0.5 of a voxel" in refusal_of(damage)


@pytest.mark.parametrize(
    ("value", "expected"), [(-1, "0 or more"), (1.5, "whole numbers, one is 1.5"), (np.nan, "0 or more")]
)
def test_label_values_that_are_none(refusal_of: Made, save: Made, head: Made, value: float, expected: str) -> None:
    def damage(folder: Path) -> None:
        label = head(1)[1].astype(np.float32)
        label[8, 10, 12] = value
        save(folder / "labels" / "s01_T1_seg.nii.gz", label)

    assert expected in refusal_of(damage)


def test_an_empty_label_map_as_mask(refusal_of: Made, save: Made, head: Made) -> None:
    damage = lambda folder: save(folder / "labels" / "s01_T1_seg.nii.gz", 0 * head(1)[1])  # noqa: E731
    assert "mask: label must leave voxels" in refusal_of(damage)


def test_label_values_outside_the_groups_are_refused_on_request(refusal_of: Made, save: Made, head: Made) -> None:
    def damage(folder: Path) -> None:
        label = head(1)[1]
        label[8, 10, 12] = 9
        save(folder / "labels" / "s01_T1_seg.nii.gz", label)

    assert "outside are [9]" in refusal_of(damage, unlisted_labels="refuse")


def test_label_values_outside_the_groups_become_background_and_are_reported(
    cohort: Made, data: Made, finish: Made, save: Made, head: Made
) -> None:
    folder, label = cohort(2), head(1)[1]
    label[8, 10, 12] = 9
    save(folder / "labels" / "s01_T1_seg.nii.gz", label)
    found = finish(take_fingerprint(discover(data(), folder), data(), serial_map))
    assert found.cases[1].unlisted_labels == {9: pytest.approx(1 / (label > 0).sum())}
    assert "1 label values outside the groups became background" in found.notes[0].reason


def test_an_image_without_a_label_map(refusal_of: Made) -> None:
    assert refusal_of(lambda folder: (folder / "labels" / "s01_T1_seg.nii.gz").unlink()) == "has no label map"


def test_an_empty_folder(tmp_path: Path, data: Made) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataRefused, match=r"no scans in .*images, looked for \.nii, \.nii\.gz, \.mgz, DICOM"):
        discover(data(labels=None, mask="none", label_groups={}), tmp_path)


def test_two_images_of_one_name_are_distinguished_by_their_folders(cohort: Made, data: Made) -> None:
    folder = cohort(2)
    (folder / "images" / "again").mkdir()
    shutil.copy(folder / "images" / "s01_T1.nii.gz", folder / "images" / "again" / "s01_T1.nii.gz")
    bare = discover(data(labels=None, mask="none"), folder)
    cases = {case.case: case.subject for case in bare.cases}
    assert cases == {"s00_T1": "s00", "s01_T1": "s01", "again_s01_T1": "s01"}
    labelled = discover(data(), folder)
    assert [case.case for case in labelled.cases] == ["s00_T1"]
    assert {refusal.case for refusal in labelled.refused} == {"again_s01_T1", "s01_T1"}
    assert "s01_T1_seg.nii.gz could be that of another image of the same name" in labelled.refused[0].reason


def test_two_rows_that_claim_one_subject(refusal_of: Made) -> None:
    def damage(folder: Path) -> None:
        with (folder / "participants.tsv").open("a") as file:
            file.write("s01\t99\tM\n" + "s02\t32\tM\n")  # the second repeats what was said

    assert refusal_of(damage) == "two rows claim the subject 's01' and differ"


def test_a_word_where_a_number_must_be(refusal_of: Made) -> None:
    def damage(folder: Path) -> None:
        table = folder / "participants.tsv"
        table.write_text(table.read_text().replace("31", "old"))

    reason = refusal_of(damage, covariates={"age": "continuous", "sex": "categorical"})
    assert reason == "participants row: age must be a number, is 'old'"


def test_a_file_that_is_no_image(cohort: Made, data: Made) -> None:
    folder = cohort(2)
    (folder / "images" / "Thumbs.db").write_bytes(b"\0" * 300)
    inventory = discover(data(), folder)
    assert len(inventory.cases) == 2
    assert [(refusal.case, refusal.reason) for refusal in inventory.refused] == [
        ("Thumbs.db", "is no image that can be read")
    ]


def test_names_with_spaces_and_accents_are_fine(cohort: Made, data: Made, finish: Made) -> None:
    folder = cohort(2)
    for kind, end in (("images", ""), ("labels", "_seg")):
        (folder / kind / f"s01_T1{end}.nii.gz").rename(folder / kind / f"Zoe\u0308 Grün (1)_T1{end}.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tage\tsex\nZo\u00eb Grün (1)\t40\tF\ns00\t1\tM\n", "utf-8")
    found = finish(take_fingerprint(discover(data(), folder), data(), serial_map))
    assert [case.subject for case in found.cases] == ["Zo\u00eb Grün (1)", "s00"]
    assert found.cases[0].covariates["age"] == 40.0


@pytest.mark.parametrize("name", ["../secret.nii", "inner/../../secret.nii", "{absolute}", "link.nii"])
def test_an_entry_of_a_table_cannot_leave_its_folder(
    tmp_path: Path, save: Made, head: Made, data: Made, name: str
) -> None:
    secret = save(tmp_path / "secret.nii", head(0)[0])
    save(tmp_path / "in" / "inner" / "good.nii", head(1)[0])
    (tmp_path / "in" / "link.nii").symlink_to(secret)
    entry = name.format(absolute=secret)
    (tmp_path / "in" / "scans.csv").write_text(f"subject,image\nbad,{entry}\ngood,inner/good.nii\n")
    inventory = discover(data(images="in/scans.csv", labels=None, participants=None, mask="none"), tmp_path)
    assert [case.subject for case in inventory.cases] == ["good"]
    assert [refusal.case for refusal in inventory.refused] == [entry]
    assert f"{entry!r} leaves it" in inventory.refused[0].reason


def test_a_link_out_of_the_folder_is_refused(cohort: Made, data: Made, tmp_path: Path, head: Made, save: Made) -> None:
    folder = cohort(2, tmp_path / "study")
    secret = save(tmp_path / "secret.nii", head(5)[0])
    (folder / "images" / "s09_T1.nii").symlink_to(secret)
    (folder / "images" / "more").symlink_to(tmp_path)
    inventory = discover(data(), folder)
    assert len(inventory.cases) == 2
    assert {refusal.case for refusal in inventory.refused} == {"s09_T1.nii", "more"}


def test_a_name_that_is_not_utf8(cohort: Made, data: Made) -> None:
    folder = cohort(2)
    source = os.fsencode(folder / "images" / "s01_T1.nii.gz")
    os.rename(source, source.replace(b"s01", b"s\xff1"))
    inventory = discover(data(), folder)
    assert len(inventory.cases) == 1
    assert [refusal.reason for refusal in inventory.refused] == ["name must be UTF-8"]
    assert inventory.refused[0].case.encode()


def _build(folder: Path, inventory: Inventory, found: Fingerprint, contract: Any, study: Any, finish: Made) -> Any:
    split = assign_sides(None, stratifying_covariates(found), study.split, study.seed)
    return finish(build_dataset(folder / "out", inventory.cases, found, contract, study.data, split, serial_map))


@pytest.mark.parametrize("change", ["vanishes", "changes"])
def test_a_file_that_vanishes_or_changes_after_the_fingerprint_leaves_no_hole(
    cohort: Made, study: Made, contract: Made, finish: Made, save: Made, head: Made, change: str
) -> None:
    folder, made = cohort(6), study()
    inventory = discover(made.data, folder)
    found = finish(take_fingerprint(inventory, made.data, serial_map))
    whole = _build(folder, inventory, found, contract(), made, finish)
    before = Dataset.open(folder / "out")
    kept = {row["case"]: row["voxels_sha256"] for row in before.table.to_dict("records") if row["case"] != "s01_T1"}
    if change == "vanishes":
        _image(folder).unlink()
    else:
        save(_image(folder), head(77)[0])
    refused = _build(folder, inventory, found, contract(), made, finish)
    after = Dataset.open(folder / "out")
    assert whole == []
    assert [refusal.case for refusal in refused] == ["s01_T1"]
    assert ("is gone" if change == "vanishes" else "changed since the fingerprint") in refused[0].reason
    assert dict(zip(after.table["case"], after.table["voxels_sha256"], strict=True)) == kept
    assert after.rows(None) == list(range(5))
    assert len([after.volumes(None).image(row) for row in after.rows(None)]) == 5
    assert not list((folder / "out").glob(".*"))


def test_a_case_that_discover_no_longer_finds_is_refused(
    cohort: Made, study: Made, contract: Made, finish: Made
) -> None:
    folder, made = cohort(3), study()
    found = finish(take_fingerprint(discover(made.data, folder), made.data, serial_map))
    _image(folder).unlink()
    refused = _build(folder, discover(made.data, folder), found, contract(), made, finish)
    assert [(refusal.case, refusal.reason) for refusal in refused] == [
        ("s01_T1", "is gone since the fingerprint was taken")
    ]
    assert list(Dataset.open(folder / "out").table["case"]) == ["s00_T1", "s02_T1"]


def test_a_full_disk_is_named_and_what_was_done_is_kept(
    cohort: Made, study: Made, contract: Made, finish: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = cohort(6), study()
    inventory = discover(made.data, folder)
    found = finish(take_fingerprint(inventory, made.data, serial_map))
    write, written = module.write_volume, []

    def full(array: Any, row: int, volume: Any) -> None:
        if len(written) == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(row)
        write(array, row, volume)

    monkeypatch.setattr(module, "write_volume", full)
    with pytest.raises(MeddiffError, match=r"out: no space left on the disk") as error:
        _build(folder, inventory, found, contract(), made, finish)
    assert error.value.exit_code == 1
    assert not (folder / "out" / "dataset.zarr").exists()
    monkeypatch.setattr(
        module, "write_volume", lambda array, row, volume: (written.append(row), write(array, row, volume))
    )
    assert _build(folder, inventory, found, contract(), made, finish) == []
    assert sorted(set(written)) == list(range(6))
    assert len(written) == 7 + 2 * 3  # three cases were whole, the fourth lacked its label map
    assert len(Dataset.open(folder / "out").table) == 6


def test_nothing_is_lost(cohort: Made, study: Made, contract: Made, finish: Made, voxels: Made, head: Made) -> None:
    folder, made = cohort(8), study()
    voxels(np.full_like(head(1)[0], 7))(folder)
    (folder / "images" / "s02_T1.nii.gz").write_text("text")
    (folder / "labels" / "s03_T1_seg.nii.gz").unlink()
    (folder / "images" / "odd.bin").write_bytes(b"x")
    inputs = len(list((folder / "images").iterdir()))
    inventory = discover(made.data, folder)
    found = finish(take_fingerprint(inventory, made.data, serial_map))
    (folder / "images" / "s05_T1.nii.gz").unlink()
    refused = _build(folder, inventory, found, contract(), made, finish)
    assert len(Dataset.open(folder / "out").table) + len(found.refused) + len(refused) == inputs


def test_a_mask_by_labels_that_are_nowhere_is_a_fault_of_the_study(
    tmp_path: Path, save: Made, head: Made, data: Made
) -> None:
    save(tmp_path / "a.nii", head(0)[0])
    (tmp_path / "scans.csv").write_text("subject,image\na,a.nii\n")
    with pytest.raises(ConfigurationError, match=r"data\.mask: label needs label maps"):
        discover(data(images="scans.csv", labels=None, participants=None), tmp_path)


def test_nan_all_around_an_image_is_its_outside_and_reported(head: Made) -> None:
    array = head(0)[0].astype(np.float32)
    expected = array.min()
    array[:2] = np.nan
    scan = ras_scan("case", array, np.eye(4), 32, False)
    assert (scan.volume.array[:2] == expected).all()
    assert "NaN; taken as its darkest value" in scan.source.warnings[0]


def test_nan_within_an_image_is_refused_also_where_its_border_has_some(head: Made) -> None:
    array = head(0)[0].astype(np.float32)
    array[:2] = np.nan
    array[tuple(length // 2 for length in array.shape)] = np.nan
    with pytest.raises(CaseRefused, match="voxels must be finite"):
        ras_scan("case", array, np.eye(4), 32, False)
