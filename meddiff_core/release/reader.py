"""Reading a release with numpy: the voxels that were written, or an error.

Nothing but the table is read when a release is opened; volumes are opened on first use, anew in every
process, so that a release travels into the workers of a loader, forked or spawned.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from meddiff_core.data.store import open_array, read_volume
from meddiff_core.errors import IntegrityError
from meddiff_core.release.manifest import Manifest, read_manifest
from meddiff_core.release.ome import COHORT, LABELS
from meddiff_core.release.participants_table import IDENTIFIER, TABLE

if TYPE_CHECKING:
    from meddiff_core.release.dataset import CohortDataset, Transform


class Release:
    """A release on disk. Volumes are (i, j, k), RAS+."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[tuple[int, str], zarr.Array[Any]] = {}

    def __len__(self) -> int:
        return self.manifest.samples

    def __repr__(self) -> str:
        return f"Release({self.manifest.name} {self.manifest.version}, {len(self)} volumes)"

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self.path,)

    @cached_property
    def manifest(self) -> Manifest:
        """What the release says of itself."""
        return read_manifest(self.path)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per volume, in the order of the volumes."""
        table = pd.read_parquet(self.path / TABLE)
        if len(table) != len(self):
            raise IntegrityError(f"{TABLE} must have {len(self)} rows, has {len(table)}")
        return table

    @cached_property
    def contract(self) -> dict[str, Any]:
        """Grid, intensities, labels and conditions of the volumes."""
        return dict(self._attributes["contract"])

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel index (i, j, k) to RAS mm; the same for every volume."""
        return np.asarray(self._attributes["affine"], dtype=np.float64)

    @property
    def labels(self) -> dict[str, int]:
        """Value in the label maps by name; empty without label maps."""
        return dict(self.contract["labels"])

    def image(self, index: int) -> NDArray[np.float32]:
        """Volume `index`: HU, or for MR 0 to 1000.

        Raises:
            IntegrityError: its bytes are missing or altered.
        """
        return np.ascontiguousarray(self._read("image", index).T, dtype=np.float32)

    def label(self, index: int) -> NDArray[np.uint8] | None:
        """Label map of volume `index`, None where the release has none."""
        return np.ascontiguousarray(self._read(f"labels/{LABELS}/0", index).T) if self.labels else None

    def covariates(self, index: int) -> dict[str, float | int | str]:
        """The other columns of row `index`. Missing: NaN for a number, `n/a` for a word."""
        row = {name: self.table[name].iloc[index] for name in self.table.columns if name != IDENTIFIER}
        return {name: _plain(value, pd.api.types.is_numeric_dtype(self.table[name])) for name, value in row.items()}

    def dataset(self, transform: "Transform | None" = None, indices: Sequence[int] | None = None) -> "CohortDataset":
        """A map-style torch Dataset of all volumes, or of those at `indices`."""
        from meddiff_core.release.dataset import CohortDataset  # only here is torch needed

        return CohortDataset(self, transform, tuple(range(len(self)) if indices is None else indices))

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return dict(zarr.open_group(self.path / COHORT, mode="r").attrs)

    def _read(self, name: str, index: int) -> NDArray[Any]:
        key = (os.getpid(), name)
        if key not in self._opened:
            self._opened[key] = open_array(self.path / COHORT, name)
        return read_volume(self._opened[key], index)


def _plain(value: Any, numeric: bool) -> float | int | str:
    if pd.isna(value):
        return float("nan") if numeric else "n/a"
    plain: float | int | str = value.item() if isinstance(value, np.generic) else value
    return plain
