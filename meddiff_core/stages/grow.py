"""A finished study's cohort made larger, for a schedule that adds volumes night by night.

Size and version are written into study.yaml, where a person would write them, and nothing else of it is touched. A
night whose forerunner did not finish only goes on from there. Nights that were missed are made up for by one: whoever
was due before the last growth finds it done.
"""

import json
from datetime import UTC, datetime

import yaml

from meddiff_core.artefacts import STATE, write_bytes
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study
from meddiff_core.workspace import STUDY_FILE, Workspace

GROWN = "grown.json"


def grow_cohort(workspace: Workspace, volumes: int, due: datetime) -> str | None:
    """Write a larger size and the next minor version into study.yaml, if all was made; a line that says so.

    Raises:
        ConfigurationError: study.yaml does not hold `cohort.size` and `release.version` to be changed.
    """
    note = workspace.folder / STATE / GROWN
    if any(state.condition != "done" for state in workspace.states()):
        return None
    if note.exists() and due <= datetime.fromisoformat(json.loads(note.read_bytes())["at"]):
        return None
    size, version = workspace.study.cohort.size + volumes, _next_minor(workspace.study.release.version)
    _write(workspace, {("cohort", "size"): str(size), ("release", "version"): version})
    write_bytes(note, json.dumps({"at": datetime.now(UTC).isoformat(), "size": size, "version": version}).encode())
    return f"study.yaml: cohort.size is {size} now, release.version {version}"


def _next_minor(version: str) -> str:
    major, minor, *_ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


def _write(workspace: Workspace, changes: dict[tuple[str, str], str]) -> None:
    path = workspace.folder / STUDY_FILE
    text = old = path.read_text()
    places = sorted(((*_place(text, *keys), value) for keys, value in changes.items()), reverse=True)
    for start, end, value in places:  # from the end, so that the places before stay where they are
        text = text[:start] + value + text[end:]
    wanted = yaml.safe_load(old)
    for (section, key), value in changes.items():
        wanted[section][key] = yaml.safe_load(value)
    try:
        Study.model_validate(wanted)
    except ValueError as error:
        raise ConfigurationError(f"cohort.size: a schedule cannot grow this cohort: {error}") from error
    if yaml.safe_load(text) != wanted:
        raise ConfigurationError("study.yaml: cohort.size and release.version must be plain values to be grown")
    write_bytes(path, text.encode())


def _place(text: str, section: str, key: str) -> tuple[int, int]:
    """Where the value of a key stands in study.yaml."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for wanted in (section, key):
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        root = next((value for name, value in pairs if name.value == wanted), None)
    if not isinstance(root, yaml.ScalarNode) or root.value in ("null", "~", ""):
        raise ConfigurationError(f"{section}.{key}: must be written in study.yaml to be grown by a schedule, is not")
    return root.start_mark.index, root.end_mark.index
