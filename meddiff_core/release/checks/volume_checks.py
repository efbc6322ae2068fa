"""Every volume of a release decoded, and what can be computed from it compared with what the release says of it.

A swapped image keeps its hash right once it is hashed again, but not its smaller copy; a swapped label map has other
volumes than its row. What is consistent in itself, only the signature and the digests of voxels in the table can tell.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.data.store import digest_volume
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.release.checks.layout import Layout
from meddiff_core.release.checks.multiscales import Levels
from meddiff_core.release.ome import COHORT, halve_image, halve_label
from meddiff_core.types import Progress

DIGESTS = {"image_sha256": "image", "label_sha256": "label map"}
"""Columns that may hold a digest of the voxels (see `digest_volume`), of the arrays as they lie in the store."""
WITHIN_MM3 = 1e-6
"""Relative, for volumes that a table rounds in its last digit."""
MOST_FAULTS = 100


def share_of(text: str) -> float:
    """`5%` or `0.05` as a share above 0 and up to 1.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ConfigurationError(f"--sample: must be a share such as 5%, is {text!r}")
    return share


def choose_volumes(samples: int, share: float, seed: int) -> list[int]:
    """A share of the volumes, at least one, the same ones for the same seed."""
    if share >= 1:
        return list(range(samples))
    chosen = np.random.default_rng(seed).choice(samples, max(1, round(share * samples)), replace=False)
    return sorted(int(index) for index in chosen)


def check_volumes(layout: Layout, table: pd.DataFrame, indices: Sequence[int]) -> Generator[Progress, None, list[str]]:
    """What is wrong with some of the volumes, one line each."""
    faults: list[str] = []
    values = measured_labels(layout, [str(name) for name in table.columns])
    for done, index in enumerate(indices, start=1):
        try:
            faults += _check_volume(layout, table, index, values)
        except IntegrityError as error:
            faults.append(str(error))
        yield Progress("checking volumes", done, len(indices))
        if len(faults) >= MOST_FAULTS:
            return [*faults, f"stopped after {done} of {len(indices)} volumes"]
    return faults


def measured_labels(layout: Layout, columns: Sequence[str]) -> dict[str, int]:
    """Label value by column that holds its volume in mm3, as measured on the synthetic label map.

    A condition that asks for a volume has its measured value in `measured_NAME`; every other group's is in
    `GROUP_mm3`.
    """
    labels = {name: value for value, name in enumerate(layout.contract.labels, start=1)}
    asked = {condition.name: condition.volume_of for condition in layout.conditions}
    found = {f"{group}_mm3": value for group, value in labels.items() if f"{group}_mm3" not in asked}
    found |= {f"measured_{name}": labels[group] for name, group in asked.items() if group in labels}
    return {name: value for name, value in found.items() if name in columns}


def _check_volume(layout: Layout, table: pd.DataFrame, index: int, values: dict[str, int]) -> Iterator[str]:
    image = _read(layout, layout.image, index)
    yield from _check_range(layout, image, index)
    yield from _check_pyramid(layout, layout.image, image, index, halve_image)
    yield from _check_digest(table, "image_sha256", image, index)
    if layout.labels is None:
        return
    label = _read(layout, layout.labels, index)
    if (largest := int(label.max())) > len(layout.contract.labels):
        path = layout.labels.paths[0]
        yield f"{COHORT}/{path}: volume {index} must have values 0 to {len(layout.contract.labels)}, has {largest}"
    yield from _check_pyramid(layout, layout.labels, label, index, halve_label)
    yield from _check_digest(table, "label_sha256", label, index)
    yield from _check_measured(layout, table, label, index, values)


def _read(layout: Layout, levels: Levels, index: int, level: int = 0) -> NDArray[Any]:
    return np.asarray(layout.read_numbers(levels.paths[level], (index, 0, 0, 0))[0])


def _check_range(layout: Layout, image: NDArray[Any], index: int) -> Iterator[str]:
    intensity = layout.contract.intensity
    low, high = int(image.min()), int(image.max())
    if low < math.floor(intensity.low) or high > math.ceil(intensity.high):
        path, wanted = layout.image.paths[0], f"{intensity.low:g} to {intensity.high:g}"
        yield f"{COHORT}/{path}: volume {index} must have intensities of {wanted}, has {low} to {high}"


def _check_pyramid(layout: Layout, levels: Levels, full: NDArray[Any], index: int, halve: Any) -> Iterator[str]:
    for level, (path, factors) in enumerate(zip(levels.paths, levels.factors, strict=True)):
        if level and not np.array_equal(_read(layout, levels, index, level), halve(full, factors)):
            yield f"{COHORT}/{path}: volume {index} must be the smaller copy of {levels.paths[0]}, is another"


def _check_digest(table: pd.DataFrame, column: str, volume: NDArray[Any], index: int) -> Iterator[str]:
    if column in table and str(table[column].iloc[index]) != digest_volume(volume):
        yield f"{column}: the {DIGESTS[column]} of volume {index} must have the digest in the table, has another"


def _check_measured(
    layout: Layout, table: pd.DataFrame, label: NDArray[Any], index: int, values: dict[str, int]
) -> Iterator[str]:
    counts = np.bincount(label.ravel(), minlength=256)
    for column, value in values.items():
        wanted, found = float(counts[value]) * layout.contract.voxel_mm3, table[column].iloc[index]
        if not isinstance(found, int | float | np.number) or not abs(found - wanted) <= WITHIN_MM3 * max(wanted, 1):
            yield f"{column}: must be {wanted:g} in row {index}, as its label map measures, is {found!s:.40}"
