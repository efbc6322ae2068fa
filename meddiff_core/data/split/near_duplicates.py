"""Scans of nearly equal content under two subjects: one head that was saved twice, or one person under two names.

Voxels that differ by noise, a shift or another compression escape a digest. Where such a pair lies on two sides of
the split, the model has seen what is held out, and every figure of the audit flatters. Scans are compared by their
thumbnails, less the cohort's mean and its few main modes of variation, without which all heads are alike.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meddiff_core.artefacts import write_text
from meddiff_core.data.split.sides import Side
from meddiff_core.types import FloatArray

FEWEST_SCANS = 8
"""Fewer show no mean, and not what correlation is usual."""
MODES, SCANS_PER_MODE = 8, 20
"""Principal components that are taken away at most, and scans for each: size, pose and contrast make strangers alike.
Of copies of 24 heads with noise, other contrast, blur, or turned by 4 degrees, 15 were found without this and 21 with
it, and no strangers."""
LISTED, LISTED_WITHOUT_MODES = 0.5, 0.8
"""Correlation below which no pair is listed, however unusual it is; more where fewer modes could be taken away."""
MOST_STDS = 5.0
"""Standard deviations that a listed pair lies above what is usual for the nearest scan of somebody else."""
MAD_TO_STD = 1.4826
"""For normal values, standard deviation over median absolute deviation."""
NEIGHBOURS = 8
"""Nearest scans of other subjects that are looked at for each scan."""
SAMPLE = 2000
"""Scans that the components are fitted on."""
BLOCK = 1024
"""Scans that are compared with all others at a time."""


@dataclass(frozen=True)
class NearDuplicate:
    """Two scans of two subjects that are more alike than scans of two subjects usually are."""

    cases: tuple[str, str]
    subjects: tuple[str, str]
    sides: tuple[Side, Side]
    correlation: float
    """Of what sets them apart from the cohort."""

    @property
    def across(self) -> bool:
        """Whether they lie on two sides of the split."""
        return self.sides[0] != self.sides[1]


def find_near_duplicates(
    thumbnails: NDArray[Any], cases: Sequence[str], subjects: Sequence[str], sides: Mapping[str, Side]
) -> tuple[NearDuplicate, ...]:
    """Pairs of scans of two subjects that are far more alike than is usual here, the most alike first.

    `thumbnails` is (n, v), one row for each of `cases`; `sides` is by subject. What is usual is measured by the second
    nearest scan of another subject, which is a stranger's even where every scan is there twice.
    """
    if len(cases) < FEWEST_SCANS or len(set(subjects)) < 3:
        return ()
    owners = np.unique(list(subjects), return_inverse=True)[1]
    modes = min(MODES, len(cases) // SCANS_PER_MODE, thumbnails.shape[1] - 1)
    correlation, neighbour = _nearest_strangers(_deviations(thumbnails, modes), owners)
    rows, places = np.nonzero(correlation >= max(_unusual(correlation[:, 1]), _least(modes)))
    pairs = {frozenset((a, b)): value for a, b, value in zip(
        rows.tolist(), neighbour[rows, places].tolist(), correlation[rows, places].tolist(), strict=True
    )}  # fmt: skip
    found = [_pair(sorted(pair, key=cases.__getitem__), r, cases, subjects, sides) for pair, r in pairs.items()]
    return tuple(sorted(found, key=lambda pair: (-pair.correlation, pair.cases)))


def _pair(
    rows: Sequence[int], correlation: float, cases: Sequence[str], subjects: Sequence[str], sides: Mapping[str, Side]
) -> NearDuplicate:
    a, b = rows
    pair = subjects[a], subjects[b]
    return NearDuplicate((cases[a], cases[b]), pair, (sides[pair[0]], sides[pair[1]]), round(correlation, 4))


def _deviations(thumbnails: NDArray[Any], modes: int) -> FloatArray:
    """(n, v) of length 1: what sets each thumbnail, freed of its brightness and contrast, apart from the cohort."""
    units = _unit(thumbnails.astype(np.float32))
    units -= units.mean(0)
    if not modes:
        return _unit(units)
    axes = np.linalg.svd(units[:: -(-len(units) // SAMPLE)], full_matrices=False)[2][:modes]
    return _unit(units - units @ axes.T @ axes)


def _unit(rows: FloatArray) -> FloatArray:
    """Rows less their own mean, of length 1, or 0 where nothing varies."""
    centred = rows - rows.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.where(length > 1e-6, centred / np.maximum(length, 1e-6), 0).astype(np.float32)


def _nearest_strangers(units: FloatArray, owners: NDArray[np.intp]) -> tuple[FloatArray, NDArray[np.intp]]:
    """(n, k) largest correlations with scans of other subjects, falling, and the rows of those scans."""
    kept = min(NEIGHBOURS, len(units))
    correlation = np.empty((len(units), kept), np.float32)
    neighbour = np.empty((len(units), kept), np.intp)
    for start in range(0, len(units), BLOCK):
        block = slice(start, start + BLOCK)
        alike = units[block] @ units.T
        alike[owners[block, None] == owners] = -1
        nearest = np.argpartition(-alike, kept - 1, axis=1)[:, :kept]
        values = np.take_along_axis(alike, nearest, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        correlation[block] = np.take_along_axis(values, order, 1)
        neighbour[block] = np.take_along_axis(nearest, order, 1)
    return correlation, neighbour


def _least(modes: int) -> float:
    return LISTED_WITHOUT_MODES + (LISTED - LISTED_WITHOUT_MODES) * modes / MODES


def _unusual(usual: FloatArray) -> float:
    """The correlation that lies far above the usual ones, on the scale on which they are normal (Fisher 1915)."""
    z = np.arctanh(np.clip(usual, -0.999999, 0.999999))
    middle = float(np.median(z))
    spread = MAD_TO_STD * float(np.median(np.abs(z - middle)))
    return float(np.tanh(middle + MOST_STDS * spread))


def describe_near_duplicates(pairs: Sequence[NearDuplicate], file: str) -> list[str]:
    """What the plan says of the pairs that are listed in `file`: a line for each kind, none where there are none."""
    across = sum(pair.across for pair in pairs)
    kinds = (across, "lie on two sides of the split"), (len(pairs) - across, "lie on one side of the split")
    return [
        f"{_pairs(count)} of different subjects, nearly equal or of one person, {where}; listed in {file}, join those "
        "who are one person with data.same_subject"
        for count, where in kinds
        if count
    ]


def _pairs(count: int) -> str:
    return "1 pair of scans" if count == 1 else f"{count} pairs of scans"


def write_near_duplicates(path: Path, pairs: Sequence[NearDuplicate]) -> None:
    """A table of the pairs, those on two sides of the split first, for a person to look at. Stays in the study."""
    buffer = io.StringIO(newline="")
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(["subject", "same_subject", "case", "same_case", "side", "same_side", "correlation"])
    for pair in sorted(pairs, key=lambda pair: not pair.across):
        texts = [f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
                 for text in (*pair.subjects, *pair.cases)]  # fmt: skip
        lines.writerow([*texts, *pair.sides, f"{pair.correlation:.4f}"])
    write_text(path, buffer.getvalue())
