"""A subject of a finished study is called back, the chain is run again, and nothing made then has seen it."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.data.dataset import Dataset
from meddiff_core.lineage.seen import BEFORE, SAW
from meddiff_core.models.latents import LatentSet
from meddiff_core.stages.chain import make, make_missing
from meddiff_core.stages.making import Resources
from meddiff_core.workspace import CHAIN, Workspace
from tests.flows.test_canaries import holding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_what_each_artefact_opens_is_what_a_recall_says_it_saw(
    finished: Path, finish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: defaultdict[str, set[str]] = defaultdict(set)
    making = ""

    def watched(kind: type[Any], method: str, place: int) -> None:
        whole = getattr(kind, method)

        def noting(*arguments: Any) -> Any:
            opened[making].add(arguments[place])
            return whole(*arguments)

        monkeypatch.setattr(kind, method, noting)

    for method in ("volumes", "conditions", "subjects"):
        watched(Dataset, method, 1)
    watched(LatentSet, "open", 1)
    workspace = Workspace.open(finished)
    shutil.rmtree(finished / ".meddiff" / "features")
    for name in [name for name in CHAIN if name not in (*BEFORE, "dataset")]:
        making = name
        if name == "release":
            (finished / "study.yaml").write_text((finished / "study.yaml").read_text() + "release: {version: 1.0.1}\n")
            workspace = Workspace.open(finished)
        finish(make(workspace, name, Resources("cpu")))
    sides = {name: found & {"train", "validation", "holdout"} for name, found in opened.items()}
    assert {name: found for name, found in sides.items() if found} == {
        name: set(saw) for name, saw in SAW.items() if name not in (*BEFORE, "dataset")
    }


def test_after_a_recall_the_chain_is_made_without_the_subject_and_its_name_is_nowhere_outside_the_study(
    finished: Path, meddiff: Callable[..., Any], finish: Callable[..., Any]
) -> None:
    workspace = Workspace.open(finished)
    subject = next(
        name for name, side in json.loads((finished / "split.json").read_text())["sides"].items() if side == "train"
    )
    done = meddiff("recall", finished, subject, "--reason", "Consent was withdrawn.", "--yank")
    assert done.status == 0, done.err
    old = {name: record.digest for name, record in workspace.records().items()}
    study = (finished / "study.yaml").read_text()
    (finished / "study.yaml").write_text(study + "release: {version: 2.0.0}\n")
    done = meddiff("run", finished)
    assert done.status == 0, done.err
    new = {name: record.digest for name, record in Workspace.open(finished).records().items()}
    assert not [name for name in SAW if name not in ("plan", "split", "guidance") and new[name] == old[name]]
    assert subject not in Dataset.open(finished).subjects(None)
    assert subject in (finished / "refused.csv").read_text()
    assert meddiff("verify", finished / "releases" / "heads-2.0.0").status == 0
    gone = meddiff("lineage", finished / "releases" / "heads-1.0.0", "--json")
    assert json.loads(gone.out)["artefact"]["note"] == "Consent was withdrawn."
    assert json.loads(gone.out)["artefact"]["runs"]
    for place in ("releases", "mlflow.db", "mlruns", ".meddiff/prefect"):
        assert not holding(finished / place, subject) if (finished / place).is_dir() else True
    assert subject.encode() not in (finished / "mlflow.db").read_bytes()
    assert subject not in done.out + done.err
    kept = finish(make_missing(Workspace.open(finished), CHAIN, Resources("cpu")))
    assert kept["denoiser"].digest == new["denoiser"]
