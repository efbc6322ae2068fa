"""`meddiff apply`: every task with its own options and no others, and mistakes that are said before anything starts."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from flows.apply_cli import OPTIONS, app
from meddiff_core.applications import registry
from meddiff_core.applications.kinds import KINDS
from meddiff_core.applications.outcome import GridMap, Outcome
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Progress

Made = Callable[..., Any]


@pytest.mark.parametrize("task", KINDS)
def test_a_task_has_the_options_that_it_takes(task: str) -> None:
    said = CliRunner().invoke(app, [task, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert said.exit_code == 0
    shown = set(re.findall(r"--([a-z]+)\b", said.output))
    assert shown & set(OPTIONS) == set(KINDS[task].options)


@pytest.fixture
def trained(tmp_path: Path, save_models: Made, make_contract: Made) -> Path:
    """A study with models that were never trained."""
    save_models(tmp_path / "study" / "models", make_contract(mask="none"))
    (tmp_path / "study" / "study.yaml").write_text(
        "name: heads\ndata: {images: scans}\nruntime: {dask: 'off', device: cpu}\n"
    )
    return tmp_path / "study"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["edit", "--set", "age=95"], "--set: age must be within 20 to 80, is 95; --extrapolate allows it"),
        (["edit", "--set", "agee=50"], "'agee' is no condition of the models; did you mean age?"),
        (["counterfactual"], "--set must say what shall be otherwise"),
        (["edit", "--known", "sex=X"], "--known: sex must be one of F, M, is 'X'"),
    ],
)
def test_a_mistake_is_said_before_anything_is_made(
    trained: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    task, *others = arguments
    done = CliRunner().invoke(app, [task, str(trained), "scan.nii", "--output", str(tmp_path / "out"), *others])
    assert isinstance(done.exception, ConfigurationError)
    assert expected in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_study_without_models_is_told_to_train(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: heads\ndata: {images: scans}\n")
    done = CliRunner().invoke(app, ["edit", str(tmp_path), "scan.nii", "--output", str(tmp_path / "out")])
    assert "run `meddiff train` first" in str(done.exception)


@pytest.mark.slow
def test_a_command_writes_a_result_and_makes_it_again(
    meddiff: Made, finished: Path, scans: Path, tmp_path: Path
) -> None:
    """A study of heads from scans to a result, by workers of their own."""
    images = sorted((scans / "images").glob("*.nii.gz"))[:2]
    options = ["--labels", scans / "labels", "--samples", 2, "--steps", 2, "--force"]
    made = meddiff("apply", "edit", finished, *images, "--output", tmp_path / "out", *options)
    assert made.status == 0, made.err
    assert "2 done, 0 refused" in made.out
    (one, _) = sorted(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    image = nibabel.load(one / "image.nii.gz")
    np.testing.assert_array_equal(image.affine, nibabel.load(images[0]).affine)
    again = meddiff("apply", "regenerate", one, "--study", finished)
    assert (again.status, "every voxel is the same" in again.out) == (0, True), again.err
    (finished / "releases").mkdir(exist_ok=True)
    refused = meddiff("apply", "edit", finished, images[0], "--output", finished / "releases" / "out", *options)
    assert refused.status == 2


def unchanged(models: Any, scan: Any, settings: Any, calibration: Any) -> Iterator[Progress]:
    """Stands for any task."""
    yield Progress("unchanged", 1, 1)
    return Outcome({"image": GridMap("intensity", scan.image, "as it was")})  # type: ignore[return-value]


def know_all(*_: Any) -> Iterator[Progress]:
    """Stands for the guard, which needs scans of validation subjects."""
    yield Progress("familiar", 1, 1)
    return ()  # type: ignore[return-value]


@pytest.mark.server
@pytest.mark.timeout(600)
def test_a_flow_writes_what_the_command_writes(
    prefect_api: None, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.apply import apply

    monkeypatch.setitem(registry.TASKS, "edit", unchanged)
    monkeypatch.setattr("meddiff_core.stages.apply.check_familiar", know_all)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij"))
    noise = np.random.default_rng(0).integers(0, 20, (20, 20, 20))
    ball = (500 + 100 * grid[0] + noise) * ((grid**2).sum(0) < 0.5)
    nibabel.save(nibabel.Nifti1Image(ball.astype(np.int16), np.diag([2.0, 2, 2, 1])), tmp_path / "ball.nii")
    done = apply(str(trained), "edit", [str(tmp_path / "ball.nii")], str(tmp_path / "out"))
    assert done == {"done": 1, "refused": 0, "table": str(tmp_path / "out" / "results.tsv")}
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out/ball/image.nii.gz").dataobj, ball.astype(np.int16))
