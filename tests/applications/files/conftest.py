"""Small heads as files in any orientation, and a study whose models were never trained."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from meddiff_core.applications import registry
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.contract import Contract
from meddiff_core.errors import CaseRefused
from meddiff_core.stages.apply import apply_task
from meddiff_core.types import Progress

SHAPE = (26, 30, 28)
PLACE_MM = (-21.0, 13.0, 40.0)


@dataclass(frozen=True)
class Head:
    """A scan and its label map, as files."""

    image: Path
    label: Path


def head(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An ellipsoid in air, bright in front, with two labelled halves; no axis of it is symmetric."""
    noise = np.random.default_rng(seed).integers(0, 40, shape)
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    inside = grid[0] ** 2 + grid[1] ** 2 + (grid[2] + 0.1) ** 2 < 0.7
    image = inside * (300 + 100 * grid[1] + 50 * grid[2] + 25 * grid[0] + noise) + noise // 8
    return image.astype(np.int16), (inside * np.where(grid[0] < 0, 1, 2)).astype(np.uint8)


def tilted(degrees: float) -> NDArray[np.float64]:
    """A turn around an axis that is none of the scanner's."""
    axis, angle = np.array([1.0, 2.0, 2.0]) / 3, np.deg2rad(degrees)
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) * np.cos(angle) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)


@pytest.fixture(scope="session")
def save_head() -> Callable[..., Head]:
    """(folder, name, orientation, spacing, degrees, seed) -> the files of a head."""

    def save(
        folder: Path,
        name: str = "a",
        orientation: str = "RAS",
        spacing: tuple[float, float, float] = (2.0, 2.0, 2.0),
        degrees: float = 0.0,
        seed: int = 0,
        codes: tuple[int, int] = (1, 2),
    ) -> Head:
        affine = np.eye(4)
        affine[:3, :3] = tilted(degrees) * spacing
        affine[:3, 3] = PLACE_MM
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(tuple(orientation)))
        paths = Head(folder / f"{name}.nii.gz", folder / "maps" / f"{name}.nii.gz")
        for path, array in zip((paths.image, paths.label), head(seed), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(
                np.ascontiguousarray(apply_orientation(array, turn)), affine @ inv_ornt_aff(turn, array.shape)
            )
            image.set_qform(image.affine, code=codes[0])
            image.set_sform(image.affine, code=codes[1])
            nib.save(image, path)
        return paths

    return save


@pytest.fixture(scope="session")
def heads_contract(make_contract: Callable[..., Contract]) -> Callable[..., Contract]:
    """A contract for such heads, with changes."""

    def make(**changes: Any) -> Contract:
        return make_contract(**({"spacing_mm": 4.0, "size": (16, 16, 16), "mask": "label"} | changes))

    return make


@pytest.fixture(scope="session")
def study(
    tmp_path_factory: pytest.TempPathFactory, save_models: Callable[..., Path], heads_contract: Callable[..., Contract]
) -> Path:
    """A study with models and nothing else; tests do not write there."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text("name: heads\ndata: {images: scans}\nruntime: {dask: 'off', device: cpu}\n")
    save_models(folder / "models", heads_contract())
    return folder


def brighten(models: Any, scan: Any, settings: Any, calibration: Any) -> Iterator[Progress]:
    """Stands for any task: a cube of the scan becomes brighter, by the seed."""
    yield Progress("brighten", 1, 1)
    image = scan.image.copy()
    image[6:9, 6:9, 6:9] += np.float32(0.2 + 0.01 * settings.seed)
    labels = np.zeros_like(scan.image, np.uint8) if scan.labels is None else scan.labels
    maps = {
        "image": GridMap("intensity", image, "brighter"),
        "difference": GridMap("difference", image - scan.image, "by how much"),
        "labels": GridMap("labels", labels, "as they were"),
    }
    return Outcome(maps, {"mean": float(image.mean())}, ("brightened",))  # type: ignore[return-value]


def know_all(case: str, models: Any, scan: Any, calibration: Any, kind: Any, force: bool) -> Iterator[Progress]:
    """Stands for the guard, which needs scans of validation subjects."""
    yield Progress("familiar", 1, 1)
    if case.startswith("knee") and not force:
        raise CaseRefused(case, "unlike any scan")
    return ("unlike any scan",) if force else ()  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every task is `brighten` where a test asks for it, and the models know every scan that is not forced."""
    if "apply" in request.fixturenames:
        monkeypatch.setattr("meddiff_core.stages.apply.check_familiar", know_all)
        for name in ("denoise", "inpaint", "edit", "segment", "super-resolve"):
            monkeypatch.setitem(registry.TASKS, name, brighten)


@pytest.fixture
def apply(study: Path, finish: Callable[..., Any]) -> Callable[..., Any]:
    """(task, scans, output, **options) -> what was applied, with a task that only brightens."""

    def run(task: str, scans: Any, output: Path, **options: Any) -> Any:
        places = scans if isinstance(scans, list) else [scans]
        return finish(apply_task(study, task, places, output, options))

    return run
