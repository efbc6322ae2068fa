"""What a recall says of the chain is what the chain does."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.data.dataset import Dataset
from meddiff_core.data.split.sides import SIDES
from meddiff_core.lineage.recall import recall_subject
from meddiff_core.lineage.seen import BEFORE, SAW
from meddiff_core.models.latents import LatentSet
from meddiff_core.stages.chain import make, make_missing
from meddiff_core.stages.identifiers import identifiers_of
from meddiff_core.stages.making import Resources
from meddiff_core.workspace import CHAIN, Workspace

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1800)]


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


def test_a_recalled_subject_is_refused_when_its_scan_comes_back_under_its_name_or_another(
    new_study: Callable[..., Path], scans: Path, subjects: list[str], finish: Callable[..., Any], tmp_path: Path
) -> None:
    ward = Path(shutil.copytree(scans, tmp_path / "ward"))
    data = {
        "images": str(ward / "images"),
        "labels": str(ward / "labels"),
        "participants": str(ward / "participants.tsv"),
    }
    workspace, resources = Workspace.open(new_study("recalled", data=data)), Resources("cpu")
    finish(make_missing(workspace, BEFORE[:3], resources))
    recall_subject(workspace, subjects[0])
    for kind in ("images", "labels"):
        shutil.copy(ward / kind / f"{subjects[0]}.nii.gz", ward / kind / "vombat-again-99.nii.gz")
    messages = list(make_missing(workspace, BEFORE[:2], resources))
    assert not any(name in str(messages) for name in ("vombat-again-99", subjects[0]))
    refused = (workspace.folder / "refused.csv").read_text()
    assert f'{subjects[0]},"its subject is excluded' in refused
    assert "vombat-again-99,is a scan of a subject who was recalled" in refused
    fingerprint = workspace.path("fingerprint").read_text()
    assert len(json.loads(fingerprint)["cases"]) == len(subjects) - 1
    assert {subjects[0], f"{subjects[0]}.nii.gz"} <= identifiers_of(workspace)
