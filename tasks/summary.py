"""What the command says at its end: where things are, how they stand, what to do next."""

from collections.abc import Mapping
from pathlib import Path

from meddiff_core.errors import MeddiffError
from meddiff_core.workspace import CHAIN, State, Workspace

PLACES = {"report": "report.html", "refused": "refused.csv", "lineage": "mlflow.db"}
"""Files that the user may want to open after a run."""


def describe_status(study: Path) -> str:
    """A line per artefact, then what to run next."""
    from meddiff_core.data.ingest import discover, listing_digest  # slow, and nobody else here lists scans

    workspace = Workspace.open(study)
    try:
        scans = listing_digest(discover(workspace.data, workspace.folder))
    except MeddiffError as error:
        return f"{_table(workspace.states())}\n\nthe scans cannot be read: {error}"
    states = workspace.states(scans)
    behind = next((state for state in states if state.condition != "done"), None)
    following = f"meddiff run {study}" if behind else _release_line(workspace)
    return f"{_table(states)}\n\n{_recalled(workspace)}next    {following}"


def _recalled(workspace: Workspace) -> str:
    """A line where subjects were called back; it names nobody."""
    from meddiff_core.data.layouts.walking import counted  # slow, as above

    count = len(workspace.recalls)
    return f"recalled {counted(count, 'subject')} (recalled.json): left out of whatever is made\n" if count else ""


def _table(states: list[State]) -> str:
    lines = []
    for state in states:
        figures = state.record.summary if state.record else {}
        said = ", ".join(state.reasons) if state.reasons else figures_of(figures) if state.condition == "done" else ""
        lines.append(f"{state.name:<12} {state.condition:<8} {said}".rstrip())
    return "\n".join(lines)


def figures_of(summary: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in summary.items())


def _short(value: object) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _release_line(workspace: Workspace) -> str:
    record = workspace.ledger.read("release")
    folder = record.summary["folder"] if record else ""
    return f"meddiff verify {workspace.path('release') / str(folder)}"


def describe_stage(study: Path, stage: str) -> str:
    """How the artefacts of one stage stand, and what comes next."""
    workspace = Workspace.open(study)
    states = workspace.states()
    own = [state for state in states if CHAIN[state.name].stage == stage]
    behind = next((state for state in states if state.condition != "done"), None)
    following = f"meddiff {CHAIN[behind.name].stage} {study}" if behind else _release_line(workspace)
    return f"{_table(own)}\n\nnext    {following}"


def describe_run(study: Path) -> str:
    """Where everything is after a run, whether it ended well or not."""
    workspace = Workspace.open(study)
    states = workspace.states()
    places = {name: workspace.folder / path for name, path in PLACES.items()}
    lines = [f"{name:<8}{path}" for name, path in places.items() if path.exists()]
    finished = states[-1].condition == "done"
    if finished and states[-1].record is not None:
        release = workspace.path("release") / str(states[-1].record.summary["folder"])
        lines += [f"{'release':<8}{release}", f"{'card':<8}{release / 'report.html'}"]
        following = f"meddiff verify {release}"
    else:
        following = f"meddiff run {study}   (continues where it stopped)"
    return "\n".join([_table(states), "", *lines, f"{'next':<8}{following}"])
