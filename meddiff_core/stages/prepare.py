"""Scans to fingerprint, plan and data set."""

import numpy as np

from meddiff_core.artefacts import digest_of, write_bytes, write_json
from meddiff_core.contract import Contract
from meddiff_core.data.contract_inference import infer_contract, training_part
from meddiff_core.data.dataset import Dataset, build_dataset, remember_subjects, sides_of_dataset, write_refusals
from meddiff_core.data.fingerprint import Fingerprint, require_cases, take_fingerprint, without_voxels
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
from meddiff_core.diffusion.checkpoint_selection import NO_LIMIT
from meddiff_core.diffusion.private import describe_noise, guarantee_for
from meddiff_core.diffusion.sizing import infer_plan
from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.gates import limit_on_weights
from meddiff_core.models.inference.instructions import describe_precision
from meddiff_core.models.plan import load_plan
from meddiff_core.stages.describe import describe_contract
from meddiff_core.stages.inventory import REFUSED, read_inventory, take_inventory
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.stages.signer import find_signer
from meddiff_core.stages.standing import last_plan, standing_decisions
from meddiff_core.types import Message, Work
from meddiff_core.workspace import DECIDED, Workspace

LOSSES, DUPLICATES = "losses.csv", "near_duplicates.csv"
PREPARED = "figures/prepared.png"
"""Scans as they came beside what the networks will see."""


