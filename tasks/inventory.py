"""What was found in the folder of scans: said to a person first, kept beside the study, read by every later stage."""

import re

from pydantic import TypeAdapter

from meddiff_core.artefacts import write_bytes
from meddiff_core.data.dataset import write_refusals
from meddiff_core.data.fingerprint import all_refused
from meddiff_core.data.identity.kinds import UNNAMED
from meddiff_core.data.identity.subjects import SubjectRule
from meddiff_core.data.ingest import Inventory, discover, require_answers
from meddiff_core.data.layouts.walking import counted
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.workspace import Workspace
from tasks.progress import echo

INVENTORY = "inventory.json"
REFUSED = "refused.csv"
_JSON = TypeAdapter(Inventory)


def look_at_scans(workspace: Workspace) -> Inventory:
    """What the folder holds, for a command to show before any engine starts: what is open may name subjects.

    Raises:
        ConfigurationError: the folder leaves a question open; all of them are listed.
        DataRefused: there are no scans, or all were refused; refused.csv then lists them.
    """
    inventory = discover(workspace.study.data, workspace.folder)
    require_answers(inventory)
    if not inventory.cases:
        write_refusals(workspace.folder / REFUSED, inventory.refused)
        raise DataRefused(f"{all_refused(inventory.refused)}; all of them are listed in {workspace.folder / REFUSED}")
    return inventory


def take_inventory(workspace: Workspace) -> Inventory:
    """Look at the folder of scans inside a flow, say what was understood, and keep it.

    What a flow says or raises ends in logs, so it names no scan and no subject.

    Raises:
        ConfigurationError: a setting or the folder is wrong, or a question is open.
        DataRefused: there are no scans, or all were refused.
    """
    try:
        inventory = look_at_scans(workspace)
    except ConfigurationError as error:
        keys = sorted(set(re.findall(r"\bdata\.[a-z_]+", str(error)))) or ["data"]
        raise ConfigurationError(
            f"{', '.join(keys)}: must be settled first; `meddiff plan` says what is open"
        ) from None
    for line in describe_inventory(inventory):
        echo(line)
    write_bytes(workspace.folder / INVENTORY, _JSON.dump_json(inventory))
    return inventory


def read_inventory(workspace: Workspace) -> Inventory:
    """What `take_inventory` found, or a new look for a study that has none yet."""
    path = workspace.folder / INVENTORY
    return _JSON.validate_json(path.read_bytes()) if path.exists() else discover(workspace.study.data, workspace.folder)


def describe_inventory(inventory: Inventory, examples: bool = False) -> list[str]:
    """What was understood, a line each; `examples` name scans and subjects: for a screen, never for a log."""
    subjects = counted(len({case.subject for case in inventory.cases}), "subject")
    left = f"{len(inventory.refused)} refused, {counted(len(inventory.notes), 'note')}"
    lines = {
        "layout": [inventory.layout],
        "scans": [f"{len(inventory.cases)} of {subjects}, {left}"],
        "subjects": [_rule(rule, examples) for rule in inventory.subject_rules],
        "kinds": [_kinds(inventory)],
        "label maps": [_labels(inventory)],
        "covariates": [_covariate(name, kind, inventory) for name, kind in inventory.kinds.items()] or ["none"],
    }
    return [f"{name if not n else '':<11} {text}" for name, texts in lines.items() for n, text in enumerate(texts)]


def _rule(rule: SubjectRule, examples: bool) -> str:
    text = f"by {rule.rule}: {counted(rule.scans, 'scan')} of {counted(rule.subjects, 'subject')}"
    return text + "".join(f"; {scan} is of {subject}" for scan, subject in rule.examples if examples)


def _kinds(inventory: Inventory) -> str:
    if [kind.kind for kind in inventory.image_kinds] == [UNNAMED]:
        return "one, which no name tells"
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
