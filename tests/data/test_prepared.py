"""The picture of scans before and after: which are shown, and that any scan can be plotted."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meddiff_core.data.fingerprint import Fingerprint, take_fingerprint
from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.prepared import MOST_LOOKED_AT, Look, choose_cases, look_at_conforming
from meddiff_core.errors import DataRefused
from meddiff_core.types import CaseRef, serial_map

Made = Callable[..., Any]
Scans = tuple[Path, Inventory, Fingerprint]


@pytest.fixture
def scans(cohort: Made, data: Made, finish: Made) -> Callable[..., Scans]:
    """(count) -> folder, inventory, fingerprint."""

    def _scans(count: int = 2) -> Scans:
        folder = cohort(count)
        inventory = discover(data(), folder)
        return folder, inventory, finish(take_fingerprint(inventory, data(), serial_map))

    return _scans


def _colours(picture: bytes) -> set[Any]:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return {tuple(colour) for colour in np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist()}


def test_it_shows_scans_outlines_and_the_frame_of_the_grid(
    scans: Callable[..., Scans], data: Made, contract: Made, finish: Made
) -> None:
    _, inventory, found = scans(2)
    look: Look = finish(look_at_conforming(inventory.cases, found, contract(), data(), serial_map))
    colours = _colours(look.picture)
    assert len(look.losses) == 2
    assert any(red > 200 and 120 < green < 220 and blue < 120 for red, green, blue in colours)  # outlines
    assert any(red < 110 and green > 150 and blue > 160 for red, green, blue in colours)  # the frame
    assert sum(red == green == blue for red, green, blue in colours) > 100  # the scans


def test_the_same_scans_give_the_same_bytes_and_others_do_not(
    scans: Callable[..., Scans], data: Made, contract: Made, finish: Made
) -> None:
    _, inventory, found = scans(2)
    cases = inventory.cases
    looks = [
        finish(look_at_conforming(some, found, contract(), data(), serial_map)).picture
        for some in (cases, cases[::-1], cases[:1])
    ]
    assert looks[0] == looks[1]
    assert looks[0] != looks[2]


def test_only_the_given_cases_are_looked_at(
    scans: Callable[..., Scans], data: Made, contract: Made, finish: Made
) -> None:
    _, inventory, found = scans(3)
    look = finish(look_at_conforming(inventory.cases[1:], found, contract(), data(), serial_map))
    assert {loss.case for loss in look.losses} == {"s01_T1", "s02_T1"}


def test_a_scan_that_is_gone_stops_nothing_until_all_are(
    scans: Callable[..., Scans], data: Made, contract: Made, finish: Made
) -> None:
    folder, inventory, found = scans(2)
    (folder / "images" / "s00_T1.nii.gz").unlink()
    assert len(finish(look_at_conforming(inventory.cases, found, contract(), data(), serial_map)).losses) == 1
    (folder / "images" / "s01_T1.nii.gz").unlink()
    with pytest.raises(DataRefused, match="none of 2 scans"):
        finish(look_at_conforming(inventory.cases, found, contract(), data(), serial_map))


def test_thick_slices_and_scans_without_labels_are_drawn(
    tmp_path: Path, save: Made, head: Made, data: Made, contract: Made, finish: Made
) -> None:
    save(tmp_path / "images" / "$a_b^.nii", head(0)[0], np.diag([1.0, 1, 6, 1]))  # a name is no formula
    config = data(labels=None, participants=None, mask="none", label_groups={})
    inventory = discover(config, tmp_path)
    found = finish(take_fingerprint(inventory, config, serial_map))
    plain = contract(labels={}, mask="none")
    look = finish(look_at_conforming(inventory.cases, found, plain, config, serial_map))
    assert look.picture.startswith(b"\x89PNG")


def test_the_largest_and_the_smallest_are_always_among_the_chosen(figures: Made) -> None:
    found = figures(100, extent_mm=lambda n: (100.0 + n, 100.0, 100.0))
    cases = [CaseRef(case.case, case.subject, Path(case.case)) for case in found.cases]
    chosen = [case.case for case, _ in choose_cases(cases, found, 0)]
    assert len(chosen) == len(set(chosen)) == MOST_LOOKED_AT
    assert {"s00_T1", "s01_T1", "s98_T1", "s99_T1"} <= set(chosen)
    assert chosen == [case.case for case, _ in choose_cases(cases[::-1], found, 0)]
    assert chosen != [case.case for case, _ in choose_cases(cases, found, 1)]
