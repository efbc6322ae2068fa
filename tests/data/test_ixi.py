"""Real heads: the grid, the orientation and the time they take."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddiff_core.data.contract_inference import infer_contract, training_part
from meddiff_core.data.dataset import Dataset, build_dataset
from meddiff_core.data.fingerprint import Fingerprint, take_fingerprint
from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.split.sides import assign_sides, stratifying_covariates
from meddiff_core.study import DataConfig, Study
from meddiff_core.types import serial_map

Made = Callable[..., Any]
CEREBELLUM, VENTRICLES = 1, 2


@pytest.fixture(scope="module")
def study() -> Study:
    groups = {"cerebellum": [38, 39, 40, 41, 71, 72, 73], "ventricles": [4, 11, 49, 50, 51, 52]}
    paths = {"images": "t1", "labels": "labels", "participants": "participants.tsv"}
    return Study(name="ixi", data=DataConfig(**paths, mask="label", label_groups=groups))


@pytest.fixture(scope="module")
def inventory(real_data: Path, study: Study) -> Inventory:
    return discover(study.data, real_data / "ixi")


@pytest.fixture
def some(inventory: Inventory) -> Inventory:
    """Every sixth head."""
    return Inventory(inventory.cases[::6], (), (), inventory.kinds)


def test_all_heads_find_labels_and_four_have_no_row(inventory: Inventory) -> None:
    assert len(inventory.cases) == 145
    assert inventory.refused == ()
    assert sum("no row" in note.reason for note in inventory.notes) == 4
    assert sum(case.covariates["age"] is None for case in inventory.cases) == 4


def test_heads_fit_a_small_grid_upright_and_quickly(
    some: Inventory, study: Study, finish: Made, tmp_path: Path
) -> None:
    start = time.process_time()
    found: Fingerprint = finish(take_fingerprint(some, study.data, serial_map))
    split = assign_sides(None, stratifying_covariates(found), study.split, study.seed)
    contract, _ = infer_contract(training_part(found, split), study, "cpu")
    refused = finish(build_dataset(tmp_path, some.cases, found, contract, study.data, split, serial_map))
    seconds = time.process_time() - start
    assert (contract.spacing_mm, contract.size, contract.intensity.storage) == ((3.9,) * 3, (40, 56, 40), "uint8")
    at_four = study.model_copy(update={"plan": study.plan.model_copy(update={"spacing_mm": (4.0,) * 3})})
    assert infer_contract(found, at_four, "cpu")[0].size == (40, 48, 40)
    assert {case.orientation for case in found.cases} == {"PSR"}
    assert refused == []
    volumes = Dataset.open(tmp_path).volumes(None)
    for index in range(len(volumes)):
        label = volumes.label(index)
        assert label is not None
        brain, cerebellum, ventricles = (np.argwhere(mask).mean(0) for mask in _masks(volumes.image(index), label))
        assert cerebellum[1] < brain[1] - 3  # behind
        assert cerebellum[2] < brain[2] - 5  # below
        assert abs(ventricles[0] - 19.5) < 3  # in the middle, from left to right
    assert seconds < len(some.cases) * 0.4


def _masks(image: Any, label: Any) -> tuple[Any, Any, Any]:
    return image > 0, label == CEREBELLUM, label == VENTRICLES
