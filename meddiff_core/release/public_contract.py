"""The contract as the store of a release states it, and the affine beside it: held against each other before use.

A reader believes both; a spacing, a size or an affine of another kind would end in a traceback or put voxels in
another place, and a size that no disk holds would take memory for it.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.errors import IntegrityError
from meddiff_core.release.bounded import first_fault
from meddiff_core.release.ome import COHORT, affine_of

LARGEST_VOLUME = 1 << 29
"""Bytes of a decoded volume: a CT of 640 voxels along each axis."""
Length = Annotated[int, Field(ge=1, le=1 << 31)]


class _Intensity(BaseModel):
    modality: Literal["MR", "CT"]
    low: float
    high: float


class PublicCondition(BaseModel):
    """Name of a condition, and the label group whose volume it is."""

    name: str
    volume_of: str | None = None


class PublicContract(BaseModel):
    """What readers and verification need of the contract in the store's attributes."""

    spacing_mm: Any
    size: tuple[Length, Length, Length]
    intensity: _Intensity
    labels: dict[str, int]
    conditions: list[PublicCondition] = []


def read_public_contract(attributes: Mapping[str, Any]) -> tuple[Contract, tuple[PublicCondition, ...]]:
    """Grid, range and labels as far as they are public, and the conditions.

    Raises:
        IntegrityError: the attributes of the store hold no contract, or one that no release has.
    """
    try:
        public = PublicContract.model_validate_json(json.dumps(attributes.get("contract")), strict=True)
        contract = Contract(
            spacing_mm=public.spacing_mm,
            size=public.size,
            intensity=IntensityMapping(**public.intensity.model_dump()),
            mask="none",
            labels={name: (value,) for name, value in public.labels.items()},
            conditions=(),
        )
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}: contract.{first_fault(error)}") from error
    _check_contract(public, contract)
    return contract, tuple(public.conditions)


def _check_contract(public: PublicContract, contract: Contract) -> None:
    if list(public.labels.values()) != list(range(1, len(public.labels) + 1)) or len(public.labels) > 255:
        raise IntegrityError(f"{COHORT}: contract.labels must be numbered from 1 to at most 255, are not")
    if not all(0 < spacing < 1e4 for spacing in contract.spacing_mm):
        raise IntegrityError(f"{COHORT}: contract.spacing_mm must be > 0 mm, is {contract.spacing_mm}")
    if (size := 2 * math.prod(contract.size)) > LARGEST_VOLUME:
        raise IntegrityError(f"{COHORT}: contract.size must make at most {LARGEST_VOLUME} bytes, makes {size}")


def public_attributes(document: Any) -> dict[str, Any]:
    """Contract and affine in the zarr.json of a store, checked.

    Raises:
        IntegrityError: they are missing, or are not those of a release.
    """
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict):
        raise IntegrityError(f"{COHORT} must give contract and affine, gives no attributes")
    contract, _ = read_public_contract(attributes)
    check_affine(attributes, contract)
    return {name: attributes[name] for name in ("contract", "affine")}


def check_affine(attributes: Mapping[str, Any], contract: Contract) -> None:
    """Whether the affine says the same as spacing and size.

    Raises:
        IntegrityError: it does not.
    """
    if not is_close(attributes.get("affine"), affine_of(contract)):
        raise IntegrityError(f"{COHORT}: the affine must be that of the contract's spacing and size, is another")


def is_close(found: Any, wanted: Any) -> bool:
    """Whether something that was read are these numbers."""
    try:
        numbers = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return numbers.shape == np.shape(wanted) and bool(np.allclose(numbers, wanted, rtol=1e-9, atol=1e-9))
