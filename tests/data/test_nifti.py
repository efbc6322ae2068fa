"""Headers are obeyed, rounding is no fault, and whatever was repaired is reported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.data.nifti import read_label, read_nifti
from meddiff_core.data.scan import displacement_mm
from meddiff_core.errors import CaseRefused
from meddiff_core.types import Volume

Made = Callable[..., Any]
AFFINE = np.diag([2.0, 2, 2, 1])


def _save(path: Path, array: Any, affine: Any = AFFINE, unit: str | None = None) -> Path:
    image = nib.Nifti1Image(array, affine)
    if unit:
        image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@pytest.fixture
def label_of(tmp_path: Path, head: Made) -> Callable[..., Any]:
    """(values, affine) -> the label map as it is read."""

    def _label_of(values: Any = None, affine: Any = AFFINE) -> Any:
        image = Volume(head(0)[0].astype(np.float32), AFFINE)
        return read_label("a", _save(tmp_path / "l.nii", head(0)[1] if values is None else values, affine), image)

    return _label_of


@pytest.mark.parametrize(
    ("unit", "factor", "note"), [("meter", 1000, "metres"), ("micron", 0.001, "micrometres"), ("mm", 1, None)]
)
def test_the_unit_of_a_header_is_obeyed(tmp_path: Path, head: Made, unit: str, factor: float, note: str | None) -> None:
    affine = AFFINE.copy()
    affine[:3] /= factor
    affine[:3, 3] = np.array([3.0, -5, 7]) / factor
    scan = read_nifti("a", _save(tmp_path / "a.nii", head(0)[0], affine, unit))
    assert scan.volume.spacing_mm == pytest.approx((2, 2, 2))
    assert scan.volume.affine[:3, 3] == pytest.approx((3, -5, 7))
    assert [f"header states {note}" in warning for warning in scan.source.warnings] == [True] * (note is not None)


@pytest.mark.parametrize(("spacing", "unit"), [(0.002, None), (2.0, "meter"), (2.0, "micron"), (2000.0, "mm")])
def test_a_field_of_view_that_nobody_has_is_refused_with_its_figure(
    tmp_path: Path, head: Made, spacing: float, unit: str | None
) -> None:
    path = _save(tmp_path / "a.nii", head(0)[0], np.diag([spacing] * 3 + [1]), unit)
    with pytest.raises(CaseRefused, match=r"field of view must be between 1 and 3000 mm .*, is .* their unit"):
        read_nifti("a", path)


def _with_forms(path: Path, array: Any, sform: Any, qform: Any, codes: tuple[int, int] = (1, 1)) -> tuple[str, ...]:
    image = nib.Nifti1Image(array, None)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)
    return read_nifti("a", path).source.warnings


def test_sform_and_qform_that_swap_left_and_right_are_reported(tmp_path: Path, head: Made) -> None:
    flipped = np.diag([-2.0, 2, 2, 1])
    flipped[0, 3] = 30
    warnings = _with_forms(tmp_path / "a.nii", head(0)[0], AFFINE, flipped)
    assert warnings == (
        "sform and qform put a voxel up to 30 mm apart: axes RAS and LAS, left and right may be swapped; sform is used",
    )


def test_sform_and_qform_of_one_space_may_differ_by_rounding_alone(tmp_path: Path, head: Made) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 0.05
    assert _with_forms(tmp_path / "a.nii", head(0)[0], AFFINE, moved) == ()
    moved[0, 3] = 1.0
    assert "up to 1 mm apart; sform is used" in _with_forms(tmp_path / "b.nii", head(0)[0], AFFINE, moved)[0]


def test_sform_of_an_atlas_and_qform_of_the_scanner_are_two_spaces(tmp_path: Path, head: Made) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] = 12
    assert _with_forms(tmp_path / "a.nii", head(0)[0], moved, AFFINE, codes=(4, 1)) == ()


def test_a_qform_that_is_no_rotation_refuses_no_scan(tmp_path: Path, head: Made) -> None:
    path = _save(tmp_path / "a.nii", head(0)[0])
    raw = bytearray(path.read_bytes())
    raw[252:256] = np.array([1, 1], np.int16).tobytes()  # qform_code, sform_code
    raw[256:268] = np.full(3, 0.9, np.float32).tobytes()  # quatern_b, c, d
    path.write_bytes(raw)
    assert "qform is no rotation; sform is used" in read_nifti("a", path).source.warnings


def test_a_slope_on_a_label_map_is_rounded_away_and_reported(tmp_path: Path, head: Made) -> None:
    label = head(0)[1]
    old = nib.Nifti1Image(label, AFFINE)
    nib.save(nib.Nifti1Image(old.get_fdata(), old.affine, old.header), tmp_path / "l.nii")
    stored = np.asarray(nib.load(tmp_path / "l.nii").dataobj)
    found = read_label("a", tmp_path / "l.nii", Volume(head(0)[0].astype(np.float32), AFFINE))
    assert not np.isin(stored, (0, 1, 2)).all()
    np.testing.assert_array_equal(found.values, label)
    assert "rounded to whole numbers, by at most 0.0039" in found.warnings[0]


def test_single_precision_in_a_label_map_is_rounded_away(label_of: Made, head: Made) -> None:
    found = label_of(head(0)[1] * np.float32(1.0000001))
    np.testing.assert_array_equal(found.values, head(0)[1])
    assert len(found.warnings) == 1


@pytest.mark.parametrize("value", [0.98, 1.5, -0.5])
def test_what_is_farther_from_a_whole_number_is_no_label(label_of: Made, head: Made, value: float) -> None:
    values = head(0)[1].astype(np.float32)
    values[8, 10, 12] = value
    with pytest.raises(CaseRefused, match="label values must be"):
        label_of(values)


def test_a_rotation_that_moves_no_voxel_far_is_rounding(label_of: Made) -> None:
    turned = AFFINE.copy()
    turned[0, 1] = 0.0004  # 0.008 mm at the farthest corner
    assert label_of(affine=turned).warnings == ()
    turned[0, 1] = 0.004
    assert "0.038 of a voxel aside of its image" in label_of(affine=turned).warnings[0]


@pytest.mark.parametrize("shift_mm", [0.5, 1.0, 20.0])
def test_a_part_of_a_voxel_is_another_grid(label_of: Made, shift_mm: float) -> None:
    moved = AFFINE.copy()
    moved[1, 3] = shift_mm
    with pytest.raises(CaseRefused, match=rf"up to {shift_mm:g} mm aside, {shift_mm / 2:g} of a voxel"):
        label_of(affine=moved)


def test_the_displacement_is_that_of_the_farthest_corner() -> None:
    wider = np.diag([2.1, 2, 2, 1])
    assert displacement_mm((11, 5, 5), AFFINE, wider) == pytest.approx(1.0)
