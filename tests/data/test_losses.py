"""What conforming takes from a scan is counted, said in sentences, and listed by case."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddiff_core.contract import IntensityMapping
from meddiff_core.data.conform import Loaded, conform_scan
from meddiff_core.data.fingerprint import CaseFingerprint, fingerprint_case, take_fingerprint
from meddiff_core.data.ingest import discover, load_image, load_label
from meddiff_core.data.losses import Loss, loss_of, measure_losses, summarise_losses, worst_first, write_losses
from meddiff_core.types import CaseRef, serial_map

Made = Callable[..., Any]
WHOLE = {"spacing_mm": 2.0, "size": (16, 24, 24), "mask": "none", "labels": {}}


@pytest.fixture
def loss(tmp_path: Path, save: Made, head: Made, data: Made, contract: Made) -> Callable[..., Loss]:
    """(contract changes, image, settings) -> what a head loses."""

    def _loss(changes: dict[str, Any] | None = None, image: Any = None, **config: Any) -> Loss:
        settings = data(**({"mask": "none"} | config))
        array, label = head(5)
        case = CaseRef(
            "a", "a", save(tmp_path / "a.nii", array if image is None else image), save(tmp_path / "b.nii", label)
        )
        found = fingerprint_case(case, settings)
        assert isinstance(found, CaseFingerprint)
        volume = load_image(case)
        values = load_label(case, volume)
        scan = Loaded(volume, values, values == 1 if settings.mask == "label" else None)
        made = contract(**(WHOLE | (changes or {})))
        return loss_of(scan, conform_scan(scan, found, made), found, made)

    return _loss


def test_on_its_own_grid_a_scan_loses_the_ends_of_its_intensities_alone(loss: Made) -> None:
    found = loss()
    assert (found.outside_mask, found.outside_grid) == (0, 0)
    assert found.below <= 0.006
    assert found.above <= 0.006
    assert found.difference < 0.005


def test_a_grid_that_is_too_small_loses_what_lies_outside(loss: Made) -> None:
    assert 0.2 < loss({"size": (16, 24, 8)}).outside_grid < 0.9
    assert loss({"size": (16, 24, 8)}).difference > 0.1


def test_a_coarser_grid_blurs(loss: Made) -> None:
    fine, coarse = loss(), loss({"spacing_mm": 6.0, "size": (8, 8, 8)})
    assert fine.difference < coarse.difference
    assert coarse.outside_grid == 0


def test_a_mask_that_keeps_one_half_loses_the_other(loss: Made) -> None:
    found = loss({"mask": "label"}, mask="label")
    assert 0.35 < found.outside_mask < 0.65


def test_a_window_that_is_too_narrow_clips_at_either_end(loss: Made, head: Made) -> None:
    ct = np.where(head(5)[1] > 0, head(5)[0] - 300, -1000).astype(np.int16)
    window = IntensityMapping(modality="CT", low=0, high=50, storage="uint16")
    found = loss({"intensity": window}, ct, modality="CT", window_hu=(0.0, 50.0))
    assert found.below > 0.1
    assert found.above > 0.1


def test_a_hot_voxel_is_no_loss(loss: Made, head: Made) -> None:
    hot = head(5)[0]
    hot[8, 10, 12] = 30_000
    assert loss(image=hot).difference < 0.01


def _loss(name: str, **shares: float) -> Loss:
    usual = dict.fromkeys(("outside_mask", "outside_grid", "below", "above", "difference"), 0.005)
    return Loss(name, **(usual | shares))


def test_little_is_not_worth_a_sentence_and_more_is_said_without_names() -> None:
    assert summarise_losses([_loss("a"), _loss("b")]) == []
    assert summarise_losses([]) == []
    (text,) = summarise_losses([_loss("secret", outside_mask=0.95), _loss("b"), _loss("c", outside_mask=0.9)])
    assert "data.mask" in text
    assert "more than 3% in 2 of 3 scans looked at (90% in the median, 95% at most)" in text
    assert "secret" not in text


def test_the_worst_is_the_one_that_loses_more_than_others() -> None:
    losses = [_loss("a", outside_mask=0.71), _loss("b", outside_mask=0.7), _loss("c", outside_mask=0.68, below=0.2)]
    assert [loss.case for loss in worst_first(losses)] == ["c", "a", "b"]
    assert worst_first([]) == []


def test_every_case_is_measured_and_one_that_changed_stops_nothing(
    cohort: Made, data: Made, contract: Made, finish: Made, head: Made, save: Made
) -> None:
    folder, config = cohort(4), data(mask="none")
    inventory = discover(config, folder)
    found = finish(take_fingerprint(inventory, config, serial_map))
    small = contract(**(WHOLE | {"size": (16, 24, 16), "labels": {"left": (1,), "right": (2,)}}))
    save(folder / "images" / "s02_T1.nii.gz", head(9)[0])  # changed since: it is left out and stops nothing
    losses = finish(measure_losses(inventory.cases, found, small, config, serial_map))
    assert {loss.case for loss in losses} == {"s00_T1", "s01_T1", "s03_T1"}


def test_the_table_of_losses_runs_no_formula(tmp_path: Path) -> None:
    write_losses(tmp_path / "losses.csv", [_loss("=1+1", below=0.25), _loss("b")])
    lines = list(csv.DictReader((tmp_path / "losses.csv").read_text().splitlines()))
    assert lines[0]["case"] == "'=1+1"
    assert float(lines[0]["below"]) == 0.25
    assert list(lines[0]) == ["case", "outside_mask", "outside_grid", "below", "above", "difference"]
