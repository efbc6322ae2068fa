"""Accepted volumes to evidence: the sealed holdout is opened here, and nowhere before."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import digest_file, digest_of, write_json, writing_folder
from meddiff_core.data.dataset import Dataset
from meddiff_core.evidence.audit import Audit, InternalFindings, with_gates, measured_by, run_audit
from meddiff_core.evidence.features.cache import KeptVolumes
from meddiff_core.evidence.inputs import AuditInput, FirstAttempts, ScreenSummary
from meddiff_core.evidence.privacy.rounds import DROPPED, first_round, rounds_of, screened
from meddiff_core.evidence.rejections import count_rejections
from meddiff_core.evidence.screening.bounds import load_reference
from meddiff_core.evidence.screening.verdicts import MEASURED, columns_of, requested_conditions
from meddiff_core.generation.shards import Candidates
from meddiff_core.types import Mapper
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.cluster import open_mapper
from tasks.device import choose_device
from tasks.features import KeptDataset, copy_extractors, kept_cohort, set_extractors
from tasks.progress import say, show
from tasks.tracking import log_file, log_measurements

ORIGIN = "origin.json"


@task()
def audit_cohort(folder: Path, *, key: str) -> dict[str, Any]:
    """Quality, fidelity and privacy of the accepted volumes, with gates."""
    workspace = Workspace.open(folder)
    origin = _origin(workspace)
    if (kept := _measured_before(workspace, origin)) is None:
        cohort = pd.read_parquet(workspace.path("cohort"))
        with open_mapper(workspace.study.runtime, workspace.folder) as mapper:
            audit, findings = show(run_audit(gather(workspace, mapper, cohort)))
    else:
        say("audit: measured before; only gates and waivers are applied anew")
        audit, findings = with_gates(kept[0], workspace.study.audit), kept[1]
    with writing_folder(workspace.path("audit")) as partial:
        write_json(partial / "audit.json", audit)
        write_json(partial / "findings.json", findings)
        write_json(partial / ORIGIN, origin)
    log_measurements({f"audit/{metric.name}": metric.value for metric in audit.metrics})
    log_file(workspace.path("audit") / "audit.json")
    summary = {
        "gates": len(audit.gates),
        "failed": sum(gate.holds_back for gate in audit.gates),
        "waived": sum(gate.waiver is not None for gate in audit.gates),
        "flagged": len(audit.flagged),
    }
    return {"digest": digest_file(workspace.path("audit") / "audit.json"), "summary": summary}


def _origin(workspace: Workspace) -> dict[str, str]:
    """Digest of everything that decides what is measured, gates and waivers apart."""
    inputs = workspace.inputs("audit")
    return inputs | {"study.audit": digest_of(measured_by(workspace.study.audit))}


def _measured_before(workspace: Workspace, origin: dict[str, str]) -> tuple[Audit, InternalFindings] | None:
    """The last audit, if it measured the same: a person who answers for a gate need not wait for all the others."""
    folder, record = workspace.path("audit"), workspace.ledger.read("audit")
    try:
        same = json.loads((folder / ORIGIN).read_bytes()) == origin
        intact = record is not None and digest_file(folder / "audit.json") == record.digest
        return read_audit(workspace) if same and intact else None
    except (OSError, ValueError):  # none yet, or a harmed one
        return None


def gather(workspace: Workspace, mapper: Mapper, cohort: pd.DataFrame) -> AuditInput:
    """What is audited, of the cohort of a table."""
    opened = Dataset.open(workspace.folder)
    dataset, contract = KeptDataset(opened), opened.contract
    accepted, drawn, judged = cohort[cohort["accepted"]], first_round(cohort), screened(cohort)
    searched = copy_extractors(workspace, dataset, contract, mapper)
    replaced = bool(cohort[DROPPED].any())
    return AuditInput(
        dataset=dataset,
        contract=contract,
        accepted=kept_rows(workspace, "accepted" if replaced else "first-round", accepted),
        requested=requested_conditions(accepted),
        measured=columns_of(accepted, MEASURED),
        sample_ids=list(accepted["sample_id"]),
        extractors=set_extractors(workspace, contract, mapper),
        screen=ScreenSummary(
            candidates=len(judged),
            accepted=int(judged["accepted"].sum()),
            rejections=count_rejections(judged),
            real=load_reference(workspace.path("reference"))[0].real,
        ),
        config=workspace.study.audit,
        models=workspace.folder / "models",
        device=choose_device(workspace.study.runtime.device),
        seed=workspace.study.seed,
        copy_extractors=searched,
        first_attempts=_first_attempts(judged, workspace),
        first_round=kept_rows(workspace, "first-round", drawn) if replaced else None,
        first_round_ids=list(drawn["sample_id"]) if replaced else (),
        rounds=rounds_of(cohort),
    )


def kept_rows(workspace: Workspace, name: str, rows: pd.DataFrame) -> KeptVolumes:
    """The volumes of a table's rows, known to the cache of features."""
    places = list(zip(rows["shard"], rows["position"], strict=True))
    return kept_cohort(workspace, name, Candidates(workspace.path("candidates"), places), list(rows["sample_id"]))


def _first_attempts(verdicts: pd.DataFrame, workspace: Workspace) -> FirstAttempts:
    """What was generated first for each place of the cohort, accepted or not."""
    first = verdicts[verdicts["attempt"] == 0]
    return FirstAttempts(
        volumes=kept_rows(workspace, "first-attempts", first),
        sample_ids=list(first["sample_id"]),
        accepted=list(first["accepted"]),
        requested=requested_conditions(first),
        measured=columns_of(first, MEASURED),
    )


def read_audit(workspace: Workspace) -> tuple[Audit, InternalFindings]:
    """The audit of a study, and what only the study may see."""
    folder = workspace.path("audit")
    audit = Audit.model_validate_json((folder / "audit.json").read_bytes())
    return audit, InternalFindings.model_validate_json((folder / "findings.json").read_bytes())
