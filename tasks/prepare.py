"""Scans to fingerprint, plan and data set."""

from pathlib import Path
from typing import Any

from meddiff_core.artefacts import digest_of, write_json
from meddiff_core.data.contract_inference import infer_contract, train_cases
from meddiff_core.data.dataset import Dataset, build_dataset, write_refusals
from meddiff_core.data.fingerprint import Fingerprint, take_fingerprint
from meddiff_core.data.ingest import discover
from meddiff_core.diffusion.sizing import infer_plan
from meddiff_core.models.plan import load_plan
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.cluster import open_mapper
from tasks.device import choose_device
from tasks.progress import say, show
from tasks.tracking import log_file

REFUSED = "refused.csv"


@task()
def fingerprint_scans(folder: Path, *, key: str) -> dict[str, Any]:
    """Measure every scan; list what cannot be used."""
    workspace = Workspace.open(folder)
    study, inventory = workspace.study, discover(workspace.study.data, folder)
    with open_mapper(study.runtime, folder) as mapper:
        fingerprint = show(take_fingerprint(inventory, study.data, mapper))
    write_json(workspace.path("fingerprint"), fingerprint)
    write_refusals(folder / REFUSED, fingerprint.refused)
    usable, refused = len(fingerprint.cases), len(fingerprint.refused)
    if refused:
        say(f"{refused} of {usable + refused} scans cannot be used; why, is in {folder / REFUSED}")
    counts = {"cases": usable, "refused": refused, "notes": len(fingerprint.notes)}
    return {"digest": digest_of(fingerprint), "summary": counts}


@task()
def plan_study(folder: Path, *, key: str) -> dict[str, Any]:
    """Decide grid, networks and steps from the fingerprint and this machine."""
    workspace = Workspace.open(folder)
    study, fingerprint = workspace.study, _read_fingerprint(workspace)
    device = choose_device(study.runtime.device)
    contract, reasons = infer_contract(fingerprint, study, device)
    say("measuring the speed of both trainings on this machine")
    plan = infer_plan(contract, reasons, study, len(train_cases(fingerprint, study)), device)
    write_json(workspace.path("plan"), plan)
    log_file(workspace.path("plan"))
    length = {} if plan.minutes is None else {"training_minutes": round(plan.minutes, 1)}
    summary = {"size": list(contract.size), "spacing_mm": list(contract.spacing_mm), **length}
    return {"digest": workspace.plan_digest(), "summary": summary}


@task()
def conform_scans(folder: Path, *, key: str) -> dict[str, Any]:
    """Bring every scan to the contract's grid, and split by subject."""
    workspace = Workspace.open(folder)
    study, fingerprint = workspace.study, _read_fingerprint(workspace)
    inventory, contract = discover(study.data, folder), load_plan(workspace.path("plan")).contract
    with open_mapper(study.runtime, folder) as mapper:
        refused = show(build_dataset(folder, inventory.cases, fingerprint, contract, study, mapper))
    write_refusals(folder / REFUSED, [*fingerprint.refused, *refused])
    dataset = Dataset.open(folder)
    counts = dataset.sizes() | {"refused": len(fingerprint.refused) + len(refused)}
    return {"digest": dataset.digest(), "summary": counts}


def _read_fingerprint(workspace: Workspace) -> Fingerprint:
    return Fingerprint.model_validate_json(workspace.path("fingerprint").read_bytes())
