"""Accepted volumes to evidence: the sealed holdout is opened here, and nowhere before."""

from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import digest_file, write_json, writing_folder
from meddiff_core.data.dataset import Dataset
from meddiff_core.evidence.audit import Audit, InternalFindings, run_audit
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import Extractor
from meddiff_core.evidence.inputs import AuditInput, ScreenSummary
from meddiff_core.evidence.screening.judging import (
    MEASURED,
    accepted_volumes,
    columns_of,
    count_reasons,
    requested_conditions,
)
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.device import choose_device
from tasks.progress import show
from tasks.tracking import log_file, log_measurements


@task()
def audit_cohort(folder: Path, *, key: str) -> dict[str, Any]:
    """Quality, fidelity and privacy of the accepted volumes, with gates."""
    workspace = Workspace.open(folder)
    audit, findings = show(run_audit(_gather(workspace)))
    with writing_folder(workspace.path("audit")) as partial:
        write_json(partial / "audit.json", audit)
        write_json(partial / "findings.json", findings)
    log_measurements({f"audit/{metric.name}": metric.value for metric in audit.metrics})
    log_file(workspace.path("audit") / "audit.json")
    failed = [gate.metric for gate in audit.gates if not gate.passed]
    summary = {"gates": len(audit.gates), "failed": len(failed), "flagged": len(audit.flagged)}
    return {"digest": digest_file(workspace.path("audit") / "audit.json"), "summary": summary}


def _gather(workspace: Workspace) -> AuditInput:
    dataset, verdicts = Dataset.open(workspace.folder), pd.read_parquet(workspace.path("verdicts"))
    accepted = verdicts[verdicts["accepted"]]
    network, contract = load_autoencoder(workspace.path("autoencoder"), choose_device(workspace.study.runtime.device))
    autoencoder = workspace.inputs("latents")["autoencoder"]
    extractors: list[Extractor] = [
        RandomConvFeatures(contract),
        LatentFeatures(lambda images: network.encode(images)[0], autoencoder, contract),
    ]
    return AuditInput(
        dataset=dataset,
        contract=contract,
        accepted=accepted_volumes(verdicts, workspace.path("candidates")),
        requested=requested_conditions(accepted),
        measured=columns_of(accepted, MEASURED),
        sample_ids=list(accepted["sample_id"]),
        extractors=extractors,
        screen=ScreenSummary(candidates=len(verdicts), accepted=len(accepted), reasons=count_reasons(verdicts)),
        config=workspace.study.audit,
        seed=workspace.study.seed,
    )


def read_audit(workspace: Workspace) -> tuple[Audit, InternalFindings]:
    """The audit of a study, and what only the study may see."""
    folder = workspace.path("audit")
    audit = Audit.model_validate_json((folder / "audit.json").read_bytes())
    return audit, InternalFindings.model_validate_json((folder / "findings.json").read_bytes())
