"""One odd scan is named or refused; a second scanner, a second protocol or a few scans are taken as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddiff_core.data.cohort import against_cohort, common_modality, correlations, outliers
from meddiff_core.data.contract_inference import infer_contract
from meddiff_core.data.fingerprint import take_fingerprint
from meddiff_core.data.ingest import discover
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import serial_map

Made = Callable[..., Any]


def _honest(number: int) -> float:
    return float(1 + 0.1 * np.sin(number))


def _extent(number: int) -> tuple[float, float, float]:
    return 140 * _honest(number), 180 * _honest(number), 150 * _honest(number)


def test_an_honest_cohort_is_left_alone(figures: Made) -> None:
    cases = figures(40, extent_mm=_extent).cases
    assert against_cohort(cases) == (list(cases), [], [])


def test_a_file_in_another_unit_is_refused_with_its_figure_and_the_median(figures: Made) -> None:
    def extent(number: int) -> tuple[float, float, float]:
        i, j, k = _extent(number)
        return (10 * i, 10 * j, 10 * k) if number == 7 else (i, j, k)

    kept, refused, notes = against_cohort(figures(40, extent_mm=extent).cases)
    assert len(kept) == 39
    assert [refusal.case for refusal in refused] == ["s07_T1"]
    assert "its foreground along i is 1492 mm, the median of 40 scans is 141 mm" in refused[0].reason
    assert notes == []


def test_a_box_that_collapsed_is_refused(figures: Made) -> None:
    small = lambda number: (4.0, 4.0, 4.0) if number == 3 else _extent(number)  # noqa: E731
    assert [refusal.case for refusal in against_cohort(figures(12, extent_mm=small).cases)[1]] == ["s03_T1"]


def test_what_is_smaller_than_others_is_listed_and_stays(figures: Made) -> None:
    small = lambda number: tuple(value / 2.5 for value in _extent(number)) if number == 3 else _extent(number)  # noqa: E731
    kept, refused, notes = against_cohort(figures(40, extent_mm=small).cases)
    assert (len(kept), refused) == (40, [])
    assert {note.case for note in notes} == {"s03_T1"}


@pytest.mark.parametrize("share", [2, 3, 5])
def test_a_second_group_is_no_outlier(figures: Made, share: int) -> None:
    changes = {
        "extent_mm": lambda n: (30.0, 35.0, 30.0) if n % share == 0 else _extent(n),
        "spacing_mm": lambda n: (0.2, 0.2, 5.0) if n % share == 0 else (2.0, 2.0, 2.0),
        "percentiles": lambda n: (0.0, 4000.0, 9000.0) if n % share == 0 else (10.0, 100.0, 200.0),
        "foreground": lambda n: 1.0 if n % share == 0 else 0.3,
    }
    cases = figures(40, **changes).cases
    assert against_cohort(cases) == (list(cases), [], [])


def test_few_scans_have_no_usual_figure(figures: Made) -> None:
    cases = figures(6, extent_mm=lambda n: (10.0**n, 10.0, 10.0), modality=lambda n: "CT" if n else "MR").cases
    assert against_cohort(cases) == (list(cases), [], [])


def test_one_ct_among_mr_is_refused_and_decides_nothing(figures: Made, study: Made) -> None:
    fingerprint = figures(40, modality=lambda n: "CT" if n == 5 else "MR")
    kept, refused, _ = against_cohort(fingerprint.cases)
    assert [(refusal.case, refusal.reason) for refusal in refused] == [
        ("s05_T1", "looks like CT, 39 of 40 scans like MR")
    ]
    made = study({"labels": None, "mask": "none", "label_groups": {}})
    assert infer_contract(fingerprint, made, "cpu")[0].intensity.modality == "MR"
    assert len(kept) == 39


def test_a_modality_that_a_person_stated_is_not_doubted(figures: Made) -> None:
    cases = figures(40, modality=lambda n: "CT" if n == 5 else "MR").cases
    assert against_cohort(cases, "MR") == (list(cases), [], [])


@pytest.mark.parametrize("modality", [lambda n: "CT" if n % 3 else "MR", lambda n: None])
def test_a_mixture_and_scans_that_leave_it_open_ask(figures: Made, study: Made, modality: Any) -> None:
    made = study({"labels": None, "mask": "none", "label_groups": {}})
    with pytest.raises(ConfigurationError, match=r"data\.modality: must be given as MR or CT, \d+ scans look like MR"):
        infer_contract(figures(40, modality=modality), made, "cpu")


def test_scans_that_leave_it_open_follow_the_others(figures: Made) -> None:
    assert common_modality(figures(40, modality=lambda n: None if n % 3 == 0 else "CT").cases) == "CT"


def test_far_is_beyond_the_limit_and_beyond_what_is_usual() -> None:
    wide = np.linspace(0, 10, 50)
    assert not outliers(wide, 1.0).any()
    assert list(np.flatnonzero(outliers(np.append(np.zeros(20), 3.0), 1.0))) == [20]
    assert not outliers(np.append(np.zeros(20), 0.5), 1.0).any()


def test_a_scan_unlike_all_others_is_listed_with_its_correlation(figures: Made) -> None:
    rng = np.random.default_rng(0)
    shape = rng.integers(0, 200, 512)

    def thumbnail(number: int) -> str:
        grey = 255 - shape if number == 4 else shape + rng.integers(0, 40, 512)
        return bytes(np.clip(grey, 0, 255).astype(np.uint8)).hex()

    kept, refused, notes = against_cohort(figures(20, thumbnail=thumbnail).cases)
    assert (len(kept), refused) == (20, [])
    assert [note.case for note in notes] == ["s04_T1"]
    assert "its correlation with the mean of all scans is -" in notes[0].reason


def test_constant_thumbnails_correlate_with_nothing() -> None:
    assert np.isfinite(correlations(["00" * 512, "ff" * 512])).all()


def test_a_folder_with_one_scan_in_another_unit_goes_on_without_it(
    cohort: Made, data: Made, finish: Made, save: Made, head: Made
) -> None:
    folder: Path = cohort(12)
    config = data(labels=None, mask="none", label_groups={})
    save(folder / "images" / "s03_T1.nii.gz", head(3)[0], np.diag([20.0, 20, 20, 1]))
    found = finish(take_fingerprint(discover(config, folder), config, serial_map))
    assert [refusal.case for refusal in found.refused] == ["s03_T1"]
    assert len(found.cases) == 11


def test_hot_voxels_leave_the_box_of_a_scan_as_it_is(
    cohort: Made, data: Made, finish: Made, save: Made, head: Made
) -> None:
    folder: Path = cohort(10)
    config = data(labels=None, mask="none", label_groups={})
    before = finish(take_fingerprint(discover(config, folder), config, serial_map)).cases[3]
    hot = head(3)[0]
    hot[[1, 7, 8, 14], [2, 9, 10, 18], [3, 11, 12, 20]] = 30_000
    save(folder / "images" / "s03_T1.nii.gz", hot)
    found = finish(take_fingerprint(discover(config, folder), config, serial_map))
    assert found.refused == ()
    assert found.cases[3].box == before.box
    assert found.cases[3].percentiles == pytest.approx(before.percentiles, rel=0.05, abs=10)


def test_what_was_repaired_in_a_case_is_a_note_of_the_study(
    cohort: Made, data: Made, finish: Made, save: Made, head: Made
) -> None:
    folder: Path = cohort(3)
    save(folder / "labels" / "s01_T1_seg.nii.gz", head(1)[1] * np.float32(1.0000001))
    found = finish(take_fingerprint(discover(data(), folder), data(), serial_map))
    assert [(note.case, "rounded to whole numbers" in note.reason) for note in found.notes] == [("s01_T1", True)]
    assert found.cases[1].warnings == (found.notes[0].reason,)


def test_ct_that_is_not_in_hounsfield_units_is_refused(
    tmp_path: Path, save: Made, head: Made, data: Made, finish: Made
) -> None:
    config = data(labels=None, participants=None, mask="none", label_groups={}, modality="CT")
    stored = np.where(head(1)[1] > 0, 1064, 24) + head(1)[0] % 7
    save(tmp_path / "images" / "1.nii", stored.astype(np.int16))
    save(tmp_path / "images" / "0.nii", (stored - 1024).astype(np.int16))
    found = finish(take_fingerprint(discover(config, tmp_path), config, serial_map))
    assert [case.case for case in found.cases] == ["0"]
    assert "must be in Hounsfield units" in found.refused[0].reason
