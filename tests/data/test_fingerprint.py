"""Figures of a scan, and what a whole folder adds to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.data.fingerprint import (
    CaseFingerprint,
    Fingerprint,
    fingerprint_case,
    require_cases,
    take_fingerprint,
)
from meddiff_core.data.foreground import extract_brain
from meddiff_core.data.ingest import discover
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.types import Volume, serial_map

Made = Callable[..., Any]


def test_figures_are_those_of_the_scan(cohort: Made, data: Made, head: Made) -> None:
    config = data(covariates={"size": "volume of left"})
    found = fingerprint_case(discover(config, cohort(1)).cases[0], config)
    assert isinstance(found, CaseFingerprint)
    image, label = head(0)
    inside = image[label > 0]
    assert (found.shape, found.orientation, found.bits, found.integer) == (image.shape, "RAS", 16, True)
    assert found.percentiles == pytest.approx(np.percentile(inside, (0.5, 50, 99.5)))
    assert (found.mean, found.std) == pytest.approx((inside.mean(), inside.std()))
    where = np.argwhere(label)
    expected = list(zip(where.min(0).tolist(), (where.max(0) + 1).tolist(), strict=True))
    assert list(found.box) == expected
    assert found.extent_mm == tuple(2.0 * (stop - start) for start, stop in expected)
    assert found.centre_mm == tuple(float(start + stop - 1) for start, stop in expected)
    assert found.label_values == {1: int((label == 1).sum()), 2: int((label == 2).sum())}
    assert found.covariates["size"] == found.group_volumes_mm3["left"] == 8.0 * (label == 1).sum()


def test_the_same_folder_gives_the_same_bytes_in_any_order(cohort: Made, data: Made, finish: Made) -> None:
    def backwards(function: Any, items: Any) -> Any:
        yield from reversed(list(serial_map(function, items)))

    inventory = discover(data(), cohort(3))
    first = finish(take_fingerprint(inventory, data(), serial_map))
    assert finish(take_fingerprint(inventory, data(), backwards)).model_dump_json() == first.model_dump_json()
    assert Fingerprint.model_validate_json(first.model_dump_json()) == first


def test_one_scan_never_counts_as_two_subjects(cohort: Made, data: Made, finish: Made, save: Made, head: Made) -> None:
    folder = cohort(3)
    image, label = head(0)
    turned, away = np.ascontiguousarray(image[::-1]), np.diag([-2.0, 2, 2, 1])
    away[0, 3] = 2.0 * (image.shape[0] - 1)
    save(folder / "images" / "s09_T1.nii", turned, away)  # the scan of s00, stored in another orientation
    save(folder / "labels" / "s09_T1_seg.nii", np.ascontiguousarray(label[::-1]), away)
    found = finish(take_fingerprint(discover(data(), folder), data(), serial_map))
    assert [case.case for case in found.cases] == ["s00_T1", "s01_T1", "s02_T1"]
    assert [(refusal.case, refusal.reason) for refusal in found.refused] == [
        ("s09_T1", "is the same scan as s00_T1 of subject 's00'")
    ]


def test_labels_without_groups_become_groups_by_value(cohort: Made, data: Made, finish: Made) -> None:
    config = data(label_groups={})
    found = finish(take_fingerprint(discover(config, cohort(1)), config, serial_map))
    assert set(found.cases[0].group_volumes_mm3) == {"label_1", "label_2"}


def test_too_many_label_values_ask_for_groups(cohort: Made, data: Made, finish: Made, save: Made, head: Made) -> None:
    folder, label = cohort(1), head(0)[1]
    many = np.arange(label.size).reshape(label.shape) % 13 + 1
    save(folder / "labels" / "s00_T1_seg.nii.gz", np.where(label, many, 0).astype(np.uint8))
    config = data(label_groups={})
    with pytest.raises(ConfigurationError, match=r"data\.label_groups: must name the structures.* 13 values"):
        finish(take_fingerprint(discover(config, folder), config, serial_map))


def test_when_all_are_refused_the_reasons_are_reported(cohort: Made, data: Made, finish: Made) -> None:
    folder = cohort(4)
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no image")
    (folder / "labels" / "s02_T1_seg.nii.gz").unlink()
    found = finish(take_fingerprint(discover(data(), folder), data(), serial_map))
    assert len(found.refused) == 4
    with pytest.raises(
        DataRefused, match=r"all 4 were refused, for 2 reasons: image .* it is not a gzip file; has no label map"
    ):
        require_cases(found)


def test_a_brain_mask_needs_its_extra_or_finds_the_brain(real_data: Path) -> None:
    pytest.importorskip("deepbet")
    image = nib.as_closest_canonical(nib.load(min((real_data / "ixi" / "t1").iterdir())))
    label = nib.as_closest_canonical(nib.load(min((real_data / "ixi" / "labels").iterdir())))
    mask = extract_brain(Volume(image.get_fdata(dtype=np.float32), image.affine))
    brain = np.asarray(label.dataobj) > 0
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.95


def test_a_brain_mask_without_its_extra_is_a_fault_of_the_study(monkeypatch: pytest.MonkeyPatch, head: Made) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deepbet.bet", None)
    with pytest.raises(ConfigurationError, match=r"pip install meddiff\[brain\]"):
        extract_brain(Volume(head(0)[0].astype(np.float32), np.eye(4)))
