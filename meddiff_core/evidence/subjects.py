"""Whose each volume is: a number per subject, one volume of each, one figure of each.

Two scans of one subject are not two subjects. Whatever counts subjects, resamples them or asks how many stand behind a
figure does it by these, or its interval would be too narrow.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.contract import Condition
from meddiff_core.evidence.intervals import Matrix


def numbered(subjects: Sequence[str] | None, rows: int) -> NDArray[np.int64]:
    """(rows,) a number from 0 per row, the same for those of one subject; each row is its own if none are named."""
    return np.arange(rows) if subjects is None else np.unique(list(subjects), return_inverse=True)[1]


def one_of_each(subjects: Sequence[str] | None, rows: int, seed: int) -> NDArray[np.int64]:
    """One random row of each subject, in order.

    Scans of one subject are not exchangeable with scans of others, on which the false alarm rate rests; one scan of
    each subject is (Dunn et al. 2022).
    """
    numbers = numbered(subjects, rows)
    order = np.random.default_rng([seed, 2]).permutation(rows)
    return np.sort(order[np.unique(numbers[order], return_index=True)[1]])


def first_of_each(conditions: Sequence[Condition], subjects: Sequence[str]) -> list[Condition]:
    """The first row of each subject: attacks succeed on subjects, not on visits."""
    return list(dict(zip(reversed(subjects), reversed(conditions), strict=True)).values())


def mean_by_subject(values: Matrix, subjects: Sequence[str]) -> Matrix:
    """(n, d) figures of volumes to (subjects, d), subjects sorted by name.

    NaN counts as not known; what no scan of a subject knows stays NaN.
    """
    return pd.DataFrame(values).groupby(numbered(subjects, len(values))).mean().to_numpy()
