"""What a command can say before any engine starts: what has to be run first, or that nothing is left to do.

Prefect, MLflow and torch take half a minute to start on a small machine; nobody should wait so long for one line.
"""

from meddiff_core.data.ingest import listing_digest
from meddiff_core.workspace import CHAIN, Workspace
from tasks.inventory import look_at_scans
from tasks.progress import echo

WHOLE_CHAIN = "run"
NEEDED = {
    "train": "dataset",
    "generate": "denoiser",
    "screen": "candidates",
    "audit": "verdicts",
    "release": "audit",
    "tune-solver": "denoiser",
}
"""What must be up to date before a stage."""
REPORT = "report.html"
"""The study's own report, which the audit's stage writes too."""


def is_finished(workspace: Workspace, stage: str) -> bool:
    """Whether a stage, or `run` for all of them, has nothing to do; then says so of each artefact.

    Raises:
        ConfigurationError: what the stage needs is missing or stale.
        DataRefused: there are no scans.
    """
    if needed := NEEDED.get(stage):
        workspace.require(needed)
    own = [name for name, artefact in CHAIN.items() if stage in (WHOLE_CHAIN, artefact.stage)]
    if not _all_done(workspace, own):
        return False
    for name in own:
        echo(f"{name}: up to date")
    return True


def _all_done(workspace: Workspace, names: list[str]) -> bool:
    condition = {state.name: state.condition for state in workspace.states()}
    if "fingerprint" in names and set(condition.values()) in ({"missing"}, {"done"}):
        # Scans are looked for at the very start, so that their absence is told at once, and at the very end.
        scans = listing_digest(look_at_scans(workspace))
        condition = {state.name: state.condition for state in workspace.states(scans)}
    told = "audit" not in names or (workspace.folder / REPORT).exists()
    return told and bool(names) and all(condition[name] == "done" for name in names)
