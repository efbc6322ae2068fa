"""What the command says at its end: where things are, how they stand, what to do next."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from meddiff_core.data.fingerprint import Fingerprint
from meddiff_core.data.ingest import discover, listing_digest
from meddiff_core.data.layouts.walking import counted
from meddiff_core.data.split.sides import SIDES
from meddiff_core.errors import MeddiffError
from meddiff_core.evidence.gates import audit_settings
from meddiff_core.evidence.outlook import decidable_gates, describe_outlook, gates_left_out
from meddiff_core.generation.scale import CohortScale, describe_scale, scale_of
from meddiff_core.models.plan import Plan, load_plan
from meddiff_core.stages.describe import describe_contract, lines_of
from meddiff_core.stages.prepare import PREPARED
from meddiff_core.study import Study
from meddiff_core.types import Note
from meddiff_core.workspace import CHAIN, State, Workspace

PLACES = {"report": "report.html", "refused": "refused.csv", "lineage": "mlflow.db"}
"""Files that the user may want to open after a run."""
MOST_NOTES = 5
"""Notes of the plan that are printed."""


def describe_status(study: Path) -> str:
    """A line per artefact, then what to run next."""
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
    count = len(workspace.recalls)
    return f"recalled {counted(count, 'subject')} (recalled.json): left out of whatever is made\n" if count else ""


def _table(states: list[State]) -> str:
    lines = []
    for state in states:
        figures = state.record.summary if state.record else {}
        said = ", ".join(state.reasons) if state.reasons else _figures(figures) if state.condition == "done" else ""
        lines.append(f"{state.name:<12} {state.condition:<8} {said}".rstrip())
    return "\n".join(lines)


def _figures(summary: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in summary.items())


def _short(value: object) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _release_line(workspace: Workspace) -> str:
    record = workspace.ledger.read("release")
    folder = record.summary["folder"] if record else ""
    return f"meddiff verify {workspace.path('release') / str(folder)}"


def describe_plan(study: Path) -> str:
    """Every decision with its value and its reason, what the gates can decide, and what comes next."""
    workspace = Workspace.open(study)
    made = load_plan(workspace.path("plan"))
    records = {name: record.summary for name, record in workspace.records().items()}
    counts = records.get("fingerprint", {})
    sides = {str(side): int(records["split"][side]) for side in SIDES} if "split" in records else {}
    places = {"picture": workspace.folder / PREPARED, "refused": workspace.folder / "refused.csv"}
    return "\n".join(
        [
            f"{'scans':<21} {counts.get('cases', 0)} usable, {counts.get('refused', 0)} refused (refused.csv), "
            f"{counts.get('notes', 0)} notes (fingerprint.json)",
            *_notes(workspace),
            f"{'split':<21} {_figures(sides)} subjects (split.json)",
            *describe_contract(made.contract, made.reasons),
            *lines_of(_trainings(made), made.reasons),
            *(f"{'gates' if not n else '':<21} {line}" for n, line in enumerate(_outlook(workspace.study, sides))),
            f"{'estimate':<21} {_estimate(made)}",
            f"{'cohort':<21} {describe_scale(_scale(workspace, made))}",
            *_anew(workspace),
            "",
            *(f"{name:<8}{path}" for name, path in places.items() if path.exists()),
            f"plan    {workspace.path('plan')} (edit it before training if you know better)",
            f"next    meddiff run {study}",
        ]
    )


def _scale(workspace: Workspace, plan: Plan) -> CohortScale:
    """What the cohort takes, at the speed of the last one."""
    record = workspace.ledger.read("candidates")
    figures = record.summary if record else {}
    each = 60 * float(figures["minutes"]) / int(figures["volumes"]) if figures.get("minutes") else None
    return scale_of(workspace.study, plan.contract, each)


def _notes(workspace: Workspace) -> list[str]:
    """The commonest notes on scans, each once, whatever its figures."""
    alike: defaultdict[str, list[Note]] = defaultdict(list)
    for note in Fingerprint.model_validate_json(workspace.path("fingerprint").read_bytes()).notes:
        alike[re.sub(r"\d[\d.e+-]*", "", note.reason)].append(note)
    groups = sorted(alike.values(), key=len, reverse=True)[:MOST_NOTES]
    return [
        f"{'' if n else 'notes':<21} {first.case}: {first.reason}" + (f" (and {more} more alike)" if more else "")
        for n, (first, more) in enumerate((group[0], len(group) - 1) for group in groups)
    ]


def _outlook(study: Study, sides: Mapping[str, int]) -> list[str]:
    """Gates that can be decided with so many subjects."""
    if not sides:
        return []
    settings = audit_settings(study)
    return describe_outlook(decidable_gates(sides, settings, study.cohort.size), gates_left_out(settings))


def _trainings(plan: Plan) -> dict[str, str]:
    parts = {"autoencoder_training": plan.autoencoder_training, "denoiser_training": plan.denoiser_training}
    return {name: f"{part.steps} steps of {part.batch}" for name, part in parts.items()} | {
        "augmentations": ", ".join(plan.augmentations) or "none"
    }


def _anew(workspace: Workspace) -> list[str]:
    """What was made before and will be made again, with the time that it took."""
    again = [state for state in workspace.states() if state.condition != "done" and state.record is not None]
    minutes = {state.name: float(state.record.summary.get("minutes", 0)) for state in again if state.record}
    parts = ", ".join(f"{name} {length:.1f}" for name, length in minutes.items())
    total = sum(minutes.values())
    return [f"{'made again':<21} {parts}; about {total:.0f} minutes, as the last time"] if minutes else []


def _estimate(plan: Plan) -> str:
    if plan.minutes is None:
        return "not measured"
    if not plan.minutes:
        return "nothing to train"
    needs = [training.memory_gb or 0.0 for training in (plan.autoencoder_training, plan.denoiser_training)]
    return f"{plan.minutes:.0f} minutes of training on {plan.device}, {max(needs):.1f} GB of memory"


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
