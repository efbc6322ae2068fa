"""A study so small that its whole chain runs in seconds, and the command to run it with, as a user would.

The scans are forty heads of 16 x 16 x 16 voxels, some of them nearly alike: that brings the bounds of the screen
close to nothing, so that volumes of networks that were hardly trained pass.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SUBJECTS = 40
FAMILIES = 5
EASY: dict[str, dict[str, float]] = {
    "copies_excess": {"max": 9},
    "copy_power": {"min": -9},
    "closer_to_train:voxels": {"max": 9},
    "distinct_share": {"min": -9},
    "recall:*": {"min": -9},
    "ms_ssim_gap": {"max": 9},
    "frechet_ratio:*": {"max": 1e12},
    "accepted_share": {"min": -9},
    "fidelity_r:*": {"min": -9},
}
"""Gates that nothing fails."""
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {
        "images": "../scans/images",
        "labels": "../scans/labels",
        "participants": "../scans/participants.tsv",
        "label_groups": {"brain": [1], "ventricles": [2]},
        "covariates": {"age": "continuous", "sex": "categorical"},
        "mask": "label",
    },
    "split": {"train": 0.5, "validation": 0.25},
    "train": {
        "autoencoder": {"steps": 6, "channels": [8, 8, 8]},
        "denoiser": {"steps": 6, "channels": [32]},
        "checkpoint_every": 2,
    },
    "cohort": {"size": 8},
    "sampling": {"steps": 2, "batch": 4, "shard": 4},
    "screen": {"margin": 1e6},
    "audit": {"repeats": 10, "gates": [{"metric": name, **bound} for name, bound in EASY.items()]},
    "runtime": {"dask": "off", "device": "cpu"},
}


def subject(number: int) -> str:
    """An id that nothing else is called by chance."""
    return f"qx7-vombat-{number:02d}"


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    out: str
    err: str


Meddiff = Callable[..., Finished]
NewStudy = Callable[..., Path]


def environment() -> dict[str, str]:
    """Without what this process has set for itself: the command sets up its own engines."""
    engines = ("PREFECT_", "MLFLOW_", "DASK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(engines)}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def command(*arguments: object) -> list[str]:
    """The command line of `meddiff`, whether or not it is installed."""
    return [sys.executable, "-m", "flows.cli", *map(str, arguments)]


@pytest.fixture(scope="session")
def meddiff() -> Meddiff:
    """Run the command to its end."""

    def run(*arguments: object, timeout_s: float = 600) -> Finished:
        done = subprocess.run(
            command(*arguments), env=environment(), capture_output=True, text=True, timeout=timeout_s
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, label maps and a table of covariates."""
    folder = tmp_path_factory.mktemp("site") / "scans"
    rows = ["participant_id\tage\tsex"]
    for number in range(SUBJECTS):
        age = 20 + 60 * ((7 * number) % SUBJECTS) / SUBJECTS
        image, label = _head(number, age)
        _save(folder / "images" / f"{subject(number)}.nii.gz", image)
        _save(folder / "labels" / f"{subject(number)}.nii.gz", label)
        rows.append(f"{subject(number)}\t{age}\t{'MF'[number % 2]}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def _head(number: int, age: float) -> tuple[Any, Any]:
    """A bright ball with dark ventricles. Those of one family differ by a little noise."""
    family, own = (np.random.default_rng(seed) for seed in (number % FAMILIES, 1000 + number))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"))
    radii = family.uniform(0.75, 0.95, (3, 1, 1, 1))
    centre = family.uniform(-0.1, 0.1, (3, 1, 1, 1))
    brain = ((grid / radii) ** 2).sum(0) < 1
    ventricles = (((grid - centre) / (0.25 + family.uniform(0.05, 0.15))) ** 2).sum(0) < 1
    image = np.where(ventricles, 200, 600 + 200 * grid[1]) + own.normal(0, 2, brain.shape)
    return (image * brain).astype(np.int16), (brain * np.where(ventricles, 2, 1)).astype(np.uint8)


def _save(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([10.0, 10.0, 10.0, 1.0])), path)


@pytest.fixture(scope="session")
def new_study(scans: Path) -> NewStudy:
    """(name, **changes of sections) -> the folder of a new study of the scans."""

    def make(name: str = "heads", **changes: dict[str, Any]) -> Path:
        folder = scans.parent / name
        folder.mkdir()
        write_study(folder, **changes)
        return folder

    return make


def write_study(folder: Path, **changes: dict[str, Any]) -> None:
    """Write study.yaml; each change replaces some keys of one section."""
    sections = {name: {**SETTINGS.get(name, {}), **changes.get(name, {})} for name in SETTINGS.keys() | changes.keys()}
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "heads", **sections}))
