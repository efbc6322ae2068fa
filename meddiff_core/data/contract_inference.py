"""The contract that fits the training scans: grid, intensity mapping, labels and conditions.

Every figure says why it is what it is. The holdout is left out before anything is inferred: a grid or a range that
was fitted to it would already know something of what the audit must find unknown.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from meddiff_core.contract import (
    CategoricalCondition,
    ConditionSpec,
    ConditionValue,
    ContinuousCondition,
    Contract,
    IntensityMapping,
)
from meddiff_core.data.cohort import common_modality
from meddiff_core.data.fingerprint import PERCENTILES, CaseFingerprint, Fingerprint
from meddiff_core.data.grid import choose_grid
from meddiff_core.data.split.sides import Split
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.study import DataConfig, Study

FEWEST_SUBJECTS = 8
"""Fewer training subjects than this cannot teach a condition."""
LEAST_OF_WINDOW = 1 / 3
"""Of a window in Hounsfield units, that the foreground should hold."""


def infer_contract(fingerprint: Fingerprint, study: Study, device: str) -> tuple[Contract, dict[str, str]]:
    """The contract that fits the scans of a fingerprint (see `training_part`), and one sentence of reason per field.

    Raises:
        ConfigurationError: a size that the networks cannot halve, scans of both MR and CT, or a condition whose name a
            release needs for something else.
    """
    train = fingerprint.cases
    spacing, size, why = choose_grid(train, study, device)
    intensity, why_intensity = _intensity(train, study.data)
    labels, why_labels = _labels(train, study.data)
    conditions, why_conditions = _conditions(train, fingerprint.kinds)
    contract = Contract(
        spacing_mm=spacing, size=size, intensity=intensity, mask=study.data.mask, labels=labels, conditions=conditions
    )
    if conflicts := contract.name_conflicts():
        raise ConfigurationError(f"data.covariates.{conflicts[0]}")
    mask = {
        "none": "Every voxel is kept. Faces are not removed: heads that have theirs keep them, and the card says so.",
        "label": "Voxels outside the label map are 0.",
        "brain": "Only the brain is kept.",
    }
    reasons = {**why, "intensity": why_intensity, "mask": mask[study.data.mask], "labels": why_labels, **why_conditions}
    return contract, reasons


def training_part(fingerprint: Fingerprint, split: Split) -> Fingerprint:
    """The fingerprint with the scans of training subjects alone.

    Raises:
        DataRefused: there are none.
    """
    train = tuple(case for case in fingerprint.cases if split.sides[case.subject] == "train")
    if not train:
        subjects = len({case.subject for case in fingerprint.cases})
        raise DataRefused(f"split.train: must leave a training subject, leaves 0 of {subjects}")
    return fingerprint.model_copy(update={"cases": train})


def _intensity(train: Sequence[CaseFingerprint], data: DataConfig) -> tuple[IntensityMapping, str]:
    modality = data.modality or _common_modality(train)
    storage: Literal["uint8", "uint16"] = (
        "uint8" if all(case.integer and case.bits <= 8 for case in train) else "uint16"
    )
    depth = f"stored as {storage}, the training scans have up to {max(case.bits for case in train)} bits"
    darkest, _, brightest = (float(value) for value in np.median([case.percentiles for case in train], axis=0))
    if modality == "CT":
        low, high = data.window_hu
        mapping = IntensityMapping(modality="CT", low=low, high=high, storage=storage)
        held = f"the foreground of the median training scan lies between {darkest:.0f} and {brightest:.0f} HU"
        narrow = brightest - darkest < (high - low) * LEAST_OF_WINDOW
        wide = "; a narrower window would show more contrast" if narrow else ""
        return mapping, f"The window is data.window_hu; {held}{wide}; {depth}."
    percentiles = (PERCENTILES[0], PERCENTILES[-1])
    mapping = IntensityMapping(modality="MR", low=darkest, high=brightest, percentiles=percentiles, storage=storage)
    return (
        mapping,
        f"Each scan's own percentiles of its foreground become 0 and 1, so that scanners agree; units, as of a "
        f"quantitative map, are not kept; {depth}.",
    )


def _common_modality(train: Sequence[CaseFingerprint]) -> str:
    if (found := common_modality(train)) is None:
        counts = {name: sum(case.modality == name for case in train) for name in ("MR", "CT", None)}
        raise ConfigurationError(
            f"data.modality: must be given as MR or CT, {counts['MR']} scans look like MR, {counts['CT']} like CT, "
            f"{counts[None]} could be either"
        )
    return found


def _labels(train: Sequence[CaseFingerprint], data: DataConfig) -> tuple[dict[str, tuple[int, ...]], str]:
    values = sorted({value for case in train for value in case.label_values})
    if data.label_groups:
        labels = {name: tuple(sorted(group)) for name, group in data.label_groups.items()}
        kept = {value for group in labels.values() for value in group}
        outside = len(set(values) - kept)
        return labels, f"As the study says; {outside} label values of the training scans lie outside the groups."
    labels = {f"label_{value}": (value,) for value in values}
    return (
        labels,
        f"Every value of the training label maps is a group: {len(labels)}." if labels else "There are no label maps.",
    )


def _conditions(
    train: Sequence[CaseFingerprint], kinds: dict[str, str]
) -> tuple[tuple[ConditionSpec, ...], dict[str, str]]:
    specs: list[ConditionSpec] = []
    why = {}
    for name, kind in kinds.items():
        if reason := _why_dropped(train, name):
            why[f"conditions.{name}"] = f"Dropped: {reason}."
        else:
            specs.append(_spec(train, name, kind))
    kept = ", ".join(spec.name for spec in specs) or "none"
    return tuple(specs), {"conditions": f"Known and varying among the training subjects: {kept}.", **why}


def _known(train: Sequence[CaseFingerprint], name: str) -> list[ConditionValue]:
    return [value for case in train if (value := case.covariates.get(name)) is not None]


def _why_dropped(train: Sequence[CaseFingerprint], name: str) -> str | None:
    subjects = {case.subject for case in train if case.covariates.get(name) is not None}
    if len(subjects) < FEWEST_SUBJECTS:
        return f"known for {len(subjects)} training subjects, needs {FEWEST_SUBJECTS}"
    if len(set(_known(train, name))) == 1:
        return "the same for every training subject"
    return None


def _spec(train: Sequence[CaseFingerprint], name: str, kind: str) -> ConditionSpec:
    known = _known(train, name)
    if kind == "categorical":
        return CategoricalCondition(name=name, categories=tuple(sorted({str(value) for value in known})))
    numbers = np.array(known, np.float64)
    group = kind.removeprefix("volume of ") if kind.startswith("volume of ") else None
    low, high, mean, std = (float(figure) for figure in (numbers.min(), numbers.max(), numbers.mean(), numbers.std()))
    return ContinuousCondition(name=name, low=low, high=high, mean=mean, std=std, group=group)
