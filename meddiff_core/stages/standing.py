"""Which decisions of the last plan stand when the study has changed since.

A training measured anew is never as fast as it was, so a plan that is made anew would decide on other steps and
throw away what was trained. What the study does not contradict stays as it was decided; for another machine or
after other measurements, delete plan.json.
"""

from meddiff_core.artefacts import changed_inputs
from meddiff_core.contract import Contract
from meddiff_core.data.grid import latent_strides
from meddiff_core.models.plan import Plan, load_plan
from meddiff_core.workspace import BUDGET, DECIDED, SPLIT_FILE, Workspace, contradictions

SCANS = {"fingerprint", "split", SPLIT_FILE}
"""Inputs of a plan that identify its scans and their sides."""


def last_plan(workspace: Workspace) -> Plan | None:
    """The plan as it stands, if it was made from the very scans and sides of today."""
    record, path = workspace.ledger.read("plan"), workspace.path("plan")
    if record is None or not path.exists() or SCANS & set(changed_inputs(record, workspace.inputs("plan"))):
        return None
    return load_plan(path)


def standing_decisions(workspace: Workspace, last: Plan | None, contract: Contract) -> dict[str, Plan]:
    """The last plan, for each network whose size and training stand, by the name of the network."""
    if last is None or last.contract != contract:
        return {}
    if last.autoencoder.level_strides != latent_strides(contract.size, contract.spacing_mm, workspace.study):
        return {}
    return {name: last for name in DECIDED if _stands(workspace, last, name)}


def _stands(workspace: Workspace, last: Plan, name: str) -> bool:
    study, record = workspace.study, workspace.ledger.read("plan")
    training, given = getattr(last, f"{name}_training"), getattr(study.train, name)
    other_budget = record is not None and BUDGET in changed_inputs(record, workspace.inputs("plan"))
    too_large = study.plan.memory_gb is not None and (training.memory_gb or 0.0) > study.plan.memory_gb
    other_kind = name == "denoiser" and training.private != (study.train.denoiser.privacy is not None)
    contradicted = other_kind or contradictions(study, last.model_dump(mode="json"), name)
    return not (contradicted or too_large or (other_budget and given.steps is None))
