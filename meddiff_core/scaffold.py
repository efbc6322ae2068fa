"""A first study.yaml for some scans, with what can be seen in them already filled in."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from meddiff_core.artefacts import write_text
from meddiff_core.data.ingest import discover
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study, describe_faults, render_study
from meddiff_core.workspace import STUDY_FILE


def scaffold_study(
    folder: Path,
    images: Path,
    labels: Path | None = None,
    participants: Path | None = None,
    groups: Path | None = None,
    volumes: Sequence[str] = (),
    size: int | None = None,
    budget_minutes: float | None = None,
    preset: str | None = None,
) -> Path:
    """Write `folder/study.yaml` and return its path.

    `volumes` names label groups whose volume becomes a condition, `size` is that of the cohort,
    `budget_minutes` the time for both trainings, `preset` that of the gates.

    Raises:
        ConfigurationError: a path does not exist, the folder has a study already, or a value fits no study.
        DataRefused: `images` holds no scan.
    """
    path = folder / STUDY_FILE
    if path.exists():
        raise ConfigurationError(f"study must be new, {path} exists; edit it")
    given = {"images": images, "labels": labels, "participants": participants}
    for option, source in given.items():
        if source is not None and not source.exists() and not _is_pattern(source):
            raise ConfigurationError(f"--{option} must exist, {source} does not")
    data: dict[str, Any] = {name: str(source.absolute()) for name, source in given.items() if source is not None}
    if groups is not None:
        data |= _with_groups(groups, labels)
    settings = {
        "name": _name(folder),
        "data": data,
        "plan": {} if budget_minutes is None else {"budget_minutes": budget_minutes},
        "cohort": {} if size is None else {"size": size},
        "audit": {} if preset is None else {"preset": preset},
    }
    kinds = discover(_validated(settings).data, folder).kinds
    measured = {f"{group}_mm3": f"volume of {group}" for group in volumes}
    study = _validated(settings | {"data": data | {"covariates": {**kinds, **measured}}})
    write_text(path, render_study(study))
    return path


def _validated(settings: dict[str, Any]) -> Study:
    try:
        return Study.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError(describe_faults(error)) from error


def _is_pattern(path: Path) -> bool:
    return any(character in str(path) for character in "*?[")


def _with_groups(groups: Path, labels: Path | None) -> dict[str, Any]:
    """Label groups from a file; with them, everything outside the labels is masked."""
    if not groups.is_file():
        raise ConfigurationError(f"--groups must be a YAML file, {groups} is none")
    if labels is None:
        raise ConfigurationError("--groups needs --labels, which is missing")
    try:
        return {"label_groups": yaml.safe_load(groups.read_bytes()), "mask": "label"}
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"--groups must be YAML, {groups.name} is none: {str(error).splitlines()[0]}"
        ) from error


def _name(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-") or "study"
