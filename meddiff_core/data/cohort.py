"""Each scan held against all others: what is far out is listed with its figure, or refused where it would harm them.

A file in metres among files in millimetres would stretch everybody's grid, and a CT among MRs would decide how
all are mapped. A scan is far out if it is far from the median *and* few others are like it: two scanners, two
fields of view, or children among adults make a second group and no outliers. Figures of the holdout are used as
well, to refuse and to warn; nothing is fitted to them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from meddiff_core.data.modality import Modality
from meddiff_core.types import Note, Refusal

if TYPE_CHECKING:
    from meddiff_core.data.fingerprint import CaseFingerprint  # which asks here for its cohort's opinion

FEWEST_SCANS = 8
"""Fewer have no usual figure."""
MOST_ALIKE = 0.1
"""A group of a larger share of the scans is no outlier."""
MAD_TO_STD = 1.4826
MOST_STDS = 6.0
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """What scans of one study share, more or less."""

    name: str
    value: Callable[["CaseFingerprint"], float]
    listed: float
    """A scan this far from the median is listed: a factor, or a difference."""
    refused: float | None = None
    factor: bool = True
    """Whether values are compared by their ratio, not by their difference."""
    unit: str = ""


def _along(
    name: str, of: Callable[["CaseFingerprint"], Sequence[float]], listed: float, refused: float
) -> list[Figure]:
    return [
        Figure(f"{name} along {axis}", lambda case, n=n: of(case)[n], listed, refused, unit=" mm")  # type: ignore[misc]
        for n, axis in enumerate("ijk")
    ]


FIGURES: tuple[Figure, ...] = (
    *_along("foreground", lambda case: case.extent_mm, 2.0, 5.0),
    *_along("field of view", lambda case: np.multiply(case.shape, case.spacing_mm).tolist(), 3.0, 8.0),
    *_along("voxel size", lambda case: case.spacing_mm, 4.0, 20.0),
    Figure("range of intensities", lambda case: case.percentiles[-1] - case.percentiles[0], 10.0),
    Figure("share of foreground", lambda case: case.foreground, 0.35, factor=False),
)


def against_cohort(
    cases: Sequence["CaseFingerprint"], modality: Modality | None = None
) -> tuple[list["CaseFingerprint"], list[Refusal], list[Note]]:
    """Scans that may stay, those refused, and notes on what is far out; few scans are taken as they are.

    A modality that a person stated is not doubted.
    """
    if len(cases) < FEWEST_SCANS:
        return list(cases), [], []
    refused = _together((case, text) for case, text, harms in _far_out(cases) if harms)
    refused |= {} if modality else _other_modality(cases)
    kept = [case for case in cases if case.case not in refused]
    # Again without what was refused: it may have hidden what is smaller.
    listed = _together([*((case, text) for case, text, _ in _far_out(kept)), *_unlike(kept)])
    refusals = [Refusal(case, text) for case, text in refused.items()]
    return kept, refusals, [Note(case, text) for case, text in listed.items()]


def _together(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """All that is said of one case as one text."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for case, text in found:
        texts[case].append(text)
    return {case: "; ".join(said) for case, said in texts.items()}


def _other_modality(cases: Sequence["CaseFingerprint"]) -> dict[str, str]:
    """Reason by case for the few of another modality than all others."""
    common, counts = common_modality(cases), Counter(case.modality for case in cases)
    if common is None:
        return {}
    return {
        case.case: f"looks like {case.modality}, {counts[common]} of {len(cases)} scans like {common}"
        for case in cases
        if case.modality not in (None, common)
    }


def common_modality(cases: Sequence["CaseFingerprint"]) -> Modality | None:
    """That of all scans but a few; None where a person must say it. Those that leave it open follow the others."""
    counts = Counter(case.modality for case in cases if case.modality is not None)
    if not counts:
        return None
    (most, count), other = counts.most_common(1)[0], counts.total() - counts.most_common(1)[0][1]
    few = other == 0 or (len(cases) >= FEWEST_SCANS and other <= max(1, MOST_ALIKE * len(cases)))
    return most if few and 2 * count > len(cases) else None


def _far_out(cases: Sequence["CaseFingerprint"]) -> Iterator[tuple[str, str, bool]]:
    """Case, text, and whether it would harm the others."""
    for figure in FIGURES if len(cases) >= FEWEST_SCANS else ():
        values = np.array([figure.value(case) for case in cases], np.float64)
        usual = f"the median of {len(cases)} scans is {np.median(values):.4g}{figure.unit}"
        scale = np.log if figure.factor else np.asarray
        scaled = scale(np.maximum(values, 1e-9))
        harmful = np.abs(scaled - np.median(scaled)) > scale(figure.refused or np.inf)
        for n in map(int, np.flatnonzero(outliers(scaled, float(scale(figure.listed))))):
            text = f"its {figure.name} is {values[n]:.4g}{figure.unit}, {usual}"
            yield cases[n].case, text, bool(harmful[n])


def outliers(values: Vector, limit: float) -> NDArray[np.bool_]:
    """Which are farther from the median than a limit and than what is usual, and have few others near them."""
    away = np.abs(values - np.median(values))
    far = away > max(limit, MOST_STDS * MAD_TO_STD * float(np.median(away)))
    near = np.array([np.count_nonzero(np.abs(values - value) <= limit / 2) for value in values])
    return np.asarray(far & (near <= max(1, MOST_ALIKE * len(values))))


def _unlike(cases: Sequence["CaseFingerprint"]) -> list[tuple[str, str]]:
    """Scans whose shape at low resolution is not that of the others."""
    shown = [case for case in cases if case.thumbnail]
    if len(shown) < FEWEST_SCANS:
        return []
    alike = correlations([case.thumbnail for case in shown])
    usual = float(np.median(alike))
    return [
        (shown[n].case, f"its correlation with the mean of all scans is {alike[n]:.2f}, usual is {usual:.2f}")
        for n in map(int, np.flatnonzero(outliers(alike, 0.4) & (alike < usual)))
    ]


def correlations(thumbnails: Sequence[str]) -> Vector:
    """Of each scan with the mean of all, at low resolution."""
    stack = np.array([np.frombuffer(bytes.fromhex(text), np.uint8) for text in thumbnails], np.float64)
    stack -= stack.mean(axis=1, keepdims=True)
    stack /= np.maximum(np.linalg.norm(stack, axis=1, keepdims=True), 1e-9)
    mean = stack.mean(axis=0)
    return np.asarray(stack @ mean / max(float(np.linalg.norm(mean)), 1e-9))
