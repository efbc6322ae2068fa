"""What a task gives back for one scan: maps on the grid of the model, and figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

Kind = Literal["intensity", "difference", "labels", "uncertainty", "score"]
"""Of a map: intensities 0 to 1; a signed change of them; label values; a standard deviation, 0 and more; any number."""


@dataclass(frozen=True)
class GridMap:
    """A result on the grid of the contract."""

    kind: Kind
    array: NDArray[Any]
    """(i, j, k): float32, or uint8 label values."""
    meaning: str
    """One sentence for who opens the file."""


@dataclass(frozen=True)
class Outcome:
    """The result of one task on one scan."""

    maps: Mapping[str, GridMap]
    """By the name that the file will have; the first is what was asked for."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured on the way: how far the scan was fitted, scores, volumes in mm3."""
    notes: tuple[str, ...] = ()
    """What a person should know before using it."""
