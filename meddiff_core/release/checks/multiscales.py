"""The levels of an image or a label map as OME-Zarr names them, each held against the place that the contract gives it.

Viewers believe this copy of spacing and origin alone: a scale that is wrong here measures structures wrongly there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from meddiff_core.contract import Contract
from meddiff_core.errors import IntegrityError
from meddiff_core.release.ome import AXES, COHORT, Factors, affine_of, smaller_by
from meddiff_core.release.public_contract import is_close

KEYS = ("name", "axes", "datasets", "type", "metadata")
"""Of a multiscale. With transformations of its own it would move all levels at once."""
Groups = Mapping[str, dict[str, Any]]
"""Attributes of groups by their paths."""


@dataclass(frozen=True)
class Levels:
    """An image or a label map and its smaller copies."""

    paths: tuple[str, ...]
    factors: tuple[Factors, ...]
    """Downsampling of each along z, y, x."""


def labels_of(groups: Groups, contract: Contract) -> tuple[Levels | None, list[str]]:
    """The label maps, and what is wrong with the meaning of their values; None where the contract has no labels.

    Raises:
        IntegrityError: as `levels_of`.
    """
    if not contract.labels:
        return None, []
    (name,) = _names_of_labels(groups)
    return levels_of(f"labels/{name}/", groups, contract), _check_meaning(groups[f"labels/{name}"], contract)


def _names_of_labels(groups: Groups) -> list[str]:
    ome = groups.get("labels", {}).get("ome")
    names = ome.get("labels") if isinstance(ome, dict) else None
    if not isinstance(names, list) or len(names) != 1 or f"labels/{names[0]}" not in groups:
        raise IntegrityError(f"{COHORT}/labels: must list one group of label maps, lists {names!r}")
    return names


def levels_of(group: str, groups: Groups, contract: Contract) -> Levels:
    """The levels that a group's multiscales name, each where contract and level put it.

    Raises:
        IntegrityError: they are not the levels of one image with the axes of a release, or lie elsewhere.
    """
    where = f"{COHORT}/{group}".rstrip("/")
    try:
        (scale,) = groups[group.rstrip("/")]["ome"]["multiscales"]
        axes = [(axis["name"], axis.get("unit")) for axis in scale["axes"]]
        datasets = [(dataset["path"], dataset["coordinateTransformations"]) for dataset in scale["datasets"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{where}: must be an OME-Zarr with multiscales: {type(error).__name__}") from error
    if unknown := sorted(scale.keys() - set(KEYS)):
        raise IntegrityError(f"{where}: must have {', '.join(KEYS)} in multiscales alone, has {', '.join(unknown)}")
    if axes != [(AXES[0], None), *((axis, "millimeter") for axis in AXES[1:])]:
        raise IntegrityError(f"{where}: must have the axes {AXES} in millimetres, has others")
    if not 1 <= len(datasets) <= 8 or not all(isinstance(path, str) for path, _ in datasets):
        raise IntegrityError(f"{where}: must have 1 to 8 levels, has {len(datasets)}")
    factors = [_factors(contract, level) for level in range(len(datasets))]
    for (path, found), factor in zip(datasets, factors, strict=True):
        if fault := _fault_of_place(found, contract, factor):
            raise IntegrityError(f"{where}: the place of {path} must be that of the contract, {fault}")
    return Levels(tuple(group + path for path, _ in datasets), tuple(factors))


def _factors(contract: Contract, level: int) -> Factors:
    x, y, z = (factor**level for factor in smaller_by(contract))
    return z, y, x


def _fault_of_place(found: Any, contract: Contract, factors: Factors) -> str | None:
    """Of the scale and translation of a level in world coordinates; None if they are right."""
    spacing = np.array(contract.spacing_mm[::-1])
    origin = affine_of(contract)[:3, 3][::-1] + spacing * (np.array(factors) - 1) / 2
    wanted = {"scale": [1.0, *(spacing * factors)], "translation": [0.0, *origin]}
    if not isinstance(found, list) or [type(one) for one in found] != [dict, dict]:
        return "has not two transformations"
    for one, (kind, values) in zip(found, wanted.items(), strict=True):
        if one.keys() != {"type", kind} or one["type"] != kind or not is_close(one[kind], values):
            return f"the {kind} is {one.get(kind)!r} instead of {[round(float(value), 6) for value in values]}"
    return None


def _check_meaning(attributes: Mapping[str, Any], contract: Contract) -> list[str]:
    """Whether label values mean in the label maps what they mean in the contract."""
    try:
        rows = attributes["ome"]["image-label"]["properties"]
        names = [(row["name"], row["label-value"]) for row in rows]
    except (KeyError, TypeError) as error:
        return [f"{COHORT}/labels: must say what each value means: {type(error).__name__}"]
    wanted = [(name, value) for value, name in enumerate(contract.labels, start=1)]
    return [] if names == wanted else [f"{COHORT}/labels: the values must mean what they mean in the contract, do not"]
