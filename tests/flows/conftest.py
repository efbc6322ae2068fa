"""A study so small that its whole chain runs in seconds, and the command to run it with, as a user would.

The scans are forty heads of 16 x 16 x 16 voxels, some of them nearly alike: that brings the bounds of the screen
close to nothing, so that volumes of networks that were hardly trained pass.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from filelock import FileLock
from numpy.typing import NDArray

from meddiff_core.evidence.gates import PRESETS

ROOT = Path(__file__).parents[2]
SUBJECTS = 40
FAMILIES = 5
EASY = [
    {"metric": gate.metric, **({"min": -9.0} if gate.max is None else {"max": 1e12})}
    for gate in PRESETS["research"]
    if gate.metric != "fidelity_r:*"
]
"""Gates that nothing fails which is measured of every cohort of these heads."""
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {
        "images": "../Zyxwquill ward/images",
        "labels": "../Zyxwquill ward/labels",
        "participants": "../Zyxwquill ward/participants.tsv",
        "label_groups": {"brain": [1], "ventricles": [2]},
        "covariates": {"age": "continuous", "sex": "categorical"},
        "mask": "label",
    },
    "split": {"train": 0.5, "validation": 0.25},
    "train": {
        "autoencoder": {"steps": 6, "batch": 3, "channels": [8, 8, 8]},
        "denoiser": {"steps": 6, "batch": 3, "channels": [32], "augmentations": ["mirror", "shift"]},
        "checkpoint_every": 2,
    },
    "cohort": {"size": 8},
    "sampling": {"steps": 2, "batch": 4, "shard": 4},
    "screen": {"margin": 1e6},
    "audit": {"repeats": 10, "gates": EASY, "utility": {"effort": "none"}},
    "runtime": {"dask": "off", "device": "cpu"},
}


CANARY = "Zyxwquill"
"""A patient's name. Nothing that leaves a study may hold it."""
HEADER_TEXTS = ("descrip", "aux_file", "db_name", "intent_name")
"""Every text that a NIfTI header has."""
SIDECAR = ("PatientName", "InstitutionName", "ImageComments", "SeriesDescription")
IDS = [f"qx7-vombat-{number:02d}" for number in range(SUBJECTS)]
"""Nothing else is called so by chance."""


@pytest.fixture(scope="session")
def subjects() -> list[str]:
    """Ids of the real subjects."""
    return IDS


@pytest.fixture(scope="session")
def canary() -> str:
    """The name that was planted in the scans."""
    return CANARY


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Chain:
    """A study whose whole chain was run once, without a disturbance."""

    folder: Path
    run: Finished
    seconds: float

    @property
    def release(self) -> Path:
        """The folder that may be shared."""
        return self.folder / "releases" / "heads-1.0.0"


Meddiff = Callable[..., Finished]
NewStudy = Callable[..., Path]
WriteStudy = Callable[..., None]


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
    """Run the command to its end, with everything that it starts for itself."""
    return lambda *arguments: _finish(arguments, environment())


@pytest.fixture(scope="session")
def served(prefect_api: None, tmp_path_factory: pytest.TempPathFactory) -> Meddiff:
    """The same at an API that runs already, as on a cluster: it starts sooner."""
    from prefect.settings import PREFECT_API_URL

    home = tmp_path_factory.mktemp("prefect-home")
    served = environment() | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_HOME": str(home)}
    return lambda *arguments: _finish(arguments, served)


def _finish(arguments: tuple[object, ...], variables: dict[str, str]) -> Finished:
    done = subprocess.run(command(*arguments), env=variables, capture_output=True, text=True)
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def start_meddiff() -> Callable[..., subprocess.Popen[str]]:
    """Start the command, to meddle with it while it runs."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where scans and studies lie: one folder for all processes of a test run."""
    if (run := os.environ.get("PYTEST_XDIST_TESTRUNUID")) is None:
        return tmp_path_factory.mktemp("site")
    folder = tmp_path_factory.getbasetemp().parent / f"site-{run}"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def scans(site: Path) -> Path:
    """Images, label maps and a table of covariates, with a patient's name wherever a text has room."""
    folder = site / f"{CANARY} ward"
    with FileLock(site / "scans.lock"):
        if not (folder / "participants.tsv").exists():
            _write_scans(folder)
    return folder


def _write_scans(folder: Path) -> None:
    rows = [f"participant_id\tage\tsex\tsurname\t{CANARY} score"]
    for number, name in enumerate(IDS):
        image, label = _head(number)
        _save(folder / "images" / f"{name}.nii.gz", image)
        _save(folder / "labels" / f"{name}.nii.gz", label)
        (folder / "images" / f"{name}.json").write_text(json.dumps(dict.fromkeys(SIDECAR, CANARY)))
        rows.append(f"{name}\t{20 + (7 * number) % SUBJECTS}\t{'MF'[number % 2]}\t{CANARY}\t{number}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")


def _head(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A bright ball with dark ventricles. Those of one family differ by a little noise."""
    family, own = (np.random.default_rng(seed) for seed in (number % FAMILIES, 1000 + number))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij"))
    radii = family.uniform(0.75, 0.95, (3, 1, 1, 1))
    centre = family.uniform(-0.1, 0.1, (3, 1, 1, 1))
    brain = ((grid / radii) ** 2).sum(0) < 1
    ventricles = (((grid - centre) / family.uniform(0.3, 0.4)) ** 2).sum(0) < 1
    image = np.where(ventricles, 200, 600 + 200 * grid[1]) + own.normal(0, 2, brain.shape)
    return (image * brain).astype(np.int16), (brain * np.where(ventricles, 2, 1)).astype(np.uint8)


def _save(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([10.0, 10.0, 10.0, 1.0]))
    for name in HEADER_TEXTS:
        image.header[name] = CANARY
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(image, path)


@pytest.fixture(scope="session")
def new_study(scans: Path) -> NewStudy:
    """(folder name, **changes of sections) -> the folder of a new study of the scans."""

    def make(name: str, **changes: Any) -> Path:
        folder = scans.parent / name
        folder.mkdir()
        _write_study(folder, **changes)
        return folder

    return make


@pytest.fixture(scope="session")
def write_study() -> WriteStudy:
    """(folder, **changes of sections): write study.yaml; a change replaces some keys of its section."""
    return _write_study


def _write_study(folder: Path, **changes: Any) -> None:
    sections = {name: SETTINGS.get(name, {}) | changes.get(name, {}) for name in SETTINGS.keys() | changes.keys()}
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "heads", **sections}))


@pytest.fixture(scope="session")
def chain(site: Path, meddiff: Meddiff, new_study: NewStudy) -> Chain:
    """`meddiff run`, once for all tests; look at it, and work on a copy."""
    folder, note = site / "quiet", site / "quiet.json"
    with FileLock(site / "quiet.lock"):
        if not note.exists():
            started = time.monotonic()
            run = meddiff("run", new_study("quiet"))
            note.write_text(json.dumps({"run": asdict(run), "seconds": time.monotonic() - started}))
    said = json.loads(note.read_text())
    return Chain(folder, Finished(**said["run"]), said["seconds"])


@pytest.fixture
def finished(chain: Chain, request: pytest.FixtureRequest) -> Path:
    """A copy of the study that was run, to change and run again."""
    folder = chain.folder.with_name(request.node.name)
    shutil.copytree(chain.folder, folder)
    return folder
