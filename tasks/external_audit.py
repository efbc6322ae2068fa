"""The audit of a cohort from elsewhere, on this machine's cores: no study, no lineage, one folder of results."""

from pathlib import Path

from meddiff_core.evidence.gates import GateResult
from meddiff_core.release.evidence import verdict
from meddiff_core.stages.external_audit import audit_sources
from meddiff_core.stages.external_sources import Sources
from meddiff_core.stages.lock import locked
from meddiff_core.stages.making import Resources, choose_device
from meddiff_core.study import AuditConfig, RuntimeConfig
from tasks.cluster import open_mapper
from tasks.environment import prepare_environment
from tasks.progress import console_for, show, speaking


def audit_folders(sources: Sources, out: Path, config: AuditConfig, seed: int, *, verbose: bool, quiet: bool) -> str:
    """Audit a cohort and say what was found and where it lies."""
    prepare_environment(out, verbose=verbose)
    with locked(out), open_mapper(RuntimeConfig(), out) as mapper, speaking(console_for(quiet=quiet)):
        resources = Resources(choose_device(None), mapper)
        found = show(audit_sources(sources, out, config, seed, resources))
    failed = [gate for gate in found.audit.gates if gate.holds_back]
    return "\n".join(
        [
            *found.limits,
            "",
            *map(_line, failed),
            f"{verdict(found.audit.gates)} {len(found.audit.flagged)} of {found.audit.sizes['synthetic']} volumes are "
            "suspected copies.",
            "",
            f"report  {found.report} (shows the real scans: it is patient data)",
        ]
    )


def _line(gate: GateResult) -> str:
    return f"{gate.verdict:<11} {gate.message}"
