"""Reading a release with numpy: the voxels that were written, or an error.

Nothing but manifest and table is read when a release is opened; volumes are read on demand, in whatever
process asks, so that a release travels into the workers of a loader, forked or spawned. Neither torch nor
scipy is needed before `dataset()` is called.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from meddiff_core.data.store import chunk_key, decode_volume
from meddiff_core.errors import IntegrityError, MeddiffError
from meddiff_core.objects.cache import ObjectCache
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.location import Location, RemotePath
from meddiff_core.objects.source import ObjectSource
from meddiff_core.objects.store import CheckedStore
from meddiff_core.release.bounded import parse_json
from meddiff_core.release.checks.parquet_bounds import parse_table
from meddiff_core.release.manifest import Manifest, digest_manifest, read_manifest
from meddiff_core.release.ome import COHORT, LABELS
from meddiff_core.release.participants_table import IDENTIFIER, TABLE
from meddiff_core.release.public_contract import public_attributes
from meddiff_core.release.selection import Criterion, position_of, positions_of, rows_where

if TYPE_CHECKING:
    from meddiff_core.release.dataset import CohortDataset, CohortStream, Transform

IMAGE, LABEL = "image", f"labels/{LABELS}/0"
LARGE = 2**18
"""Voxels from which volumes of a batch are read side by side."""
Result = TypeVar("Result")
Indices = Sequence[int] | NDArray[Any]
"""Numbers of volumes, or a mask with a truth for each."""


class Release:
    """A release in a folder or behind a URL. Volumes are (i, j, k), RAS+; a negative index counts from the end.

    Each file is held against the manifest when a process first reads it, what comes over a network each time.
    `check=False` leaves that out; what was flipped inside a chunk is found even then.
    """

    def __init__(self, source: ObjectSource | Path, check: bool = True, cache: ObjectCache | None = None) -> None:
        self.source = LocalObjects(source) if isinstance(source, Path) else source
        self.check, self.cache = check, cache
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def __len__(self) -> int:
        return self.manifest.samples

    def __repr__(self) -> str:
        return f"Release({self.manifest.name} {self.manifest.version}, {len(self)} volumes)"

    def __reduce__(self) -> tuple[type, tuple[ObjectSource, bool, ObjectCache | None]]:
        return type(self), (self.source, self.check, self.cache)

    @property
    def path(self) -> Location:
        """Where it lies."""
        return self.source.folder if isinstance(self.source, LocalObjects) else RemotePath(self.source)

    @cached_property
    def manifest(self) -> Manifest:
        """What the release says of itself."""
        return read_manifest(self.path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, and so the name of every byte of the release."""
        return digest_manifest(self.path)

    @cached_property
    def store(self) -> CheckedStore:
        """The volumes as a read-only store for zarr and xarray, such as `xarray.open_zarr(release.store)`."""
        return CheckedStore(self._files, COHORT)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per volume, in the order of the volumes."""
        table = parse_table(self._files.read(TABLE), TABLE, len(self))
        if IDENTIFIER not in table or not table[IDENTIFIER].is_unique:
            raise IntegrityError(f"{TABLE}: must name each volume in {IDENTIFIER}, by a name of its own")
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

    def image(self, index: SupportsIndex) -> NDArray[np.float32]:
        """Volume `index`: HU, or for MR 0 to 1000. The array is in Fortran order, as nibabel's are.

        Raises:
            IntegrityError: its bytes are missing or altered.
        """
        return self._read(IMAGE, index).T.astype(np.float32)

    def integers(self, index: SupportsIndex) -> NDArray[np.int16]:
        """Image `index` in the integers that it was released in."""
        if (kind := self.array(IMAGE).dtype) != np.int16:
            raise IntegrityError(f"{COHORT}/{IMAGE} must hold int16, holds {kind}")
        return self._read(IMAGE, index).T

    def label(self, index: SupportsIndex) -> NDArray[np.uint8] | None:
        """Label map of volume `index`, None where the release has none."""
        return self._read(LABEL, index).T if self.labels else None

    def images(self, indices: Indices | None = None) -> NDArray[np.float32]:
        """Volumes (n, i, j, k), read side by side by the processor's cores; all of them by default."""
        return self._read_many(IMAGE, indices, np.float32)

    def label_maps(self, indices: Indices | None = None) -> NDArray[np.uint8] | None:
        """Label maps (n, i, j, k), None where the release has none."""
        return self._read_many(LABEL, indices, np.uint8) if self.labels else None

    def participant_id(self, index: SupportsIndex) -> str:
        """Name of volume `index` in the table."""
        return str(self._columns[IDENTIFIER][position_of(index, len(self))])

    def covariates(self, index: SupportsIndex) -> dict[str, float | int | str]:
        """The other columns of row `index`. Missing: NaN for a number, `n/a` for a word."""
        row = position_of(index, len(self))
        return {name: values[row].item() for name, values in self._columns.items() if name != IDENTIFIER}

    def where(self, **wanted: Criterion) -> list[int]:
        """Volumes by what the table says of them, such as `where(sex="F", age=(60, None))`.

        A column equals a value, or one of those in a list, or lies between the two numbers of a tuple.
        """
        return rows_where(self.table, wanted)

    def dataset(
        self,
        transform: "Transform | None" = None,
        indices: Indices | None = None,
        where: Mapping[str, Criterion] | None = None,
    ) -> "CohortDataset":
        """A map-style torch Dataset of all volumes, or of those at `indices` that are as `where` says."""
        datasets = _torch_datasets()
        chosen: Sequence[int] = range(len(self)) if indices is None else positions_of(indices, len(self))
        if where:
            fitting = set(self.where(**where))
            chosen = tuple(index for index in chosen if index in fitting)
        data: CohortDataset = datasets.CohortDataset(self, transform, chosen)
        return data

    def stream(
        self,
        transform: "Transform | None" = None,
        indices: Indices | None = None,
        where: Mapping[str, Criterion] | None = None,
        block: int = 16,
        shuffle: bool = True,
    ) -> "CohortStream":
        """The same as an iterable torch Dataset, which reads `block` volumes that lie side by side at a time."""
        stream: CohortStream = _torch_datasets().CohortStream(self.dataset(transform, indices, where), block, shuffle)
        return stream

    def document(self, name: str) -> bytes:
        """A file of the release by its name in the manifest."""
        return self._files.read(name)

    def each(self, function: Callable[[int], Result], items: Sequence[int]) -> list[Result]:
        """`function`, which reads a volume, of each item: on as many threads as there are cores, for large volumes.

        Decoding leaves Python's lock alone. Small volumes are read sooner than threads take turns.
        """
        if len(items) < 2 or math.prod(self.contract["size"]) < LARGE:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:
            return list(pool.map(function, items))

    @cached_property
    def _files(self) -> CheckedObjects:
        return CheckedObjects(self.source, self.manifest.files, self.check, self.cache)

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return public_attributes(parse_json(self._files.read(f"{COHORT}/zarr.json"), f"{COHORT}/zarr.json"))

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {str(name): _plain(self.table[name]) for name in self.table.columns}

    def _read(self, name: str, index: SupportsIndex) -> NDArray[Any]:
        """(z, y, x), decoded from bytes that the manifest knows."""
        row = position_of(index, len(self))
        try:
            return decode_volume(self.array(name), self.chunk(name, row))
        except IntegrityError as error:
            file = f"{COHORT}/{name}/{chunk_key(self.array(name), row)}"
            raise IntegrityError(f"volume {row}: {error if file in str(error) else f'{file}: {error}'}") from error

    def chunk(self, name: str, index: SupportsIndex) -> bytes:
        """Volume `index` of an array as it lies in the store: compressed, and as the manifest knows it."""
        return self._files.read(f"{COHORT}/{name}/{chunk_key(self.array(name), position_of(index, len(self)))}")

    def _read_many(self, name: str, indices: Indices | None, dtype: type[np.generic]) -> NDArray[Any]:
        chosen = range(len(self)) if indices is None else positions_of(indices, len(self))
        stacked = np.empty((len(chosen), *self.array(name).shape[1:]), dtype)

        def fill(place: int) -> None:
            stacked[place] = self._read(name, chosen[place])

        self.each(fill, range(len(chosen)))
        return stacked.transpose(0, 3, 2, 1)

    def array(self, name: str) -> zarr.Array[Any]:
        """What the array's own metadata say, not the copy of them in the root."""
        if name not in self._arrays:
            described = f"{COHORT}/{name}/zarr.json"
            if described not in self.manifest.files:
                raise IntegrityError(f"{described}: not in the manifest")
            try:
                array = zarr.open_array(self.store, path=name, mode="r", zarr_format=3)
            except MeddiffError:
                raise
            except Exception as error:  # each kind of nonsense raises its own
                raise IntegrityError(f"{COHORT}/{name} must be an array: {type(error).__name__}") from error
            shape = (len(self), *self.contract["size"][::-1])
            if array.shape != shape and (name in (IMAGE, LABEL) or array.ndim != 4 or array.shape[0] != len(self)):
                raise IntegrityError(f"{COHORT}/{name} must have the shape {shape}, has {array.shape}")
            self._arrays[name] = array
        return self._arrays[name]


def _torch_datasets() -> Any:
    try:
        from meddiff_core.release import dataset
    except ModuleNotFoundError as error:
        raise MeddiffError(
            f"a data set of torch needs torch, found no module {error.name}: pip install torch"
        ) from error
    return dataset


def _plain(column: "pd.Series[Any]") -> NDArray[Any]:
    """Numbers with NaN, or words with `n/a`, as an array whose every item is a plain value of Python."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan) if column.hasnans else column.to_numpy()
    return column.astype(object).where(column.notna(), "n/a").astype(str).to_numpy(dtype=np.str_)
