"""Scans to fingerprint, plan and data set."""

from pathlib import Path
from typing import Any

import numpy as np

from meddiff_core.artefacts import digest_of, write_bytes, write_json
from meddiff_core.contract import Contract
from meddiff_core.data.contract_inference import infer_contract, training_part
from meddiff_core.data.dataset import Dataset, build_dataset, sides_of_dataset, write_refusals
from meddiff_core.data.fingerprint import Fingerprint, require_cases, take_fingerprint
from meddiff_core.data.identity.subjects import names_of_one_person
from meddiff_core.data.losses import measure_losses, summarise_losses, write_losses
from meddiff_core.data.prepared import look_at_conforming
from meddiff_core.data.split.limits import require_usable_sides
from meddiff_core.data.split.near_duplicates import (
    describe_near_duplicates,
    find_near_duplicates,
    write_near_duplicates,
)
from meddiff_core.data.split.sides import Split, assign_sides, read_split, stratifying_covariates
from meddiff_core.diffusion.sizing import infer_plan
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.plan import load_plan
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.cluster import open_mapper
from tasks.device import choose_device
from tasks.inventory import REFUSED, read_inventory
from tasks.progress import echo, show
from tasks.summary import PREPARED, describe_contract
from tasks.tracking import log_file

LOSSES, DUPLICATES = "losses.csv", "near_duplicates.csv"


@task()
def fingerprint_scans(folder: Path, *, key: str) -> dict[str, Any]:
    """Measure every scan; list what cannot be used."""
    workspace = Workspace.open(folder)
    study, inventory = workspace.study, read_inventory(workspace)
    with open_mapper(study.runtime, folder) as mapper:
        fingerprint = show(take_fingerprint(inventory, study.data, mapper))
    write_refusals(folder / REFUSED, fingerprint.refused)
    require_cases(fingerprint)
    write_json(workspace.path("fingerprint"), fingerprint)
    usable, refused = len(fingerprint.cases), len(fingerprint.refused)
    if refused:
        echo(f"{refused} of {usable + refused} scans cannot be used; why, is in {folder / REFUSED}")
    counts = {"cases": usable, "refused": refused, "notes": len(fingerprint.notes)}
    return {"digest": digest_of(fingerprint), "summary": counts}


@task()
def split_subjects(folder: Path, *, key: str) -> dict[str, Any]:
    """Put every new subject on a side; nothing is written down that training or audit could not use."""
    workspace = Workspace.open(folder)
    study, fingerprint, previous = workspace.study, _read_fingerprint(workspace), _previous_split(workspace)
    subjects = stratifying_covariates(fingerprint)
    same = names_of_one_person(study.data.same_subject, folder, set(subjects))
    split = assign_sides(previous, subjects, study.split, study.seed, same)
    _tell_near_duplicates(workspace, fingerprint, split)
    try:
        require_usable_sides(split, [case.subject for case in fingerprint.cases], study.split, first=previous is None)
    except ConfigurationError:
        _show_decisions(workspace, training_part(fingerprint, split))
        raise
    write_json(workspace.path("split"), split)
    return {"digest": split.digest(), "summary": split.sizes(list(subjects))}


def _previous_split(workspace: Workspace) -> Split | None:
    """The split as it is written down, or as a data set shows it that was made before splits were."""
    if workspace.path("split").exists():
        return read_split(workspace.path("split"))
    record, study = workspace.ledger.read("dataset"), workspace.study
    sides = sides_of_dataset(workspace.folder) if record is not None and "split" not in record.inputs else {}
    if not sides:
        return None
    return Split(sides=sides, train=study.split.train, validation=study.split.validation, seed=study.seed)


def _tell_near_duplicates(workspace: Workspace, fingerprint: Fingerprint, split: Split) -> None:
    """List scans of different subjects that may be one person's."""
    shown = [case for case in fingerprint.cases if case.thumbnail]
    pairs = find_near_duplicates(
        np.array([list(bytes.fromhex(case.thumbnail)) for case in shown]),
        [case.case for case in shown],
        [case.subject for case in shown],
        split.sides,
    )
    write_near_duplicates(workspace.folder / DUPLICATES, pairs)
    for line in describe_near_duplicates(pairs, DUPLICATES):
        echo(line)


@task()
def plan_study(folder: Path, *, key: str) -> dict[str, Any]:
    """Decide grid, networks and steps from the fingerprint and this machine."""
    workspace = Workspace.open(folder)
    study, fingerprint = workspace.study, _read_fingerprint(workspace)
    device = choose_device(study.runtime.device)
    train = training_part(fingerprint, read_split(workspace.path("split")))
    contract, reasons = infer_contract(train, study, device)
    _look(workspace, train, contract)
    echo("measuring the speed of both trainings on this machine")
    plan = show(infer_plan(contract, reasons, study, len(train.cases), device))
    write_json(workspace.path("plan"), plan)
    log_file(workspace.path("plan"))
    length = {} if plan.minutes is None else {"training_minutes": round(plan.minutes, 1)}
    summary = {"size": list(contract.size), "spacing_mm": list(contract.spacing_mm), **length}
    return {"digest": workspace.plan_digest(), "summary": summary}


def _show_decisions(workspace: Workspace, train: Fingerprint) -> None:
    """What would be decided if there were scans enough."""
    contract, reasons = infer_contract(train, workspace.study, choose_device(workspace.study.runtime.device))
    for line in describe_contract(contract, reasons):
        echo(line)
    _look(workspace, train, contract)


def _look(workspace: Workspace, train: Fingerprint, contract: Contract) -> None:
    """Draw some training scans before and after, and say what conforming loses of them."""
    study, folder = workspace.study, workspace.folder
    known = {found.case for found in train.cases}
    cases = [case for case in read_inventory(workspace).cases if case.case in known]
    with open_mapper(study.runtime, folder) as mapper:
        look = show(look_at_conforming(cases, train, contract, study.data, mapper, study.seed))
    write_bytes(folder / PREPARED, look.picture)
    for line in summarise_losses(look.losses):
        echo(line)
    echo(f"scans as they came beside what the networks will see: {folder / PREPARED}")


@task()
def conform_scans(folder: Path, *, key: str) -> dict[str, Any]:
    """Bring every scan to the contract's grid, and note its side of the split."""
    workspace = Workspace.open(folder)
    study, fingerprint = workspace.study, _read_fingerprint(workspace)
    inventory, contract = read_inventory(workspace), load_plan(workspace.path("plan")).contract
    split = read_split(workspace.path("split"))
    with open_mapper(study.runtime, folder) as mapper:
        refused = show(build_dataset(folder, inventory.cases, fingerprint, contract, study.data, split, mapper))
        losses = show(measure_losses(inventory.cases, fingerprint, contract, study.data, mapper))
    write_losses(folder / LOSSES, losses)
    write_refusals(folder / REFUSED, [*fingerprint.refused, *refused])
    for line in summarise_losses(losses):
        echo(f"{line}; {folder / LOSSES} lists all")
    dataset = Dataset.open(folder)
    require_usable_sides(split, dataset.subjects(None), study.split, first=False)
    counts = dataset.sizes() | {"refused": len(fingerprint.refused) + len(refused)}
    return {"digest": dataset.digest(), "summary": counts}


def _read_fingerprint(workspace: Workspace) -> Fingerprint:
    return Fingerprint.model_validate_json(workspace.path("fingerprint").read_bytes())
