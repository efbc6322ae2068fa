"""Dice coefficient of two label maps, label by label."""

import numpy as np
from numpy.typing import NDArray

from meddiff_core.types import LabelArray


def dice(first: LabelArray, second: LabelArray, groups: int) -> NDArray[np.float64]:
    """(groups,) Dice coefficient of each label value from 1 on; NaN where neither map has it."""
    both, *sizes = (
        np.bincount(labels.ravel(), minlength=groups + 1)[1 : groups + 1]
        for labels in (first[first == second], first, second)
    )
    total = sum(sizes)
    return np.where(total > 0, 2 * both / np.maximum(1, total), np.nan)
