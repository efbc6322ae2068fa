"""A first study.yaml for some scans, with what can be seen in them already filled in.

What the scans leave open is not: a guess that is written down looks like a decision.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from meddiff_core.artefacts import write_text
from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.layouts.freesurfer_groups import FREESURFER
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study, describe_faults, parse_yaml, render_study
from meddiff_core.workspace import STUDY_FILE

GROUP_PRESETS: Mapping[str, Mapping[str, Sequence[int]]] = {"freesurfer": FREESURFER}


@dataclass(frozen=True)
class NewStudy:
    """A study that was written, and what was understood of its scans."""

    path: Path
    inventory: Inventory


@dataclass(frozen=True)
class ScaffoldOptions:
    """What is known of a new study beside its scans; None leaves a setting to its default."""

    labels: Path | None = None
    """Folder of label maps; those of a preset of `groups` lie among the images."""
    participants: Path | None = None
    """Table of covariates."""
    groups: Path | None = None
    """YAML file of label groups, or the name of a preset."""
    volumes: Sequence[str] = ()
    """Label groups whose volume becomes a condition."""
    size: int | None = None
    """Volumes of the cohort."""
    budget_minutes: float | None = None
    """Time for both trainings."""
    preset: str | None = None
    """Preset of gates."""
    mask: str | None = None
    spacing_mm: float | None = None


def scaffold_study(folder: Path, images: Path, options: ScaffoldOptions = ScaffoldOptions()) -> NewStudy:
    """Write `folder/study.yaml`.

    Raises:
        ConfigurationError: a path does not exist, the folder has a study already, or a value fits no study.
        DataRefused: `images` holds no scan.
    """
    path = folder / STUDY_FILE
    if path.exists():
        raise ConfigurationError(f"study must be new, {path} exists; edit it")
    data = _data(images, options)
    settings = {
        "name": _name(folder),
        "plan": _without_none(budget_minutes=options.budget_minutes, spacing_mm=options.spacing_mm),
        "cohort": _without_none(size=options.size),
        "audit": _without_none(preset=options.preset),
    }
    inventory = discover(_validated(settings | {"data": data | {"mask": "none"}}).data, folder)
    data = _filled(data, inventory, options.volumes)
    if options.groups is not None and "labels" not in data and not any(case.label for case in inventory.cases):
        raise ConfigurationError("--groups needs --labels, which is missing")
    write_text(path, render_study(_validated(settings | {"data": data})))
    return NewStudy(path, inventory)


def _data(images: Path, options: ScaffoldOptions) -> dict[str, Any]:
    """The `data` settings that the options give."""
    labels = images if options.labels is None and str(options.groups) in GROUP_PRESETS else options.labels
    paths = _given({"images": images, "labels": labels, "participants": options.participants})
    groups = None if options.groups is None else read_groups(options.groups)
    return paths | _without_none(label_groups=groups, mask=options.mask)


def _without_none(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _given(paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """Absolute paths of the options that were given."""
    given = {option: path for option, path in paths.items() if path is not None}
    for option, path in given.items():
        if not path.exists() and not _is_pattern(path):
            raise ConfigurationError(f"--{option} must exist, {path} does not")
    return {option: str(path.absolute()) for option, path in given.items()}


def _filled(data: Mapping[str, Any], inventory: Inventory, volumes: Sequence[str]) -> dict[str, Any]:
    """The settings with what the data set says of itself, and with its covariates if nothing is open."""
    filled = dict(data)
    if inventory.label_folder is not None:
        filled["labels"] = str(inventory.label_folder.absolute())
    if inventory.label_groups and "label_groups" not in data and ("labels" in filled):
        filled["label_groups"] = inventory.label_groups
    covariates = {} if inventory.questions else dict(inventory.kinds)
    covariates |= {f"{group}_mm3": f"volume of {group}" for group in volumes}
    return filled | ({"covariates": covariates} if covariates or not inventory.questions else {})


def _validated(settings: dict[str, Any]) -> Study:
    try:
        return Study.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError(describe_faults(error)) from error


def _is_pattern(path: Path) -> bool:
    return any(character in str(path) for character in "*?[")


def read_groups(groups: Path) -> Any:
    """Label groups of a preset or a file."""
    if (preset := GROUP_PRESETS.get(str(groups))) is not None:
        return {name: list(values) for name, values in preset.items()}
    if not groups.is_file():
        known = ", ".join(GROUP_PRESETS)
        raise ConfigurationError(f"--groups must be a YAML file or a preset ({known}), {groups} is none")
    try:
        return parse_yaml(groups.read_bytes())
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"--groups must be YAML, {groups.name} is none: {str(error).splitlines()[0]}"
        ) from error


def _name(folder: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", folder.absolute().name.lower()).strip("-") or "study"
