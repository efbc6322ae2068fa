"""Names that stay in the study: of subjects, cases and files, and the paths that lead to them."""

import re
from pathlib import Path

from meddiff_core.stages.inventory import read_inventory
from meddiff_core.workspace import Workspace

COUNTER = re.compile(r"[a-z]{0,3}\d{0,5}(\.\w{3})?", re.IGNORECASE)
"""Names of slices that are counters and identify nobody: 0005.dcm, IM00012."""


def identifiers_of(workspace: Workspace) -> set[str]:
    """Whatever names a real subject or file: none of it may occur in a release or a log."""
    inventory = read_inventory(workspace)
    names = {name for case in inventory.cases for name in (case.case, case.subject)}
    files = {case.image for case in inventory.cases}
    slices = {path.name for case in inventory.cases for path in case.slices if not COUNTER.fullmatch(path.name)}
    gone = {name for recall in workspace.recalls for name in (recall.subject, *recall.names)}
    return names | gone | {*inventory.names, *slices, *(path.name for path in files), *map(str, files)}


def identifiers_around(release: Path) -> set[str]:
    """The same, of the study in whose folder a release lies; empty where it lies elsewhere."""
    folder = release.absolute().parent.parent
    if not (folder / "study.yaml").is_file():
        return set()
    workspace = Workspace.open(folder)
    return identifiers_of(workspace) if workspace.path("inventory").is_file() else set()
