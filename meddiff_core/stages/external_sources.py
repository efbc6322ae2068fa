"""Scans that somebody points at, as what an audit compares: real ones with sides, and a synthetic cohort on their grid.

A cohort from elsewhere comes as a folder, a table, a study's data or a release. All of them go through the same
conforming as a study's scans do, so that no difference is found that only the reading made. Synthetic volumes are not
held against each other before they are compared: identical ones are a finding, not files to be left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import nibabel
import numpy as np
import pandas as pd
from pydantic import ValidationError

from meddiff_core.artefacts import writing_folder
from meddiff_core.data.contract_inference import infer_contract
from meddiff_core.data.dataset import Dataset, build_dataset
from meddiff_core.data.fingerprint import (
    CaseFingerprint,
    Fingerprint,
    all_refused,
    fingerprint_case,
    require_cases,
    take_fingerprint,
)
from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.split.sides import Side, Split, assign_sides, stratifying_covariates
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.release.manifest import MANIFEST
from meddiff_core.release.open_release import open_release
from meddiff_core.stages.making import Resources
from meddiff_core.study import Config, DataConfig, SplitConfig, Study, describe_faults, load_study
from meddiff_core.types import Mapper, Message, Progress, Refusal, Work
from meddiff_core.workspace import STUDY_FILE

Role = Literal["real", "synthetic", "train"]
Settings = TypeVar("Settings", bound=Config)
UNKNOWN_TRAIN = SplitConfig(train=0.5, validation=0.15)
"""Sides of the real scans where nobody says which of them the cohort was made from."""
KNOWN_TRAIN = SplitConfig(train=0.05, validation=0.3)
"""Sides of those that it was not made from; who would train is validated with."""


@dataclass(frozen=True)
class Sources:
    """What is to be audited, and against what."""

    real: Path
    synthetic: Path
    train: Path | None = None
    """Scans that the cohort was made from; None where that is not known."""
    groups: Mapping[str, Sequence[int]] | None = None
    """Label groups of all label maps, not yet validated; None where the data say them."""
    spacing_mm: float | None = None
    """Voxel size of the comparison; None for the coarser of both sides'."""

    def given(self) -> dict[Role, Path]:
        """What there is, by its role."""
        found: dict[Role, Path] = {"real": self.real, "synthetic": self.synthetic}
        return found if self.train is None else {**found, "train": self.train}


@dataclass(frozen=True)
class Compared:
    """All of it on one grid."""

    real: Dataset
    synthetic: Dataset
    refused: Sequence[Refusal]


def read_sources(sources: Sources, folder: Path, seed: int, resources: Resources) -> Work[Compared]:
    """Conform everything into data sets below `folder`.

    Raises:
        ConfigurationError: a source leaves a question open, or does not exist.
        DataRefused: no scan of a source can be used.
    """
    configs = {role: _config(path, sources.groups, folder / role) for role, path in sources.given().items()}
    inventories = {role: _inventory(role, config, folder) for role, config in configs.items()}
    kinds = _common_kinds(inventories)
    data = _settings(configs["real"], inventories["real"], kinds)
    for role, inventory in inventories.items():
        yield Message(f"{role}: {len(inventory.cases)} scans in {inventory.layout or 'one folder'}")
    scans, volumes = _real(inventories, kinds), replace(inventories["synthetic"], kinds=kinds)
    real = yield from take_fingerprint(scans, data, resources.mapper)
    require_cases(real)
    synthetic = yield from _fingerprint(volumes, data, resources.mapper)
    require_cases(synthetic)
    spacing = sources.spacing_mm or _coarser(real.cases, synthetic.cases)
    settings = {"name": "audit", "seed": seed, "data": data, "plan": {"spacing_mm": spacing}}
    contract, _ = infer_contract(real, Study.model_validate(settings), resources.device)
    refused = [*real.refused, *synthetic.refused]
    for role, cases, figures, split in (
        ("real", scans.cases, real, _sides(real, seed, sources.train is not None)),
        ("synthetic", volumes.cases, synthetic, _one_side(synthetic)),
    ):
        (folder / role).mkdir(parents=True, exist_ok=True)
        refused += yield from build_dataset(folder / role, cases, figures, contract, data, split, resources.mapper)
    return Compared(Dataset.open(folder / "real"), Dataset.open(folder / "synthetic"), refused)


def _config(source: Path, groups: Mapping[str, Sequence[int]] | None, scratch: Path) -> DataConfig:
    """How a source is to be read."""
    settings = source / STUDY_FILE if (source / STUDY_FILE).is_file() else source
    if settings.suffix in (".yaml", ".yml"):
        return _absolute(load_study(settings).data, settings.absolute().parent)
    named = {"label_groups": groups or {}}
    if (source / MANIFEST).is_file():
        checked = validated(DataConfig, {"images": "", **named}).label_groups
        return DataConfig(images=str(_unpacked(source, checked, scratch)), label_groups=checked, missing=[])
    return validated(DataConfig, {"images": str(source.absolute()), **named})


