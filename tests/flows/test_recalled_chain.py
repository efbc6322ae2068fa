"""A subject of a finished study is called back, the chain is run again, and nothing made then has seen it."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.data.dataset import Dataset
from meddiff_core.data.split.sides import SIDES
from meddiff_core.lineage.seen import BEFORE, SAW
from meddiff_core.models.latents import LatentSet
from meddiff_core.stages.chain import make, make_missing
from meddiff_core.stages.making import Resources
from meddiff_core.workspace import CHAIN, Workspace
from tests.flows.test_canaries import holding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_what_each_artefact_opens_is_what_a_recall_says_it_saw(
    new_study: Callable[..., Path], finish: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: defaultdict[str, set[Any]] = defaultdict(set)
    making = ""

    def watch(kind: type[Any], method: str) -> None:
        whole = getattr(kind, method)

        def noting(*arguments: Any) -> Any:
            opened[making].add(arguments[-1])
            return whole(*arguments)

        monkeypatch.setattr(kind, method, noting)

    for method in ("volumes", "conditions", "subjects"):
        watch(Dataset, method)
    watch(LatentSet, "open")
    covariates = {"age": "continuous", "sex": "categorical", "ventricles_mm3": "volume of ventricles"}
    workspace = Workspace.open(new_study("opened", data={"covariates": covariates}))
    for name in CHAIN:
        making = name
        if name != "release":  # which of networks that were hardly trained is refused
            finish(make(workspace, name, Resources("cpu")))
    found = {name: sides & set(SIDES) for name, sides in opened.items() if name not in (*BEFORE, "dataset")}
    said = {name: set(saw) for name, saw in SAW.items() if name not in (*BEFORE, "dataset")}
    assert {name: sides for name, sides in found.items() if sides} == said


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
