"""Which volumes of a release are meant: one by its number, some by a list, a mask, or what the table says of them.

A wrong number or a misspelt column is an error here, not a volume that nobody asked for.
"""

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.errors import ConfigurationError

Criterion = Any
"""A value; several of them in a list or set; or the lowest and highest number in a tuple, None for no end."""


def position_of(index: SupportsIndex, count: int) -> int:
    """The number of a volume, counted from the end if it is negative.

    Raises:
        TypeError: it is no whole number.
        IndexError: there is no such volume.
    """
    if isinstance(index, bool | np.bool_) or not hasattr(index, "__index__"):
        raise TypeError(
            f"a volume is named by one whole number, got {index!r}; take `dataset(indices=...)` for several"
        )
    number = operator.index(index)
    if not -count <= number < count:
        raise IndexError(f"the release has volumes 0 to {count - 1}, asked for {number}")
    return number % count


def positions_of(indices: Sequence[int] | NDArray[Any], count: int) -> tuple[int, ...]:
    """Numbers of volumes, from numbers or from a mask with a truth for each volume."""
    given = np.asarray(indices)
    if given.dtype == bool:
        if given.shape != (count,):
            raise ConfigurationError(f"a mask must have {count} truths, one a volume, has the shape {given.shape}")
        return tuple(np.flatnonzero(given).tolist())
    return tuple(position_of(index, count) for index in given.tolist())


def rows_where(table: pd.DataFrame, wanted: Mapping[str, Criterion]) -> list[int]:
    """Rows that fulfil every criterion, in their order. A missing value fulfils none.

    Raises:
        ConfigurationError: there is no such column, or its values cannot be compared with what is wanted.
    """
    fulfilled = np.ones(len(table), dtype=bool)
    for name, criterion in wanted.items():
        if name not in table:
            raise ConfigurationError(
                f"where: must name columns of the table ({', '.join(map(str, table))}), got {name!r}"
            )
        fulfilled &= _fulfils(table[name], criterion)
    return [int(row) for row in np.flatnonzero(fulfilled)]


def _fulfils(column: "pd.Series[Any]", criterion: Criterion) -> NDArray[np.bool_]:
    bounds = criterion if isinstance(criterion, tuple) else ()
    values = list(criterion) if isinstance(criterion, list | set | frozenset) else [criterion]
    numeric = pd.api.types.is_numeric_dtype(column)
    if bounds:
        if len(bounds) != 2 or not numeric or not all(end is None or isinstance(end, Real) for end in bounds):
            raise ConfigurationError(f"where: {column.name} must be a number from low to high, got {criterion!r}")
        low, high = (end if end is not None else sign * np.inf for end, sign in zip(bounds, (-1, 1), strict=True))
        return np.asarray(column.between(low, high), dtype=bool)
    if any(isinstance(value, str) == numeric for value in values):
        raise ConfigurationError(f"where: {column.name} holds {'numbers' if numeric else 'words'}, got {criterion!r}")
    return np.asarray(column.isin(values), dtype=bool)
