"""What `meddiff plan` says at its end: every decision with its reason, and what the gates will be able to decide.

Apart from `tasks.summary`, because it imports networks, and a command that has nothing to do shall not wait for them.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from meddiff_core.data.fingerprint import Fingerprint
from meddiff_core.data.split.sides import SIDES
from meddiff_core.evidence.gates import audit_settings
from meddiff_core.evidence.outlook import decidable_gates, describe_outlook, gates_left_out
from meddiff_core.generation.scale import CohortScale, describe_scale, scale_of
from meddiff_core.models.plan import Plan, load_plan
from meddiff_core.stages.describe import describe_contract, lines_of
from meddiff_core.stages.prepare import PREPARED
from meddiff_core.study import Study
from meddiff_core.types import Note
from meddiff_core.workspace import Workspace
from tasks.summary import figures_of

MOST_NOTES = 5
"""Notes of the plan that are printed."""


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
            f"{'split':<21} {figures_of(sides)} subjects (split.json)",
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
