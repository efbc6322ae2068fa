"""Accepted volumes to evidence: the sealed holdout is opened here, and nowhere before."""

import json

import pandas as pd

from meddiff_core.artefacts import digest_file, digest_of, write_json, writing_folder
from meddiff_core.evidence.audit import Audit, InternalFindings, measured_by, run_audit, with_gates
from meddiff_core.evidence.gates import audit_settings
from meddiff_core.stages.cohort import fill_cohort
from meddiff_core.stages.evidence_input import gather, read_audit
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.stages.report import make_report
from meddiff_core.types import Message, Work
from meddiff_core.workspace import Workspace

ORIGIN = "origin.json"


def audit_cohort(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Quality, fidelity and privacy of the accepted volumes, with gates."""
    workspace.path("report").unlink(missing_ok=True)  # it reports another audit
    origin = _origin(workspace)
    if (kept := _measured_before(workspace, origin)) is None:
        cohort = pd.read_parquet(workspace.path("cohort"))
        audit, findings = yield from run_audit((yield from gather(workspace, resources, cohort)))
    else:
        yield Message("audit: measured before; only gates and waivers are applied anew")
        audit, findings = with_gates(kept[0], audit_settings(workspace.study)), kept[1]
    with writing_folder(workspace.replaced("audit")) as partial:
        write_json(partial / "audit.json", audit)
        write_json(partial / "findings.json", findings)
        write_json(partial / ORIGIN, origin)
    path = workspace.path("audit") / "audit.json"
    summary = {
        "gates": len(audit.gates),
        "failed": sum(gate.holds_back for gate in audit.gates),
        "waived": sum(gate.waiver is not None for gate in audit.gates),
        "flagged": len(audit.flagged),
    }
    return Made(digest_file(path), summary, (path,), {metric.name: metric.value for metric in audit.metrics})


def _origin(workspace: Workspace) -> dict[str, str]:
    """Digest of everything that decides what is measured, gates and waivers apart."""
    inputs = {key: value for key, value in workspace.inputs("audit").items() if key != "study.release.models"}
    return inputs | {"study.audit": digest_of(measured_by(workspace.study.audit))}


def _measured_before(workspace: Workspace, origin: dict[str, str]) -> tuple[Audit, InternalFindings] | None:
    """The last audit, if it measured the same: a waiver or another threshold need not wait for
    all measurements."""
    folder, record = workspace.path("audit"), workspace.ledger.read("audit")
    try:
        same = json.loads((folder / ORIGIN).read_bytes()) == origin
        intact = record is not None and digest_file(folder / "audit.json") == record.digest
        return read_audit(workspace) if same and intact else None
    except (OSError, ValueError):  # none yet, or a harmed one
        return None


MAKERS: dict[str, Maker] = {"cohort": fill_cohort, "audit": audit_cohort, "report": make_report}
