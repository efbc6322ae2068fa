"""Lines for the user on what was found in the folder of scans and what was decided from it."""

from collections.abc import Mapping

from meddiff_core.contract import Contract, spacing_text
from meddiff_core.data.identity.kinds import UNNAMED
from meddiff_core.data.identity.subjects import SubjectRule
from meddiff_core.data.ingest import Inventory
from meddiff_core.data.layouts.walking import counted

MOST_NOTES = 8
"""Notes that are shown; all are in fingerprint.json."""


def describe_inventory(inventory: Inventory, examples: bool = False) -> list[str]:
    """A line for each thing found; `examples` name scans and subjects: for the screen, never for a log."""
    subjects = counted(len({case.subject for case in inventory.cases}), "subject")
    left = f"{len(inventory.refused)} refused, {counted(len(inventory.notes), 'note')}"
    lines = {
        "layout": [inventory.layout],
        "scans": [f"{len(inventory.cases)} of {subjects}, {left}"],
        "subjects": [_rule(rule, examples) for rule in inventory.subject_rules],
        "kinds": [_kinds(inventory)],
        "label maps": [_labels(inventory)],
        "covariates": [_covariate(name, kind, inventory) for name, kind in inventory.kinds.items()] or ["none"],
        "notes": _notes(inventory) if examples else [],
    }
    return [f"{name if not n else '':<11} {text}" for name, texts in lines.items() for n, text in enumerate(texts)]


def _notes(inventory: Inventory) -> list[str]:
    """What was left out or taken otherwise than it stands; those of columns first, which no later line repeats."""
    cases = {case.case for case in inventory.cases}
    notes = sorted(inventory.notes, key=lambda note: note.case in cases)
    more = [f"and {len(notes) - MOST_NOTES} more"] if len(notes) > MOST_NOTES else []
    return [f"{note.case}: {note.reason}" for note in notes[:MOST_NOTES]] + more


def _rule(rule: SubjectRule, examples: bool) -> str:
    text = f"by {rule.rule}: {counted(rule.scans, 'scan')} of {counted(rule.subjects, 'subject')}"
    return text + "".join(f"; {scan} is of {subject}" for scan, subject in rule.examples if examples)


def _kinds(inventory: Inventory) -> str:
    if [kind.kind for kind in inventory.image_kinds] == [UNNAMED]:
        return "one, not named in file names"
    parts = [f"{kind.kind} ({kind.scans}{'' if kind.used else ', left out'})" for kind in inventory.image_kinds]
    return ", ".join(parts) or "none"


def _labels(inventory: Inventory) -> str:
    found = sum(case.label is not None for case in inventory.cases)
    groups = f"; groups of the data set: {', '.join(inventory.label_groups)}" if inventory.label_groups else ""
    return f"{found or 'none'}{groups}"


def _covariate(name: str, kind: str, inventory: Inventory) -> str:
    values = [case.covariates.get(name) for case in inventory.cases]
    known = [value for value in values if value is not None]
    if not known:
        return f"{name}, {kind}"
    shown = sorted(set(known), key=lambda value: (isinstance(value, str), value))
    text = ", ".join(map(str, shown[:5])) if kind == "categorical" else f"{shown[0]:g} to {shown[-1]:g}"
    more = ", ..." if kind == "categorical" and len(shown) > 5 else ""
    return f"{name}, {kind}: {text}{more}; known of {len(known)} of {counted(len(values), 'scan')}"


def describe_contract(contract: Contract, reasons: Mapping[str, str]) -> list[str]:
    """Decisions on grid, intensities, labels and conditions: name, value and reason, a line each."""
    mapping = contract.intensity
    ends = " to ".join(f"{end:g}" for end in mapping.percentiles or (mapping.low, mapping.high))
    scale = f"percentiles {ends}" if mapping.percentiles else f"{ends} HU"
    values = {
        "spacing_mm": spacing_text(contract.spacing_mm),
        "size": " x ".join(map(str, contract.size)),
        "intensity": f"{mapping.modality}, {scale}, {mapping.storage}",
        "mask": contract.mask,
        "labels": ", ".join(contract.labels) or "none",
        "conditions": ", ".join(spec.name for spec in contract.conditions) or "none",
    }
    dropped = {name: "dropped" for name in reasons if name.startswith("conditions.")}
    return lines_of(values | dropped, reasons)


def lines_of(values: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """Name, value and reason of each decision."""
    return [f"{name:<21} {value}. {reasons.get(name, '')}".rstrip() for name, value in values.items()]
