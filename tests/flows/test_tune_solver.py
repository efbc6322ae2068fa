"""`meddiff tune-solver` measures on a trained study, changes nothing in it, and prints what the study then takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddiff_core.artefacts import digest_tree
from meddiff_core.evidence.tuning import Tuning
from meddiff_core.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Run = Callable[..., Any]
NEW = {"tuning.json", "figures/solver.png"}


def made(folder: Path) -> dict[str, str]:
    """Digest by path of all but what the engines keep for themselves."""
    engines = (".meddiff/prefect", ".meddiff/results", ".meddiff/locks", ".meddiff/tracking", "mlruns/", "mlflow.db")
    return {path: digest for path, digest in digest_tree(folder).items() if not path.startswith(engines)}


def test_a_study_without_a_denoiser_says_what_to_run(meddiff: Run, new_study: Run) -> None:
    done = meddiff("tune-solver", new_study("untuned"))
    assert done.status == 2
    assert "denoiser must be up to date, is missing; run `meddiff train` first" in done.err


@pytest.mark.long
def test_tuning_prints_what_the_study_then_takes_and_measures_the_same_again(
    served: Run, finished: Path, write_study: Run, subjects: list[str]
) -> None:
    before = made(finished)
    done = served("tune-solver", finished, "--samples", 8)
    assert (done.status, done.err.count("Traceback")) == (0, 0), done.err
    after = made(finished)
    assert after.keys() - before.keys() >= NEW
    assert {path for path in before if before[path] != after[path]} == set()
    measured = (finished / "tuning.json").read_bytes()
    tuning = Tuning.model_validate_json(measured)
    assert tuning.samples == 8
    assert not any(subject in json.dumps(tuning.model_dump(mode="json")) for subject in subjects)

    lines = yaml.safe_load(done.out.partition("# for study.yaml")[2])
    write_study(finished, sampling=lines["sampling"] | {"batch": 4, "shard": 4})
    sampling = Workspace.open(finished).study.sampling
    assert (sampling.solver, sampling.levels) == (tuning.chosen.solver, len(tuning.chosen.sigmas))
    done = served("generate", finished)
    assert done.status == 0, done.err

    # Whatever settings the study has taken since.
    (finished / "tuning.json").unlink()
    assert served("tune-solver", finished, "--samples", 8).status == 0
    assert (finished / "tuning.json").read_bytes() == measured
