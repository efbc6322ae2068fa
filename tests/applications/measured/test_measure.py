"""What is measured is what was named, and scans are chosen by subject, evenly, without looking at them."""

from typing import Any

import numpy as np
import pytest

from meddiff_core.applications.kinds import KINDS
from meddiff_core.applications.measured.bench import body_of, subjects_of
from meddiff_core.applications.measured.measure import ALL, NAMES, chosen
from meddiff_core.contract import Contract
from meddiff_core.data.dataset import Dataset
from meddiff_core.errors import ConfigurationError

NOT_MEASURED = {"edit"}
"""What an edit should come to nobody has written down."""


def test_every_task_is_measured_under_the_name_of_its_command() -> None:
    assert set(NAMES) | NOT_MEASURED == set(KINDS)
    assert all(one.task in one.roles and one.baselines for one in ALL)


def test_tasks_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert [one.task for one in chosen(["denoise", "segment"])] == ["segment", "denoise"]
    assert len(chosen([])) == len(ALL)
    with pytest.raises(ConfigurationError, match=r"must name some of segment, .*, names 'inpant'"):
        chosen(["inpant"])


class TwoScansEach(Dataset):
    """A side of five subjects with two scans each."""

    def __init__(self, contract: Contract) -> None:
        object.__setattr__(self, "contract", contract)

    def __len__(self) -> int:
        return 10

    def volumes(self, side: str) -> "TwoScansEach":
        return self

    def conditions(self, side: str) -> list[dict[str, Any]]:
        return [{"age": float(row), "sex": None} for row in range(10)]

    def subjects(self, side: str) -> list[str]:
        return [f"s{row // 2}" for row in range(10)]

    def image(self, row: int) -> np.ndarray[Any, Any]:
        return np.full((4, 4, 4), 10 * row + 10, np.uint8)

    def label(self, row: int) -> None:
        return None


@pytest.mark.parametrize(("most", "rows"), [(2, [0, 8]), (3, [0, 4, 8]), (99, [0, 2, 4, 6, 8])])
def test_one_scan_of_each_of_some_subjects_is_measured(contract: Contract, most: int, rows: list[int]) -> None:
    found = subjects_of(TwoScansEach(contract), "holdout", most)
    assert [one.row for one in found] == rows
    assert [one.number for one in found] == list(range(len(rows)))
    assert found[1].condition == {"age": float(rows[1])}
    assert len({one.scan.digest for one in found}) == len(rows)


def test_a_body_has_no_holes_and_no_crumbs() -> None:
    image = np.zeros((12, 12, 12), np.float32)
    image[2:10, 2:10, 2:10] = 0.5
    image[5:7, 5:7, 5:7] = 0
    image[0, 0, 0] = 1
    body = body_of(image)
    assert body.sum() == 8**3
    assert not body_of(np.zeros((4, 4, 4), np.float32)).any()
