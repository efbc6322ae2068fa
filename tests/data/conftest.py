"""Small cohorts on disk, and the contracts and figures that tests start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.data.fingerprint import CaseFingerprint, Fingerprint
from meddiff_core.study import DataConfig, Study

SHAPE = (16, 20, 24)
GROUPS = {"left": [1], "right": [2]}


def _head(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An ellipsoid with a bright front and two labelled halves; no axis of it is symmetric."""
    noise = np.random.default_rng(seed).integers(0, 20, shape)
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    inside = grid[0] ** 2 + grid[1] ** 2 + (grid[2] + 0.1) ** 2 < 0.6
    image = inside * (300 + 100 * grid[1] + 50 * grid[2] + 25 * grid[0] + noise) + noise // 10
    label = inside * np.where(grid[0] < 0, 1, 2)
    return image.astype(np.int16), label.astype(np.uint8)


@pytest.fixture(scope="session")
def head() -> Callable[..., tuple[NDArray[np.int16], NDArray[np.uint8]]]:
    """(seed, shape) -> image, label."""
    return _head


@pytest.fixture
def save() -> Callable[..., Path]:
    """(path, array, affine) -> path, as NIfTI."""

    def _save(path: Path, array: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
        nib.save(nib.Nifti1Image(array, chosen), path)
        return path

    return _save


@pytest.fixture
def cohort(tmp_path: Path, save: Callable[..., Path]) -> Callable[..., Path]:
    """(count) -> a folder with images/, labels/ and participants.tsv."""

    def _cohort(count: int = 3, folder: Path = tmp_path) -> Path:
        rows = ["participant_id\tage\tsex"]
        for number in range(count):
            image, label = _head(number)
            save(folder / "images" / f"s{number:02d}_T1.nii.gz", image)
            save(folder / "labels" / f"s{number:02d}_T1_seg.nii.gz", label)
            rows.append(f"s{number:02d}\t{30 + number}\t{'MF'[number % 2]}")
        (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
        return folder

    return _cohort


@pytest.fixture(scope="session")
def data() -> Callable[..., DataConfig]:
    """Settings for a folder made by `cohort`, with changes."""

    def _data(**changes: Any) -> DataConfig:
        usual: dict[str, Any] = {"images": "images", "labels": "labels", "participants": "participants.tsv"}
        return DataConfig(**(usual | {"label_groups": GROUPS, "mask": "label"} | changes))

    return _data


@pytest.fixture
def study(data: Callable[..., DataConfig]) -> Callable[..., Study]:
    """A study on such a folder; every subject trains unless the split says otherwise."""

    def _study(data_changes: dict[str, Any] | None = None, **changes: Any) -> Study:
        return Study(**({"name": "test", "data": data(**(data_changes or {}))} | changes))

    return _study


@pytest.fixture(scope="session")
def contract() -> Callable[..., Contract]:
    """A small contract for the heads of this folder, with changes."""

    def _contract(**changes: Any) -> Contract:
        intensity = IntensityMapping(modality="MR", low=0, high=400, percentiles=(0.5, 99.5), storage="uint16")
        usual: dict[str, Any] = {"spacing_mm": 4.0, "size": (8, 8, 16), "intensity": intensity, "mask": "label"}
        labels = {name: tuple(values) for name, values in GROUPS.items()}
        return Contract(**(usual | {"labels": labels, "conditions": ()} | changes))

    return _contract


@pytest.fixture
def figures() -> Callable[..., Fingerprint]:
    """(count, kinds, **changes of every case) -> a fingerprint without scans behind it."""

    def _figures(count: int = 40, kinds: dict[str, str] | None = None, **changes: Any) -> Fingerprint:
        cases = tuple(_figures_of(number, changes) for number in range(count))
        return Fingerprint(cases=cases, refused=(), notes=(), kinds=kinds or {})

    return _figures


def _figures_of(number: int, changes: dict[str, Any]) -> CaseFingerprint:
    usual: dict[str, Any] = {
        "case": f"s{number:02d}_T1",
        "subject": f"s{number:02d}",
        "image_sha256": f"{number:064d}",
        "label_sha256": None,
        "voxels_sha256": f"{number:064d}",
        "shape": (120, 120, 90),
        "spacing_mm": (2.0, 2.0, 2.0),
        "orientation": "RAS",
        "modality": "MR",
        "bits": 16,
        "integer": True,
        "box": ((10, 80), (10, 102), (5, 80)),
        "centre_mm": (0.0, 0.0, 0.0),
        "extent_mm": (140.0, 184.0, 150.0),
        "percentiles": (10.0, 100.0, 200.0),
        "mean": 100.0,
        "std": 30.0,
        "label_values": {},
        "group_volumes_mm3": {},
        "unlisted_labels": {},
        "covariates": {},
        "warnings": (),
    }
    own = {name: value(number) if callable(value) else value for name, value in changes.items()}
    return CaseFingerprint(**(usual | own))
