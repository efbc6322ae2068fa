"""What was found in the folder of scans: shown to the user, kept in the study, and read by every later stage."""

import re

from pydantic import TypeAdapter

from meddiff_core.artefacts import write_bytes
from meddiff_core.data.dataset import write_refusals
from meddiff_core.data.fingerprint import all_refused
from meddiff_core.data.ingest import Inventory, discover, listing_digest, require_answers
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.stages.describe import describe_inventory
from meddiff_core.stages.making import Made, Resources
from meddiff_core.types import Message, Work
from meddiff_core.workspace import Workspace

REFUSED = "refused.csv"
_JSON = TypeAdapter(Inventory)


def look_at_scans(workspace: Workspace) -> Inventory:
    """What the folder holds, for a command to show before any engine starts: what is open may name subjects.

    Raises:
        ConfigurationError: the folder leaves a question open; all of them are listed.
        DataRefused: there are no scans, or all were refused; refused.csv then lists them.
    """
    inventory = discover(workspace.data, workspace.folder)
    require_answers(inventory)
    if not inventory.cases:
        write_refusals(workspace.folder / REFUSED, inventory.refused)
        raise DataRefused(f"{all_refused(inventory.refused)}; all of them are listed in {workspace.folder / REFUSED}")
    return inventory


def take_inventory(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Look at the folder of scans, say what was understood, and keep it.

    What a stage says or raises ends in logs, so it names no scan and no subject.

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
        yield Message(line)
    write_bytes(workspace.path("inventory"), _JSON.dump_json(inventory))
    counts = {"scans": len(inventory.cases), "refused": len(inventory.refused)}
    return Made(listing_digest(inventory), counts)


def read_inventory(workspace: Workspace) -> Inventory:
    """What `take_inventory` found."""
    return _JSON.validate_json(workspace.path("inventory").read_bytes())