def fingerprint_scans(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Measure every scan; list what cannot be used."""
    inventory, refused_csv = read_inventory(workspace), workspace.folder / REFUSED
    measured = yield from take_fingerprint(inventory, workspace.study.data, resources.mapper)
    fingerprint = without_voxels(measured, {one for recall in workspace.recalls for one in recall.voxels})
    write_refusals(refused_csv, fingerprint.refused)
    require_cases(fingerprint)
    write_json(workspace.replaced("fingerprint"), fingerprint)
    usable, refused = len(fingerprint.cases), len(fingerprint.refused)
    if refused:
        yield Message(f"{refused} of {usable + refused} scans cannot be used; why, is in {refused_csv}")
    return Made(digest_of(fingerprint), {"cases": usable, "refused": refused, "notes": len(fingerprint.notes)})


def split_subjects(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Put every new subject on a side; nothing is written down that training or audit could not use."""
    study, fingerprint, previous = workspace.study, _read_fingerprint(workspace), _previous_split(workspace)
    subjects = stratifying_covariates(fingerprint)
    same = names_of_one_person(study.data.same_subject, workspace.folder, set(subjects))
    split = assign_sides(previous, subjects, study.split, study.seed, same)
    yield from _list_near_duplicates(workspace, fingerprint, split)
    try:
        require_usable_sides(split, [case.subject for case in fingerprint.cases], study.split, first=previous is None)
    except ConfigurationError:
        yield from _show_decisions(workspace, resources, training_part(fingerprint, split))
        raise
    write_json(workspace.replaced("split"), split)
    return Made(split.digest(), {str(side): count for side, count in split.sizes(list(subjects)).items()})


def _previous_split(workspace: Workspace) -> Split | None:
    """The split as it is written down, or as a data set shows it that was made before splits were."""
    if workspace.path("split").exists():
        return read_split(workspace.path("split"))
    record, study = workspace.ledger.read("dataset"), workspace.study
    sides = sides_of_dataset(workspace.folder) if record is not None and "split" not in record.inputs else {}
    if not sides:
        return None
    return Split(sides=sides, train=study.split.train, validation=study.split.validation, seed=study.seed)


def _list_near_duplicates(workspace: Workspace, fingerprint: Fingerprint, split: Split) -> Work[None]:
    """List scans of different subjects that may show the same person."""
    shown = [case for case in fingerprint.cases if case.thumbnail]
    pairs = find_near_duplicates(
        np.array([list(bytes.fromhex(case.thumbnail)) for case in shown]),
        [case.case for case in shown],
        [case.subject for case in shown],
        split.sides,
    )
    write_near_duplicates(workspace.folder / DUPLICATES, pairs)
    for line in describe_near_duplicates(pairs, DUPLICATES):
        yield Message(line)


def plan_study(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Decide grid, networks and steps from the fingerprint and this machine; earlier decisions stand unless the study
    contradicts them.
    """
    find_signer(workspace, resources)
    study, fingerprint, last = workspace.study, _read_fingerprint(workspace), last_plan(workspace)
    train = training_part(fingerprint, read_split(workspace.path("split")))
    contract, reasons = infer_contract(train, study, last.device if last else resources.device)
    if not (standing := standing_decisions(workspace, last, contract)):
        contract, reasons = infer_contract(train, study, resources.device)
    yield from _look(workspace, resources, train, contract)
    if len(standing) < len(DECIDED):
        yield Message("measuring the speed of trainings on this machine")
    judged = limit_on_weights(study) < NO_LIMIT
    plan = yield from infer_plan(contract, reasons, study, len(train.cases), resources.device, standing, judged)
    if (privacy := study.train.denoiser.privacy) is not None:
        training, subjects = plan.denoiser_training, len({case.subject for case in train.cases})
        yield Message(describe_noise(guarantee_for(privacy, subjects, training.batch, training.steps), training.batch))
    if line := describe_precision(study, resources.device):
        yield Message(line)
    write_json(workspace.replaced("plan"), plan)
    length = {} if plan.minutes is None else {"training_minutes": round(plan.minutes, 1)}
    summary = {"size": list(contract.size), "spacing_mm": list(contract.spacing_mm), **length}
    return Made(workspace.plan_digest(), summary, (workspace.path("plan"),))


def _show_decisions(workspace: Workspace, resources: Resources, train: Fingerprint) -> Work[None]:
    """Show what would be decided if there were enough scans."""
    contract, reasons = infer_contract(train, workspace.study, resources.device)
    for line in describe_contract(contract, reasons):
        yield Message(line)
    yield from _look(workspace, resources, train, contract)


def _look(workspace: Workspace, resources: Resources, train: Fingerprint, contract: Contract) -> Work[None]:
    """Plot some training scans before and after, and say what conforming loses of them."""
    study, picture = workspace.study, workspace.folder / PREPARED
    known = {found.case for found in train.cases}
    cases = [case for case in read_inventory(workspace).cases if case.case in known]
    look = yield from look_at_conforming(cases, train, contract, study.data, resources.mapper, study.seed)
    write_bytes(picture, look.picture)
    for line in summarise_losses(look.losses):
        yield Message(line)
    yield Message(f"scans as they came beside what the networks will see: {picture}")


def conform_scans(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Bring every scan to the contract's grid, and note its side of the split."""
    folder, data, mapper = workspace.folder, workspace.study.data, resources.mapper
    cases, fingerprint = read_inventory(workspace).cases, _read_fingerprint(workspace)
    contract, split = load_plan(workspace.path("plan")).contract, read_split(workspace.path("split"))
    if (record := workspace.ledger.read("dataset")) is not None:
        remember_subjects(folder, record.digest)
    workspace.ledger.forget("dataset")  # the recorded volumes are about to be replaced
    refused = yield from build_dataset(folder, cases, fingerprint, contract, data, split, mapper)
    losses = yield from measure_losses(cases, fingerprint, contract, data, mapper)
    write_losses(folder / LOSSES, losses)
    write_refusals(folder / REFUSED, [*fingerprint.refused, *refused])
    for line in summarise_losses(losses):
        yield Message(f"{line}; {folder / LOSSES} lists all")
    dataset = Dataset.open(folder)
    require_usable_sides(split, dataset.subjects(None), workspace.study.split, first=False)
    return Made(dataset.digest(), dataset.sizes() | {"refused": len(fingerprint.refused) + len(refused)})


def _read_fingerprint(workspace: Workspace) -> Fingerprint:
    return Fingerprint.model_validate_json(workspace.path("fingerprint").read_bytes())


MAKERS: dict[str, Maker] = {
    "inventory": take_inventory,
    "fingerprint": fingerprint_scans,
    "split": split_subjects,
    "plan": plan_study,
    "dataset": conform_scans,
}
