"""What does not fit the models is refused with the difference; what does is found with all that belongs to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from meddiff_core.applications.files import conforming
from meddiff_core.applications.files.conforming import is_label_map, take_in
from meddiff_core.applications.files.intake import Beside, ScanFiles, find_scans, read_options
from meddiff_core.applications.files.known import parse_conditions
from meddiff_core.applications.files.masks import MOST_VOXELS
from meddiff_core.applications.kinds import KINDS
from meddiff_core.contract import IntensityMapping
from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused
from meddiff_core.types import CaseRef

Made = Callable[..., Any]
CT = IntensityMapping(modality="CT", low=-1000, high=1000)


def refusal(files: Any, contract: Any, task: str = "edit", **beside: Any) -> str:
    case = CaseRef("a", "a", files.image, beside.pop("label", files.label))
    with pytest.raises(CaseRefused) as refused:
        take_in(ScanFiles(case, **beside), KINDS[task], contract)
    return refused.value.reason


def test_a_label_map_is_no_scan(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    heads = save_head(tmp_path)
    label = CaseRef("a", "a", heads.label, heads.label)
    with pytest.raises(CaseRefused, match="its voxels are those of a label map"):
        take_in(ScanFiles(label), KINDS["edit"], heads_contract())
    assert not is_label_map(np.asarray(nib.load(heads.image).dataobj))


@pytest.mark.parametrize(
    ("changes", "spacing", "expected"),
    [
        ({"intensity": CT, "mask": "none"}, (2.0, 2.0, 2.0), "must be CT, as the models were trained on, is MR"),
        ({}, (20.0, 20.0, 20.0), "spans 400 x 480 x 460 mm, the grid of the models is 64 x 64 x 64 mm"),
        ({}, (0.2, 0.2, 0.2), "voxels (0.2 mm) in another unit"),
        ({"labels": {"other": (9,)}}, (2.0, 2.0, 2.0), "label map must have values of the models' structures"),
    ],
)
def test_another_kind_of_scan_is_refused_with_the_difference(
    tmp_path: Path, save_head: Made, heads_contract: Made, changes: Any, spacing: Any, expected: str
) -> None:
    assert expected in refusal(save_head(tmp_path, spacing=spacing), heads_contract(**changes))


def test_a_mask_must_be_one(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    heads, contract = save_head(tmp_path), heads_contract()
    affine, hole = nib.load(heads.image).affine, np.zeros((26, 30, 28), np.float32)
    hole[10:14, 10:14, 10:14] = 1
    aside = affine.copy()
    aside[0, 3] += 1
    cases = {
        "must be on the scan's grid 26x30x28 at 2.000x2.000x2.000 mm, is 26x30x27": (hole[..., 1:], affine),
        "up to 1 mm aside, 0.5 of a voxel": (hole, aside),
        "marks nothing": (0 * hole, affine),
        "marks all": (0 * hole + 1, affine),
        "has 3 values: 0, 1, 2": (hole + np.roll(hole, 2), affine),
        "--mask must be whole numbers, one is 0.5": (hole / 2, affine),
        "it lies outside": (np.roll(hole, 13, axis=0), affine),
        "must leave a part of the subject, it marks": (
            np.pad(0 * hole[:, :, 4:] + 1, ((0, 0), (0, 0), (4, 0))),
            affine,
        ),
    }
    for expected, (array, place) in cases.items():
        nib.save(nib.Nifti1Image(array, place), tmp_path / "hole.nii")
        assert expected in refusal(heads, contract, "inpaint", mask=tmp_path / "hole.nii")


def test_a_few_bytes_that_claim_a_huge_scan_are_refused(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    heads = save_head(tmp_path)
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    header.set_data_shape((2000, 2000, 2000))
    (tmp_path / "bomb.nii").write_bytes(header.binaryblock + bytes(20))
    case = CaseRef("a", "a", tmp_path / "bomb.nii", heads.label)
    with pytest.raises(CaseRefused, match=f"at most {MOST_VOXELS} voxels, claims 8000000000"):
        take_in(ScanFiles(case), KINDS["edit"], heads_contract())


def test_without_a_label_map_the_brain_is_extracted_and_said(
    tmp_path: Path, save_head: Made, heads_contract: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = save_head(tmp_path)
    known = take_in(ScanFiles(CaseRef("a", "a", heads.image, heads.label)), KINDS["edit"], heads_contract())
    monkeypatch.setattr(conforming, "extract_brain", lambda volume: known.own.foreground)
    found = take_in(ScanFiles(CaseRef("a", "a", heads.image)), KINDS["edit"], heads_contract())
    np.testing.assert_array_equal(found.scan.image, known.scan.image)
    assert "taken away by deepbet" in " ".join(found.notes)
    given = ScanFiles(CaseRef("a", "a", heads.image), foreground=heads.label)
    with pytest.raises(CaseRefused, match="--foreground must be 0 and one other value"):
        take_in(given, KINDS["edit"], heads_contract())


@pytest.mark.parametrize("task", ["reconstruct", "edit"])
def test_kspace_is_read_without_running_anything(tmp_path: Path, heads_contract: Made, task: str) -> None:
    contract, path = heads_contract(), tmp_path / "k.npy"
    case = ScanFiles(CaseRef("k", "k", path))
    image = np.random.default_rng(0).random(contract.size)
    refused = {
        "must have the models' size [16, 16, 16], has [8, 8, 8]": np.fft.fftn(image[:8, :8, :8]),
        "must be complex numbers, are float64": image,
        "must be complex numbers, are object": np.array([{"a": 1}], dtype=object),
        "must hold samples, all are 0": np.zeros(contract.size, np.complex64),
    }
    for expected, array in refused.items():
        np.save(path, array, allow_pickle=True)
        with pytest.raises(CaseRefused) as error:
            take_in(case, KINDS[task], contract)
        assert (expected if task == "reconstruct" else "k-space is for reconstruct") in error.value.reason
    if task == "reconstruct":
        np.save(path, np.fft.fftn(image * 900, norm="ortho"))
        taken = take_in(case, KINDS[task], contract)
        np.testing.assert_allclose(
            np.fft.ifftn(taken.scan.kspace, norm="ortho").real * taken.own.high, image * 900, rtol=1e-3
        )


def test_files_beside_the_scans_find_theirs(tmp_path: Path, save_head: Made, heads_contract: Made) -> None:
    for name in ("p1", "p2"):
        save_head(tmp_path / "scans", name)
    (tmp_path / "scans" / "maps" / "p2.nii.gz").rename(tmp_path / "scans" / "maps" / "p2_seg.nii.gz")
    table = tmp_path / "people.tsv"
    table.write_text("participant_id\tage\tsex\np1\t30\tF\np2\t95\tM\n")
    beside = Beside(labels=tmp_path / "scans" / "maps", participants=table)
    scans = str(tmp_path / "scans" / "*.nii.gz")
    found = find_scans([scans], beside, heads_contract())
    assert [(one.case.case, one.case.covariates) for one in found.scans] == [("p1", {"age": 30.0, "sex": "F"})]
    (refused,) = found.refused
    assert "age must be within 20 to 80, is 95; --extrapolate allows it" in refused.reason
    both = find_scans([scans], Beside(labels=beside.labels, participants=table), heads_contract(), extrapolate=True)
    assert [one.case.label and one.case.label.name for one in both.scans] == ["p1.nii.gz", "p2_seg.nii.gz"]


@pytest.mark.parametrize(
    ("places", "beside", "expected"),
    [
        (["nowhere"], {}, "scan: must exist"),
        (["a_seg.nii.gz"], {}, "by its name it is a label map or a mask"),
        (["a.nii.gz", "b.nii.gz"], {"labels": "maps/a.nii.gz"}, "--labels must be a folder where there are 2 scans"),
        (["a.nii.gz"], {"mask": "gone.nii"}, "--mask must exist"),
        (["a.nii.gz"], {"participants": "gone.tsv"}, "--participants: must exist"),
    ],
)
def test_a_place_that_cannot_be_meant_is_refused(
    tmp_path: Path, save_head: Made, heads_contract: Made, places: Any, beside: Any, expected: str
) -> None:
    for name in ("a", "b"):
        save_head(tmp_path, name)
    (tmp_path / "a_seg.nii.gz").write_bytes((tmp_path / "maps" / "a.nii.gz").read_bytes())
    named = Beside(**{name: tmp_path / path for name, path in beside.items()})
    with pytest.raises((ConfigurationError, DataRefused), match=expected):
        find_scans([tmp_path / place for place in places], named, heads_contract())


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("denoise", {"strength": 0.4}, "denoise: takes no option strength"),
        ("counterfactual", {}, "--set must say what shall be otherwise"),
        ("counterfactual", {"set": {"age": 95}}, "--set: age must be within 20 to 80, is 95"),
        ("counterfactual", {"set": {"aeg": 50}}, "'aeg' is no condition of the models; did you mean age"),
        ("edit", {"set": {"sex": "X"}}, "--set: sex must be one of F, M, is 'X'"),
        ("edit", {"set": {"age": float("nan")}}, "must be a finite number"),
        ("inpaint", {}, "--mask must be given"),
        ("edit", {"samples": "many"}, "edit: --samples: .* is 'many'"),
        ("score", {"samples": 2}, "score: takes no option samples"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    heads_contract: Made, task: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigurationError, match=expected):
        read_options(KINDS[task], options, heads_contract())


def test_models_without_labels_do_not_segment(heads_contract: Made) -> None:
    with pytest.raises(ConfigurationError, match="must have been trained with label maps"):
        read_options(KINDS["segment"], {}, heads_contract(labels={}))


def test_conditions_are_read_as_they_are_typed(heads_contract: Made) -> None:
    specs = heads_contract().conditions
    assert parse_conditions(["age=75", "sex = F"], specs, "--set", False) == {"age": 75.0, "sex": "F"}
    assert parse_conditions(["age=99"], specs, "--set", True) == {"age": 99.0}
    for wrong in (["age"], ["age="], ["=3"], ["age=1", "age=2"], ["age=old"]):
        with pytest.raises(ConfigurationError, match="--set"):
            parse_conditions(wrong, specs, "--set", False)