def validated(model: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Settings of an audit from what a command was given.

    Raises:
        ConfigurationError: one line for each that is wrong.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise ConfigurationError(describe_faults(error, model)) from error


def _absolute(data: DataConfig, base: Path) -> DataConfig:
    """The settings with paths that hold from everywhere."""
    paths = {"images": data.images, "labels": data.labels, "participants": data.participants}
    if isinstance(data.same_subject, str):
        paths["same_subject"] = data.same_subject
    return data.model_copy(update={key: str(base / path) for key, path in paths.items() if path is not None})


def _unpacked(path: Path, groups: Mapping[str, Sequence[int]], scratch: Path) -> Path:
    """The table of a release whose volumes were written as NIfTI, with the label values of `groups`."""
    release = open_release(path)
    if groups and (unknown := sorted(set(release.labels) - set(groups))):
        raise ConfigurationError(f"--groups must name the structures of the release, {', '.join(unknown)} is missing")
    values = np.arange(256, dtype=np.int16)
    for name, value in release.labels.items():
        values[value] = groups[name][0] if groups else value
    conditions = [one["name"] for one in release.contract["conditions"]]
    rows = []
    with writing_folder(scratch / "release") as folder:
        for index in range(len(release)):
            image, label = folder / f"{index:06}.nii.gz", folder / f"{index:06}_label.nii.gz"
            nibabel.save(nibabel.Nifti1Image(release.image(index), release.affine), image)
            row: dict[str, float | int | str] = {"subject": release.participant_id(index), "image": image.name}
            if (found := release.label(index)) is not None:
                nibabel.save(nibabel.Nifti1Image(values[found], release.affine), label)
                row["label"] = label.name
            known = release.covariates(index)
            rows.append(row | {name: known[name] for name in conditions})
        pd.DataFrame(rows).to_csv(folder / "volumes.csv", index=False)
    return (scratch / "release" / "volumes.csv").absolute()


def _inventory(role: Role, config: DataConfig, base: Path) -> Inventory:
    """What a source holds; its questions are put to whoever named it."""
    if not Path(config.images).exists() and not any(character in config.images for character in "*?["):
        raise ConfigurationError(f"--{role} must be a folder, a table, a YAML file or a release, it does not exist")
    found = discover(config, base)
    if found.questions:
        listed = "\n".join(f"  {question.key}: {question.text}" for question in found.questions)
        advice = f"give --{role} a YAML file with `name` and `data` as in study.yaml that answers them"
        raise ConfigurationError(f"--{role} leaves {len(found.questions)} questions open; {advice}:\n{listed}")
    if not found.cases:
        raise DataRefused(f"--{role}: {all_refused(found.refused)}")
    return found


def _common_kinds(inventories: Mapping[Role, Inventory]) -> dict[str, str]:
    """Covariates that all sources have, of one kind."""
    first, *others = (inventory.kinds for inventory in inventories.values())
    told = {name: kind for name, kind in first.items() if kind in ("continuous", "categorical")}
    return {name: kind for name, kind in told.items() if all(other.get(name) == kind for other in others)}


def _settings(real: DataConfig, inventory: Inventory, kinds: Mapping[str, str]) -> DataConfig:
    """How all scans are read: as the real ones, with the covariates that all of them have."""
    groups = real.label_groups or inventory.label_groups
    return real.model_copy(update={"label_groups": groups, "covariates": dict(kinds)})


def _real(inventories: Mapping[Role, Inventory], kinds: dict[str, str]) -> Inventory:
    """All real scans, those that were trained on first: of scans that are there twice the first is kept.

    Names say which source a scan is of: two sites may both have a `sub-01`.
    """
    roles: tuple[Role, ...] = ("train", "real")
    found = {role: inventories[role] for role in roles if role in inventories}
    cases = [
        replace(case, case=f"{role}/{case.case}", subject=f"{role}/{case.subject}")
        for role, inventory in found.items()
        for case in inventory.cases
    ]
    refused = [refusal for inventory in found.values() for refusal in inventory.refused]
    return Inventory(cases=tuple(cases), refused=tuple(refused), notes=(), kinds=kinds)


def _fingerprint(inventory: Inventory, data: DataConfig, mapper: Mapper) -> Work[Fingerprint]:
    """Figures of every synthetic volume by itself."""
    results: dict[int, CaseFingerprint | Refusal] = {}
    for position, result in mapper(partial(fingerprint_case, config=data), inventory.cases):
        results[position] = result
        yield Progress("fingerprint of the cohort", len(results), len(inventory.cases))
    found = [results[position] for position in sorted(results)]
    return Fingerprint(
        cases=tuple(one for one in found if isinstance(one, CaseFingerprint)),
        refused=(*inventory.refused, *(one for one in found if isinstance(one, Refusal))),
        notes=(),
        kinds=inventory.kinds,
    )


def _coarser(real: Sequence[CaseFingerprint], synthetic: Sequence[CaseFingerprint]) -> tuple[float, float, float]:
    """The coarser spacing along each axis: what only one side resolves cannot be compared."""
    medians = [np.median([case.spacing_mm for case in cases], axis=0) for cases in (real, synthetic)]
    i, j, k = np.maximum(*medians).round(4).tolist()
    return i, j, k


def _sides(real: Fingerprint, seed: int, train_known: bool) -> Split:
    """The real scans' sides: what was trained on is the train side, where it is known."""
    subjects = stratifying_covariates(real)
    if not train_known:
        return assign_sides(None, subjects, UNKNOWN_TRAIN, seed)
    trained: dict[str, Side] = {subject: "train" for subject in subjects if subject.startswith("train/")}
    others = {subject: covariates for subject, covariates in subjects.items() if subject not in trained}
    split = assign_sides(None, others, KNOWN_TRAIN, seed)
    kept: dict[str, Side] = {name: "validation" if side == "train" else side for name, side in split.sides.items()}
    return split.model_copy(update={"sides": trained | kept})


def _one_side(synthetic: Fingerprint) -> Split:
    """A cohort has no sides; its data set asks for one."""
    sides: dict[str, Side] = {case.subject: "holdout" for case in synthetic.cases}
    return Split(sides=sides, train=0, validation=0, seed=0)
