"""Results lie over their scan exactly, in its own intensities, and change nothing but what a task changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.applications.files.coarse import coarse_scan
from meddiff_core.applications.files.conforming import take_in
from meddiff_core.applications.files.intake import ScanFiles
from meddiff_core.applications.files.placement import as_nifti, place, refined
from meddiff_core.applications.kinds import KINDS
from meddiff_core.applications.outcome import GridMap
from meddiff_core.errors import CaseRefused
from meddiff_core.types import CaseRef

Made = Callable[..., Any]
FORMS = ("qform_code", "sform_code", "pixdim", "srow_x", "srow_y", "srow_z", "qoffset_x", "xyzt_units")


def taken(heads: Any, contract: Any, task: str = "edit", **files: Any) -> Any:
    return take_in(ScanFiles(CaseRef("a", "a", heads.image, heads.label), **files), KINDS[task], contract)


@pytest.mark.parametrize(
    ("orientation", "degrees"), [("RAS", 0), ("LPI", 0), ("PSR", 0), ("AIL", 0), ("SRP", 0), ("LAS", 20), ("PSR", 12)]
)
def test_a_label_map_comes_back_onto_its_scan(
    tmp_path: Path, save_head: Made, heads_contract: Made, orientation: str, degrees: float
) -> None:
    heads = save_head(tmp_path, orientation=orientation, degrees=degrees, codes=(1, 4))
    own = taken(heads, heads_contract(spacing_mm=2.0, size=(32, 32, 32)))
    found = place(GridMap("labels", own.scan.labels, ""), own.own, own.scan.image, KINDS["segment"])
    nib.save(as_nifti(found, own.own), tmp_path / "back.nii.gz")
    back, image, label = (nib.load(path) for path in (tmp_path / "back.nii.gz", heads.image, heads.label))
    np.testing.assert_array_equal(back.dataobj, label.dataobj)
    for field in FORMS:
        np.testing.assert_array_equal(back.header[field], image.header[field])
    np.testing.assert_array_equal(back.affine, image.affine)


def test_the_texts_of_a_header_are_not_taken_over(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    heads = save_head(tmp_path)
    image = nib.load(heads.image)
    image.header["descrip"] = b"A. Person"
    nib.save(image, heads.image)
    own = taken(heads, heads_contract())
    assert b"Person" not in as_nifti(own.own.volume.array, own.own).header.binaryblock


def test_what_was_not_changed_keeps_its_voxels_bit_by_bit(
    tmp_path: Path, save_head: Made, heads_contract: Made
) -> None:
    own = taken(save_head(tmp_path, degrees=10), heads_contract())
    after = own.scan.image.copy()
    after[7:9, 7:9, 7:9] += 0.2
    after[2:5] += 0.001  # less than a step of 8 bits
    found = place(GridMap("intensity", after, ""), own.own, own.scan.image, KINDS["edit"])
    scan = own.own.volume.array
    changed = found != scan
    assert 8 * 8 <= changed.sum() <= 8**3
    span = own.own.high - own.own.low
    assert (found - scan).max() == pytest.approx(0.2 * span, rel=1e-3)
    difference = place(GridMap("difference", after - own.scan.image, ""), own.own, own.scan.image, KINDS["edit"])
    np.testing.assert_allclose(found - scan, difference, atol=1e-3)


def test_only_the_mask_is_filled(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    heads = save_head(tmp_path, orientation="PSR")
    label = nib.load(heads.label)
    hole = np.zeros(label.shape, np.uint8)
    hole[12:16, 12:17, 8:12] = 1
    nib.save(nib.Nifti1Image(hole * 255, label.affine), tmp_path / "hole.nii")
    own = taken(heads, heads_contract(), "inpaint", mask=tmp_path / "hole.nii")
    assert 0 < own.scan.mask.sum() < 40
    found = place(
        GridMap("intensity", np.full_like(own.scan.image, 0.5), ""), own.own, own.scan.image, KINDS["inpaint"]
    )
    turned = np.asarray(as_nifti(found, own.own).dataobj)
    np.testing.assert_array_equal(turned[hole == 0], np.asarray(nib.load(heads.image).dataobj)[hole == 0])
    assert np.unique(turned[hole == 1]) == pytest.approx((own.own.low + own.own.high) / 2)


def test_a_bright_lesion_does_not_darken_the_rest(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    heads = save_head(tmp_path)
    clean = taken(heads, heads_contract())
    image, hole = nib.load(heads.image), np.zeros((26, 30, 28), np.uint8)
    hole[10:15, 10:15, 10:15] = 1
    voxels = np.asarray(image.dataobj) + 2000 * hole.astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, image.affine), heads.image)
    nib.save(nib.Nifti1Image(hole, image.affine), tmp_path / "hole.nii")
    own = taken(heads, heads_contract(), "inpaint", mask=tmp_path / "hole.nii")
    assert own.own.high == pytest.approx(clean.own.high, rel=0.02)


def test_thick_slices_are_observed_where_they_were_measured(
    tmp_path: Path, save_head: Made, heads_contract: Made
) -> None:
    heads = save_head(tmp_path, orientation="LPS", spacing=(2.0, 2.0, 3.1))
    own = taken(heads, heads_contract(spacing_mm=(2.0, 2.0, 1.0), size=(32, 32, 96)), "super-resolve")
    coarse, scan = own.scan.coarse, own.own.volume
    assert coarse.factors == pytest.approx((1, 1, 3.1), rel=1e-4)
    at = own.own.grid_affine @ [coarse.offsets[0], coarse.offsets[1], coarse.offsets[2] + 3.1 * 5, 1]
    i, j, k, _ = np.linalg.solve(scan.affine, at)
    first = round(k) - 5
    assert k == pytest.approx(round(k), abs=1e-3)
    unit = np.clip((scan.array - own.own.low) / (own.own.high - own.own.low), 0, 1) * own.own.foreground
    column = unit[round(i) + 10, round(j) + 9, first : first + coarse.image.shape[2]]
    np.testing.assert_allclose(coarse.image[10, 9], column, atol=1e-6)
    finer = refined(own.own, coarse)
    assert finer.volume.array.shape == (26, 30, 84)
    np.testing.assert_allclose(finer.volume.array[..., 1::3], scan.array, atol=1e-3)
    edges = [np.array([-0.5, -0.5, -0.5, 1]), np.array([25.5, 29.5, 27.5, 1])]
    edges_of_finer = [np.array([-0.5, -0.5, -0.5, 1]), np.array([25.5, 29.5, 83.5, 1])]
    for edge, other in zip(edges, edges_of_finer, strict=True):
        np.testing.assert_allclose(scan.affine @ edge, finer.volume.affine @ other, atol=1e-6)
    assert "".join(nib.aff2axcodes(as_nifti(finer.volume.array, finer).header.get_best_affine())) == "LPS"


def test_a_scan_that_is_nowhere_coarser_is_refused(heads_contract: Made) -> None:
    step = np.diag([2.0, 2.0, 0.95, 1.0])
    with pytest.raises(CaseRefused, match=r"coarser than the models along an axis: 2 × 2 × 4.211 mm, theirs 4 mm"):
        coarse_scan("a", np.zeros((8, 8, 8), np.float32), step, heads_contract())
